-- The ledger of a file made before 0.1.0. An item that is only in flight has no `processed_at`.
SELECT w.name, l.item, l.expires_at
FROM ledger l JOIN workflow w ON w.key = l.workflow
WHERE l.processed_at IS NOT NULL AND (l.expires_at IS NULL OR l.expires_at > ?)
ORDER BY w.name, l.item;
