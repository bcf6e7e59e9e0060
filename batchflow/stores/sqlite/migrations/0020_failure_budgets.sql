-- The failure budget of a batch, and the reason for which it was stopped.

-- failure_budget: [max_failures, max_rate, min_items, action] as JSON, NULL: none. budget_succeeded, budget_failed: the
-- counts from which it counts on, those of the latest resume. stop_reason: why the batch is paused or was cancelled;
-- NULL: an operator did it.
ALTER TABLE batch ADD COLUMN failure_budget TEXT;
ALTER TABLE batch ADD COLUMN budget_succeeded INTEGER NOT NULL DEFAULT 0;
ALTER TABLE batch ADD COLUMN budget_failed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE batch ADD COLUMN stop_reason TEXT;
