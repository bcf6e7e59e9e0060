-- The schema of 0.1.0. Its number is above those of earlier versions, whose files are refused.
-- Keys of tables with many rows are small integers; text ids are made by callers and sort in the order of creation.

CREATE TABLE worker (
    key INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    lease_until INTEGER NOT NULL,
    since INTEGER NOT NULL,
    seen_at INTEGER NOT NULL,
    concurrency INTEGER NOT NULL
);

-- turn: the latest turn that was given; flow keys and lanes are served in the order of their latest turn.
CREATE TABLE counter (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO counter (name, value) VALUES ('turn', 0);

-- A flow key: the limits of the code, the limits that an operator has pinned (NULL: none), and the slots in use.
-- declared: the code declares it, so that it is kept and messages do not change its limits.
-- next_start: the first free start time, in ms with a fraction (batchflow.core.flow).
CREATE TABLE flow (
    key TEXT PRIMARY KEY,
    declared INTEGER NOT NULL DEFAULT 0,
    parallelism INTEGER,
    rate INTEGER,
    period INTEGER NOT NULL DEFAULT 1000,
    burst INTEGER NOT NULL DEFAULT 1,
    pin_parallelism INTEGER,
    pin_rate INTEGER,
    pin_period INTEGER,
    paused INTEGER NOT NULL DEFAULT 0,
    in_use INTEGER NOT NULL DEFAULT 0,
    next_start REAL NOT NULL DEFAULT 0,
    parked_until INTEGER NOT NULL DEFAULT 0,
    turn INTEGER NOT NULL DEFAULT 0,
    max_parallelism INTEGER AS (coalesce(pin_parallelism, parallelism)) VIRTUAL,
    max_rate INTEGER AS (coalesce(pin_rate, rate)) VIRTUAL,
    max_period INTEGER AS (CASE WHEN pin_rate IS NULL THEN period ELSE pin_period END) VIRTUAL,
    max_burst INTEGER AS (CASE WHEN pin_rate IS NULL THEN burst ELSE 1 END) VIRTUAL
) WITHOUT ROWID;

-- A lane, the queue of one destination under one flow key for one batch (0: none). held: 1 if its messages are held back
-- until the batch is walked. closed: bits of the reasons why it cannot be claimed: 1 held back, 2 paused, 4 cancelled.
-- ready_at: when its earliest message is due, NULL if empty. turn: when it was served last. ahead: how far started
-- messages have run ahead of fresh ones (batchflow.core.flow.share).
CREATE TABLE lane (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    destination TEXT NOT NULL,
    flow TEXT NOT NULL,
    batch INTEGER NOT NULL DEFAULT 0,
    held INTEGER NOT NULL DEFAULT 0,
    closed INTEGER NOT NULL DEFAULT 0,
    ready_at INTEGER,
    turn INTEGER NOT NULL DEFAULT 0,
    ahead INTEGER NOT NULL DEFAULT 0,
    UNIQUE (destination, flow, batch, held)
);
CREATE INDEX lane_ready ON lane (ready_at) WHERE ready_at IS NOT NULL AND closed = 0;
CREATE INDEX lane_flow ON lane (flow);
CREATE INDEX lane_batch ON lane (batch);
CREATE INDEX lane_broken ON lane (key) WHERE held = 1 AND closed >= 4;

-- stage: 0 fresh, 1 started once, 2 lost so often that it is claimed alone, 3 a dead letter.
-- due: 0 means at once, whatever the clock. owner: the worker that holds the claim, NULL if none does. number: -1, or the
-- item's number in its batch. keep: 1 for a run that is kept when it has ended, plus 2 for a dead letter. parent,
-- parent_step: the run and the step that wait for the end. linked: it waits for events, webhooks or children, which its
-- end clears away. started_at: the time of the first claim.
CREATE TABLE message (
    id TEXT PRIMARY KEY,
    lane INTEGER NOT NULL,
    stage INTEGER NOT NULL DEFAULT 0,
    due INTEGER NOT NULL,
    owner INTEGER,
    fence INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0,
    losses INTEGER NOT NULL DEFAULT 0,
    cancelled INTEGER NOT NULL DEFAULT 0,
    batch INTEGER,
    number INTEGER NOT NULL DEFAULT -1,
    keep INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    died_at INTEGER,
    body TEXT NOT NULL DEFAULT 'null',
    headers TEXT,
    retry TEXT,
    label TEXT,
    parent TEXT,
    parent_step INTEGER,
    depth INTEGER NOT NULL DEFAULT 0,
    linked INTEGER NOT NULL DEFAULT 0,
    on_failure TEXT,
    open_dedup TEXT,
    error TEXT
) WITHOUT ROWID;
CREATE INDEX message_ready ON message (lane, stage, due, id) WHERE owner IS NULL;
CREATE INDEX message_suspect ON message (owner, due, id) WHERE stage = 2;
CREATE INDEX message_owner ON message (owner) WHERE owner IS NOT NULL;
CREATE INDEX message_parent ON message (parent) WHERE parent IS NOT NULL;
CREATE INDEX message_kept ON message (created_at, id) WHERE keep > 0;
CREATE INDEX message_kept_lane ON message (lane) WHERE keep = 1;
CREATE INDEX message_label ON message (label) WHERE label IS NOT NULL;
CREATE INDEX message_dead ON message (died_at, id) WHERE died_at IS NOT NULL;
CREATE INDEX message_dedup ON message (open_dedup) WHERE open_dedup IS NOT NULL;

-- position: 0 while pending, else the position in the order of recorded outcomes.
CREATE TABLE step (
    run TEXT NOT NULL,
    number INTEGER NOT NULL,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    position INTEGER NOT NULL,
    value TEXT,
    error TEXT,
    failures INTEGER NOT NULL,
    due INTEGER NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (run, number)
) WITHOUT ROWID;

-- Arrivals for waiting steps, until a claim of the run records them.
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

-- Steps that wait for an event. until: 0 means without a limit.
CREATE TABLE listener (
    run TEXT NOT NULL,
    number INTEGER NOT NULL,
    event TEXT NOT NULL,
    since INTEGER NOT NULL,
    until INTEGER NOT NULL,
    PRIMARY KEY (run, number)
) WITHOUT ROWID;
CREATE INDEX listener_event ON listener (event, run);

-- Events for one run, which does not wait for them yet.
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

-- Ended runs that are kept until retention removes them.
CREATE TABLE run (
    id TEXT PRIMARY KEY,
    destination TEXT NOT NULL,
    state TEXT NOT NULL,
    batch INTEGER,
    payload TEXT NOT NULL,
    result TEXT,
    error TEXT,
    failures INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    ended_at INTEGER NOT NULL,
    label TEXT,
    parent TEXT
) WITHOUT ROWID;
CREATE INDEX run_ended ON run (ended_at);
CREATE INDEX run_created ON run (created_at, id);

CREATE TABLE workflow (
    key INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
);

-- entered: the entry layer has ended. working: messages of its layers that have not ended. lane: the lane of its items.
-- generation: 1, and one more each time the batch continued after it had ended.
-- AUTOINCREMENT: the key of a removed batch is never reused, since dead letters would seem to belong to the new batch.
CREATE TABLE batch (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    workflow INTEGER NOT NULL,
    ledger INTEGER NOT NULL,
    state TEXT NOT NULL,
    paused INTEGER NOT NULL DEFAULT 0,
    lane INTEGER NOT NULL DEFAULT 0,
    params TEXT NOT NULL,
    headers TEXT,
    complete TEXT,
    complete_flow TEXT NOT NULL,
    on_failure TEXT,
    ledger_ttl INTEGER,
    keep_results INTEGER NOT NULL,
    force INTEGER NOT NULL,
    named INTEGER NOT NULL,
    label TEXT,
    open_dedup TEXT,
    parent TEXT,
    parent_step INTEGER,
    depth INTEGER NOT NULL DEFAULT 0,
    generation INTEGER NOT NULL DEFAULT 1,
    error TEXT,
    entered INTEGER NOT NULL DEFAULT 0,
    working INTEGER NOT NULL DEFAULT 0,
    pages INTEGER NOT NULL DEFAULT 0,
    chunks INTEGER NOT NULL DEFAULT 0,
    total INTEGER,
    eligible INTEGER NOT NULL DEFAULT 0,
    open INTEGER NOT NULL DEFAULT 0,
    succeeded INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    cancelled INTEGER NOT NULL DEFAULT 0,
    already_processed INTEGER NOT NULL DEFAULT 0,
    in_flight INTEGER NOT NULL DEFAULT 0,
    duplicates INTEGER NOT NULL DEFAULT 0,
    left_out INTEGER NOT NULL DEFAULT 0,
    worked_ms REAL NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    ended_at INTEGER
);
CREATE INDEX batch_workflow ON batch (workflow, key);
CREATE INDEX batch_label ON batch (label, key) WHERE label IS NOT NULL;
CREATE INDEX batch_parent ON batch (parent) WHERE parent IS NOT NULL;
CREATE INDEX batch_dedup ON batch (open_dedup) WHERE open_dedup IS NOT NULL AND ended_at IS NULL;
CREATE INDEX batch_unfinished ON batch (key) WHERE ended_at IS NULL;
CREATE INDEX batch_cancelling ON batch (key) WHERE state = 'cancelling';
CREATE INDEX batch_ended ON batch (ended_at) WHERE ended_at IS NOT NULL;

-- data: the data that fetch returned for the item, until it has succeeded.
CREATE TABLE item (
    batch INTEGER NOT NULL,
    number INTEGER NOT NULL,
    id TEXT NOT NULL,
    state TEXT NOT NULL,
    data TEXT,
    result TEXT,
    error TEXT,
    ended_at INTEGER,
    PRIMARY KEY (batch, number)
) WITHOUT ROWID;
CREATE UNIQUE INDEX item_id ON item (batch, id);

-- Ledgers: one for each workflow, or one for each of its scopes.
CREATE TABLE ledger (
    key INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
);

-- processed_at: NULL for an item that is only in flight. holder: the batch that has it in flight.
CREATE TABLE mark (
    ledger INTEGER NOT NULL,
    item TEXT NOT NULL,
    processed_at INTEGER,
    expires_at INTEGER,
    holder INTEGER,
    PRIMARY KEY (ledger, item)
) WITHOUT ROWID;
CREATE INDEX mark_expiry ON mark (expires_at) WHERE expires_at IS NOT NULL;
