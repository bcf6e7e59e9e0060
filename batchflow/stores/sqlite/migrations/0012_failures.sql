-- Failures can be seen: the reasons for which items wait, the attempts of each, and the errors of a batch in groups.

-- Of a message. waits: 1 while it waits after a failed attempt, 2 while it waits since it raised RateLimited, else 0.
-- attempts: the failed and lost ones, those of its steps among them.
ALTER TABLE message ADD COLUMN waits INTEGER NOT NULL DEFAULT 0;
ALTER TABLE message ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;

-- Of an item: the same attempts. The error of an open item is that of the last one.
ALTER TABLE item ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;

-- Of a batch. completion_error: the reason why its completion has failed for good.
ALTER TABLE batch ADD COLUMN retrying INTEGER NOT NULL DEFAULT 0;
ALTER TABLE batch ADD COLUMN parked INTEGER NOT NULL DEFAULT 0;
ALTER TABLE batch ADD COLUMN completion_error TEXT;

-- The failures of a batch with the same exception type and the same last line of the user's code (place). items: those
-- that failed an item for good. message, number, at: of the latest one; number -1 if it was not an item's.
CREATE TABLE failure (
    batch INTEGER NOT NULL,
    type TEXT NOT NULL,
    place TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    items INTEGER NOT NULL,
    message TEXT NOT NULL,
    number INTEGER NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (batch, type, place)
) WITHOUT ROWID;

-- Attempts that had failed before are counted as far as they are known.
UPDATE message SET waits = 1 WHERE owner IS NULL AND stage < 3 AND number >= 0 AND error IS NOT NULL;
UPDATE message SET attempts = failures + losses WHERE failures + losses > 0;
UPDATE item SET attempts = 1 WHERE state = 'failed';
UPDATE batch SET retrying = (
    SELECT count(*) FROM lane l CROSS JOIN message m ON m.lane = l.key AND m.owner IS NULL AND m.stage < 3
    WHERE l.batch = batch.key AND m.waits = 1)
WHERE ended_at IS NULL;
