-- The destinations that a worker serves, as a JSON array in their order; NULL if it has not reported them.
ALTER TABLE worker ADD COLUMN serves TEXT;
