-- The end of a batch is sent to a URL.

-- Of a batch. notifications: their number so far. notification: the latest one as a JSON array: [state, since, error];
-- NULL before its end.
ALTER TABLE batch ADD COLUMN notify_url TEXT;
ALTER TABLE batch ADD COLUMN notifications INTEGER NOT NULL DEFAULT 0;
ALTER TABLE batch ADD COLUMN notification TEXT;
