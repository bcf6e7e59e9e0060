-- Batches have a priority. That of a lane is its batch's, and 0 for messages of no batch.
ALTER TABLE batch ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
ALTER TABLE lane ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
