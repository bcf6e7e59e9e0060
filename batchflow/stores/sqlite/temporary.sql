-- What each connection has for itself, gone with it.

-- The destinations that workers of this process serve: a list for each of them.
CREATE TEMP TABLE served (
    list INTEGER NOT NULL,
    destination TEXT NOT NULL,
    PRIMARY KEY (list, destination)
) WITHOUT ROWID;
