-- Posts, their log and queues, and the documents of a QStash server (batchflow.core.posts).

-- The log. Keys grow and are not used again: they are places in listings.
CREATE TABLE post_log (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    message TEXT NOT NULL,
    tenant TEXT NOT NULL,
    state TEXT NOT NULL,
    at INTEGER NOT NULL,
    detail TEXT NOT NULL
);
CREATE INDEX post_log_tenant ON post_log (tenant);
CREATE INDEX post_log_message ON post_log (message);
-- With the message, so that retention passes over old entries of open posts without reading them.
CREATE INDEX post_log_at ON post_log (at, message);

-- Posts that have not ended, each by the key of its CREATED entry.
CREATE TABLE open_post (
    key INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    message TEXT NOT NULL UNIQUE
);
CREATE INDEX open_post_tenant ON open_post (tenant);

-- Deduplication keys: until a time, posts with the key are taken for this one.
CREATE TABLE post_dedup (
    key TEXT PRIMARY KEY,
    message TEXT NOT NULL,
    until INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX post_dedup_until ON post_dedup (until);

-- AUTOINCREMENT: posts of a dropped queue that are under way have no place in a later one.
CREATE TABLE queue (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    parallelism INTEGER NOT NULL,
    paused INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (tenant, name)
);

-- Posts that wait for a place in their queue, in their order. row: the message that is published then, as JSON.
CREATE TABLE queued_post (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    queue INTEGER NOT NULL,
    message TEXT NOT NULL UNIQUE,
    row TEXT NOT NULL
);
CREATE INDEX queued_post_queue ON queued_post (queue);

-- Posts that have a place in their queue.
CREATE TABLE queue_place (
    message TEXT PRIMARY KEY,
    queue INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX queue_place_queue ON queue_place (queue);

CREATE TABLE document (
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    text TEXT NOT NULL,
    version INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (kind, name)
) WITHOUT ROWID;
