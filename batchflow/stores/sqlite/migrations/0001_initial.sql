-- Keys are small integers where rows are many; text ids are made by callers and sort in the order they are made.

CREATE TABLE worker (
    key INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    lease_until INTEGER NOT NULL
);

-- A flow key: the limits the code gives, those an operator pinned over them, and what is in use.
-- next_start: the first start not yet given away, in ms with their fraction (batchflow.core.flow).
CREATE TABLE flow (
    key TEXT PRIMARY KEY,
    parallelism INTEGER,
    rate INTEGER,
    period INTEGER NOT NULL DEFAULT 1000,
    pinned INTEGER NOT NULL DEFAULT 0,
    pin_parallelism INTEGER,
    pin_rate INTEGER,
    pin_period INTEGER NOT NULL DEFAULT 1000,
    paused INTEGER NOT NULL DEFAULT 0,
    in_use INTEGER NOT NULL DEFAULT 0,
    next_start REAL NOT NULL DEFAULT 0,
    parked_until INTEGER NOT NULL DEFAULT 0,
    turn INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;

-- A lane: the messages of one destination that wait under one flow key. ready_at: the earliest of them, NULL for none.
CREATE TABLE lane (
    key INTEGER PRIMARY KEY,
    destination TEXT NOT NULL,
    flow TEXT NOT NULL,
    ready_at INTEGER,
    UNIQUE (destination, flow)
);
CREATE INDEX lane_ready ON lane (ready_at) WHERE ready_at IS NOT NULL;

-- owner: the worker that holds the claim, NULL while the message waits. number: -1, or the item's place in its batch.
CREATE TABLE message (
    id TEXT PRIMARY KEY,
    lane INTEGER NOT NULL,
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
    body TEXT NOT NULL DEFAULT 'null',
    headers TEXT,
    retry TEXT,
    error TEXT
) WITHOUT ROWID;
CREATE INDEX message_ready ON message (lane, due, id) WHERE owner IS NULL;
CREATE INDEX message_owner ON message (owner) WHERE owner IS NOT NULL;

-- position: 0 while pending, else the place in the order of recorded outcomes.
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
    PRIMARY KEY (run, number)
) WITHOUT ROWID;

-- Finished runs that are kept, until retention removes them.
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
    ended_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX run_ended ON run (ended_at);

-- number: -1, or the item's place in its batch. journal: JSON rows of the steps.
CREATE TABLE dead_letter (
    id TEXT PRIMARY KEY,
    destination TEXT NOT NULL,
    batch INTEGER,
    number INTEGER NOT NULL,
    item TEXT,
    payload TEXT NOT NULL,
    error TEXT NOT NULL,
    failures INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    died_at INTEGER NOT NULL,
    journal TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX dead_letter_died ON dead_letter (died_at);

CREATE TABLE workflow (
    key INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
);

-- entered: the entry layer is through. working: layer messages that are not done. lane: where its items wait.
-- AUTOINCREMENT: the key of a batch that was removed is not given to another, for which dead letters would be taken.
CREATE TABLE batch (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    workflow INTEGER NOT NULL,
    state TEXT NOT NULL,
    lane INTEGER NOT NULL,
    params TEXT NOT NULL,
    complete TEXT,
    complete_flow TEXT NOT NULL,
    ledger_ttl INTEGER,
    keep_results INTEGER NOT NULL,
    force INTEGER NOT NULL,
    label TEXT,
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
CREATE INDEX batch_unfinished ON batch (key) WHERE ended_at IS NULL;
CREATE INDEX batch_cancelling ON batch (key) WHERE state = 'cancelling';
CREATE INDEX batch_ended ON batch (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE item (
    batch INTEGER NOT NULL,
    number INTEGER NOT NULL,
    id TEXT NOT NULL,
    state TEXT NOT NULL,
    result TEXT,
    error TEXT,
    ended_at INTEGER,
    PRIMARY KEY (batch, number)
) WITHOUT ROWID;
CREATE UNIQUE INDEX item_id ON item (batch, id);

-- processed_at: NULL for an item that is only in flight. holder: the batch that has it in flight.
CREATE TABLE ledger (
    workflow INTEGER NOT NULL,
    item TEXT NOT NULL,
    processed_at INTEGER,
    expires_at INTEGER,
    holder INTEGER,
    PRIMARY KEY (workflow, item)
) WITHOUT ROWID;
CREATE INDEX ledger_expiry ON ledger (expires_at) WHERE expires_at IS NOT NULL;
