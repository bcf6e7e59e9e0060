-- Dead letters can be searched and grouped, and have their attempts and the state of their failure function.

-- Of a message. log: its latest failed attempts as a JSON array, the latest first: [at, took in ms or null, error].
ALTER TABLE message ADD COLUMN log TEXT;

-- Of a dead letter. status, fingerprint: of its error. failure: the latest call of its failure function as a JSON array:
-- [id of its message, number of the call, state, since, result, error]; NULL without one.
ALTER TABLE message ADD COLUMN status INTEGER;
ALTER TABLE message ADD COLUMN fingerprint TEXT;
ALTER TABLE message ADD COLUMN failure TEXT;
