"""Which function carries out which verb, and how a group of them is carried out."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from batchflow.stores.grouping import Answers, rank
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

Verb: TypeAlias = Callable[[Tx, list[tuple[Any, ...]]], Sequence[Any]]
"""Carries out all calls of one verb in a group, given their arguments; its answers in the same order."""


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


def _expire(tx: Tx) -> int:
    return sum(
        _forget(tx, key, lost=True)
        for key, name, lease_until in tx.json("worker_all")
        if lease_until <= tx.now or tx.is_gone(name)
    )


VERBS: Mapping[str, Verb] = {
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
    "expire": _each(_expire),
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
"""The verbs of a group by name (`batchflow.stores.grouping.ORDER`), and `read`."""


def carry_out(tx: Tx, calls: Sequence[tuple[str, tuple[Any, ...]]]) -> Answers:
    """Carry out a group, verbs with their arguments, in the transaction `tx`; the answers in the order of the calls."""
    answers: Answers = [(True, None)] * len(calls)
    by_verb: dict[str, list[int]] = {}
    for slot, (verb, _) in enumerate(calls):
        by_verb.setdefault(verb, []).append(slot)
    for verb in sorted(by_verb, key=rank):
        slots = by_verb[verb]
        found = VERBS[verb](tx, [calls[slot][1] for slot in slots])
        for slot, answer in zip(slots, found, strict=True):
            answers[slot] = (True, answer)
    return answers
