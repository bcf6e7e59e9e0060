"""What retention removes."""

from batchflow.stores.sql.transaction import Tx


def prune(tx: Tx, retention_ms: int, limit: int) -> int:
    """Remove one slice of what is older than the retention."""
    before = tx.now - retention_ms
    gone = tx.run("prune_marks", now=tx.now, limit=limit)
    tx.run("prune_steps", before=before, limit=limit)
    gone += tx.run("prune_runs", before=before, limit=limit)
    tx.run("prune_dead_steps", before=before, limit=limit)
    gone += tx.run("prune_dead_letters", before=before, limit=limit)
    key = tx.one("prune_batch_pick", before=before)
    if key is not None:
        gone += tx.run("prune_items", batch=key, limit=limit)
        if tx.run("prune_batch", batch=key):
            tx.run("lanes_drop", batch=key)
            gone += 1
            tx.forget()
    return gone
