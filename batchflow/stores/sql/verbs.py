"""Which function carries out which verb."""

from collections.abc import Callable
from typing import Any

from batchflow.stores.sql import (
    batches,
    cancelling,
    claims,
    flows,
    ledger,
    messages,
    pruning,
    settling,
    steps,
    waiting,
)
from batchflow.stores.sql.transaction import Tx
from batchflow.stores.sqlite.locks import WorkerLocks
from batchflow.stores.sqlite.writer import Verb


def table(locks: WorkerLocks) -> dict[str, Verb]:
    """The verbs."""

    def expire(tx: Tx) -> int:
        return sum(
            _forget(tx, key, lost=True)
            for key, name, lease_until in tx.json("worker_all")
            if lease_until <= tx.now or locks.is_free(name)
        )

    return {
        "enlist": _each(claims.enlist),
        "declare": _each(flows.declare),
        "pin": _each(flows.pin),
        "unpin": _each(flows.unpin),
        "pause": _each(flows.pause),
        "resume": _each(flows.resume),
        "open_batch": _each(batches.open_batch),
        "record": steps.record,
        "record_with_effects": steps.record_with_effects,
        "settle": lambda tx, calls: settling.settle(tx, [settlement for (settlement,) in calls]),
        "publish": _each(messages.publish),
        "renew": _each(_renew),
        "dismiss": _each(_dismiss),
        "expire": _each(expire),
        "notify": _each(waiting.notify),
        "cancel_run": _each(cancelling.cancel_run),
        "cancel_all": _each(cancelling.cancel_all),
        "cancel_batch": _each(cancelling.begin_cancel),
        "pause_batch": _each(cancelling.pause_batch),
        "resume_batch": _each(cancelling.resume_batch),
        "redrive": _each(messages.redrive),
        "remove_idle": _each(flows.remove_idle),
        "sweep_cancelled": _each(cancelling.sweep_cancelled),
        "mark": _each(ledger.mark),
        "forget": _each(ledger.forget),
        "prune": _each(pruning.prune),
        "claim": _each(claims.claim),
        "read": _each(_read),
    }


def _each(verb: Callable[..., Any]) -> Verb:
    """A verb whose calls are carried out one by one."""
    return lambda tx, calls: [verb(tx, *arguments) for arguments in calls]


def _read(tx: Tx, read: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return read(tx, *arguments)


def _renew(tx: Tx, worker: str, lease_ms: int, hung: list[tuple[str, int]], hanging: int) -> bool:
    key = claims.worker_key(tx, worker)
    if key is None:
        return False
    if hung:
        cancelling.take_back(tx, key, hung)
    return tx.run("worker_renew", name=worker, until=tx.now + lease_ms, hanging=hanging, now=tx.now) > 0


def _dismiss(tx: Tx, worker: str) -> None:
    key = claims.worker_key(tx, worker)
    if key is not None:
        _forget(tx, key, lost=False)


def _forget(tx: Tx, key: int, *, lost: bool) -> int:
    count = cancelling.take_back_all(tx, key, lost=lost)
    tx.run("worker_dismiss", worker=key)
    return count
