-- text: the definition as JSON. version: grows with every change. queued_at: the fire that waits for the end of the
-- previous one.
CREATE TABLE schedule (
    id TEXT PRIMARY KEY,
    destination TEXT NOT NULL,
    text TEXT NOT NULL,
    version INTEGER NOT NULL,
    paused INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    next_at INTEGER,
    last_at INTEGER,
    last_id TEXT,
    fires INTEGER NOT NULL DEFAULT 0,
    skips INTEGER NOT NULL DEFAULT 0,
    skipped_at INTEGER,
    queued_at INTEGER,
    error TEXT
) WITHOUT ROWID;
CREATE INDEX schedule_next ON schedule (next_at) WHERE next_at IS NOT NULL AND paused = 0;
CREATE INDEX schedule_queued ON schedule (id) WHERE queued_at IS NOT NULL AND paused = 0;
