-- Temporary tables, one set for each connection.

-- The destinations that workers of this process serve, as numbered lists.
CREATE TEMP TABLE served (
    list INTEGER NOT NULL,
    destination TEXT NOT NULL,
    PRIMARY KEY (list, destination)
) WITHOUT ROWID;
