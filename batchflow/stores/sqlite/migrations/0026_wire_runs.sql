-- Workflow runs of QStash (batchflow.core.wire_runs).

-- entries, size: the number of its entries and the characters of their bodies.
CREATE TABLE wire_run (
    key INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    url TEXT NOT NULL,
    state TEXT NOT NULL,
    config TEXT NOT NULL,
    invoker TEXT,
    created_at INTEGER NOT NULL,
    ended_at INTEGER,
    result TEXT,
    entries INTEGER NOT NULL,
    size INTEGER NOT NULL,
    UNIQUE (tenant, id)
);
CREATE INDEX wire_run_created ON wire_run (tenant, created_at, id);
CREATE INDEX wire_run_ended ON wire_run (ended_at) WHERE ended_at IS NOT NULL;

-- seq: from 1 in each run.
CREATE TABLE wire_entry (
    run INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    message TEXT NOT NULL,
    text TEXT NOT NULL,
    base64 INTEGER NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (run, seq)
);

-- The posts of runs, in the order of their keys. entry: the last entry that the post delivers, 0 for none.
CREATE TABLE wire_member (
    key INTEGER PRIMARY KEY,
    run INTEGER NOT NULL,
    message TEXT NOT NULL,
    entry INTEGER NOT NULL,
    at INTEGER NOT NULL,
    UNIQUE (run, message)
);

-- The posts that wait for an event, those that have waited longest first.
CREATE TABLE wire_wait (
    key INTEGER PRIMARY KEY,
    run INTEGER NOT NULL,
    message TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    event TEXT NOT NULL,
    head TEXT NOT NULL,
    due INTEGER NOT NULL,
    about TEXT NOT NULL
);
CREATE INDEX wire_wait_event ON wire_wait (tenant, event);
CREATE INDEX wire_wait_run ON wire_wait (run, event);

-- Events that came before a post of their run waited for them.
CREATE TABLE wire_kept_event (
    key INTEGER PRIMARY KEY,
    run INTEGER NOT NULL,
    event TEXT NOT NULL,
    tail TEXT NOT NULL
);
CREATE INDEX wire_kept_event_run ON wire_kept_event (run, event);
