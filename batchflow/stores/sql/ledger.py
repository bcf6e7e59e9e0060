"""The ledgers: marks of processed items."""

from collections.abc import Sequence

from batchflow.core.batch import Mark
from batchflow.stores.sql.transaction import Tx


def key_of(tx: Tx, name: str) -> int:
    """The key of a ledger, created on first use."""
    key = _known(tx, name)
    if key is None:
        tx.run("ledger_add", name=name)
        key = _known(tx, name)
        assert key is not None
    return key


def _known(tx: Tx, name: str) -> int | None:
    return tx.one("ledger_key", name=name)


def processed(tx: Tx, ledger: str, ids: Sequence[str]) -> frozenset[str]:
    """The ones of `ids` that are processed."""
    key = _known(tx, ledger)
    if key is None:
        return frozenset()
    return frozenset(tx.json_rows("mark_read", [(id,) for id in ids], ledger=key, now=tx.now))


def mark(tx: Tx, ledger: str, ids: Sequence[str], ttl_ms: int | None) -> None:
    """Mark ids as processed."""
    expires_at = None if ttl_ms is None else tx.now + ttl_ms
    tx.run_rows("mark_put", [(id,) for id in ids], ledger=key_of(tx, ledger), now=tx.now, expires_at=expires_at)


def forget(tx: Tx, ledger: str, ids: Sequence[str] | None) -> int:
    """Remove marks, and return how many."""
    key = _known(tx, ledger)
    if key is None:
        return 0
    if ids is None:
        return tx.run("mark_forget_all", ledger=key) + tx.run("mark_forget_all_held", ledger=key)
    rows = [(id,) for id in ids]
    return tx.run_rows("mark_forget", rows, ledger=key) + tx.run_rows("mark_forget_held", rows, ledger=key)


def ledgers(tx: Tx) -> list[str]:
    """The names of the ledgers that are not empty."""
    return tx.json("ledger_list")


def marks(tx: Tx, ledger: str, after: str | None, limit: int) -> list[Mark]:
    """Marks of a ledger, by id."""
    key = _known(tx, ledger)
    found = [] if key is None else tx.json("mark_list", ledger=key, after=after or "", limit=limit, now=tx.now)
    return [Mark(item, expires_at) for item, expires_at in found]
