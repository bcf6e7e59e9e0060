-- The ledger of a file that was made before 0.1.0. What is only in flight has no time at which it was processed.
SELECT w.name, l.item, l.expires_at
FROM ledger l JOIN workflow w ON w.key = l.workflow
WHERE l.processed_at IS NOT NULL AND (l.expires_at IS NULL OR l.expires_at > ?)
ORDER BY w.name, l.item;
