"""The ledger: which items of a workflow are processed."""

from collections.abc import Sequence

from pydantic_core import to_json

from batchflow.stores.sqlite import batches
from batchflow.stores.sqlite.transaction import Tx


def processed(tx: Tx, workflow: str, ids: Sequence[str]) -> frozenset[str]:
    """Those of `ids` that are processed."""
    return frozenset(tx.json("ledger_processed", workflow=workflow, ids=to_json(list(ids)).decode(), now=tx.now))


def mark(tx: Tx, workflow: str, ids: Sequence[str], ttl_ms: int | None) -> None:
    """Mark ids as processed."""
    expires_at = None if ttl_ms is None else tx.now + ttl_ms
    key = batches.workflow_key(tx, workflow)
    tx.run_rows("ledger_mark", [(id,) for id in ids], workflow=key, now=tx.now, expires_at=expires_at)


def forget(tx: Tx, workflow: str, ids: Sequence[str] | None) -> int:
    """Take marks away; how many."""
    key = batches.workflow_key(tx, workflow)
    if ids is None:
        return tx.run("ledger_forget_all", workflow=key) + tx.run("ledger_forget_all_held", workflow=key)
    rows = [(id,) for id in ids]
    gone = tx.run_rows("ledger_forget", rows, workflow=key)
    return gone + tx.run_rows("ledger_forget_held", rows, workflow=key)
