-- parent, parent_step: the run and the step that wait for the end. linked: it waits or is waited for, so that its end
-- has more to clear away. started_at: when it was claimed for the first time.
ALTER TABLE message ADD COLUMN parent TEXT;
ALTER TABLE message ADD COLUMN parent_step INTEGER;
ALTER TABLE message ADD COLUMN depth INTEGER NOT NULL DEFAULT 0;
ALTER TABLE message ADD COLUMN linked INTEGER NOT NULL DEFAULT 0;
ALTER TABLE message ADD COLUMN label TEXT;
ALTER TABLE message ADD COLUMN started_at INTEGER;
CREATE INDEX message_parent ON message (parent) WHERE parent IS NOT NULL;
CREATE INDEX message_kept ON message (created_at, id) WHERE keep = 1;
CREATE INDEX message_kept_lane ON message (lane) WHERE keep = 1;
CREATE INDEX message_label ON message (label) WHERE label IS NOT NULL;

ALTER TABLE step ADD COLUMN at INTEGER NOT NULL DEFAULT 0;

ALTER TABLE run ADD COLUMN label TEXT;
ALTER TABLE run ADD COLUMN started_at INTEGER;
ALTER TABLE run ADD COLUMN parent TEXT;
CREATE INDEX run_created ON run (created_at, id);

ALTER TABLE dead_letter ADD COLUMN label TEXT;
ALTER TABLE dead_letter ADD COLUMN started_at INTEGER;
ALTER TABLE dead_letter ADD COLUMN parent TEXT;
CREATE INDEX dead_letter_created ON dead_letter (created_at, id);

ALTER TABLE batch ADD COLUMN parent TEXT;
ALTER TABLE batch ADD COLUMN parent_step INTEGER;
ALTER TABLE batch ADD COLUMN depth INTEGER NOT NULL DEFAULT 0;
CREATE INDEX batch_parent ON batch (parent) WHERE parent IS NOT NULL;

-- What came in for a step that waits, until a claim of its run records it.
CREATE TABLE arrival (
    key INTEGER PRIMARY KEY,
    run TEXT NOT NULL,
    number INTEGER NOT NULL,
    state TEXT NOT NULL,
    value TEXT,
    error TEXT,
    at INTEGER NOT NULL
);
CREATE INDEX arrival_run ON arrival (run);

-- Steps that wait for an event. until: 0 for as long as it takes.
CREATE TABLE listener (
    run TEXT NOT NULL,
    number INTEGER NOT NULL,
    event TEXT NOT NULL,
    since INTEGER NOT NULL,
    until INTEGER NOT NULL,
    PRIMARY KEY (run, number)
) WITHOUT ROWID;
CREATE INDEX listener_event ON listener (event, run);

-- Events for one run that it does not wait for yet.
CREATE TABLE kept_event (
    key INTEGER PRIMARY KEY,
    run TEXT NOT NULL,
    event TEXT NOT NULL,
    data TEXT NOT NULL,
    at INTEGER NOT NULL
);
CREATE INDEX kept_event_run ON kept_event (run, event, key);

CREATE TABLE webhook (
    token TEXT PRIMARY KEY,
    run TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX webhook_run ON webhook (run);
