-- Circuit breakers of flow keys.

-- Of a flow key (batchflow.core.breaker). in_a_row: attempts that have failed since the last success. open_for: for how long
-- a failed trial parks the key again; 0: the breaker is closed. trial: the message that is tried now.
ALTER TABLE flow ADD COLUMN in_a_row INTEGER NOT NULL DEFAULT 0;
ALTER TABLE flow ADD COLUMN open_for INTEGER NOT NULL DEFAULT 0;
ALTER TABLE flow ADD COLUMN trial TEXT;
