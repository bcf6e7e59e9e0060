-- Retries: batches that run items of another batch again, or what is missing there.

-- Of a batch. retry_of: the id of the batch that it retries, which is never a retry itself. replaced_…: the earlier runs of
-- its items, by the state in which each had ended. recovered: its items that had not succeeded before, and have in it.
ALTER TABLE batch ADD COLUMN retry_of TEXT;
ALTER TABLE batch ADD COLUMN replaced_succeeded INTEGER NOT NULL DEFAULT 0;
ALTER TABLE batch ADD COLUMN replaced_failed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE batch ADD COLUMN replaced_cancelled INTEGER NOT NULL DEFAULT 0;
ALTER TABLE batch ADD COLUMN recovered INTEGER NOT NULL DEFAULT 0;
CREATE INDEX batch_retry ON batch (retry_of, key) WHERE retry_of IS NOT NULL;

-- Items of a batch (origin) that a retry has started: the latest run of each, and the state in which the one before it had
-- ended (replaced; NULL: there was none).
CREATE TABLE retried_item (
    origin INTEGER NOT NULL,
    item TEXT NOT NULL,
    batch INTEGER NOT NULL,
    number INTEGER NOT NULL,
    replaced TEXT,
    PRIMARY KEY (origin, item)
) WITHOUT ROWID;
