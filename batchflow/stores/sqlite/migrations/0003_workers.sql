-- What is told of a worker: since when, its last heartbeat, how many claims it means to have. 0: it has not told.
ALTER TABLE worker ADD COLUMN since INTEGER NOT NULL DEFAULT 0;
ALTER TABLE worker ADD COLUMN seen_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE worker ADD COLUMN concurrency INTEGER NOT NULL DEFAULT 0;
