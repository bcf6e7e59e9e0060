"""The slots of flow keys that ended claims release, and the circuit breakers that these claims open and close."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from batchflow.core.breaker import Breaker, BreakerChange, BreakerLimits, judge
from batchflow.core.run import NEVER
from batchflow.core.settlement import Settlement, SettleResult
from batchflow.stores.sql.messages import HeldMessage
from batchflow.stores.sql.transaction import BatchHead, Tx


class EndedClaim(NamedTuple):
    """A claim that has ended: its message, its lane, its failed attempts, and the limits that its batch sets."""

    id: str
    lane: int
    outcome: int | None = None
    limits: BreakerLimits | None = None


def limits_of(head: BatchHead) -> BreakerLimits | None:
    """The limits of a batch that has a circuit breaker."""
    if head.max_in_a_row is None or head.open_for is None:
        return None
    return BreakerLimits(head.max_in_a_row, head.open_for)


def count_outcomes(
    tx: Tx,
    of: Iterable[tuple[Settlement, HeldMessage]],
    slots: Mapping[str, int],
    answers: list[SettleResult],
) -> None:
    """Count the outcomes of settlements in their order, and put the changes into their `answers`, both by `slots`."""
    claims: list[EndedClaim] = []
    for settlement, held in sorted(of, key=lambda one: slots[one[0].id]):
        # Only items have the limits of their batch.
        of_item = held.batch is not None and held.number >= 0
        limits = limits_of(tx.batch_head(held.batch)) if held.batch is not None and of_item else None
        claims.append(EndedClaim(settlement.id, held.lane, settlement.outcome, limits))
    for id, change in count(tx, claims).items():
        answers[slots[id]] = answers[slots[id]]._replace(breaker=change)


def release_slots(tx: Tx, lanes: Iterable[int]) -> bool:
    """Free one slot of the flow key for each ended claim, given by its lane; True if any key counts failures."""
    counts: dict[int, int] = {}
    for lane in lanes:
        counts[lane] = counts.get(lane, 0) + 1
    counting = False
    for lane, count in counts.items():
        if any(tx.column("flow_release", lane=lane, count=count)):
            counting = True
    return counting


def take_slot(tx: Tx, lane: int, id: str) -> None:
    """Take a slot of the keys of a lane for a message, whatever their limits; of a half-open key it is the trial."""
    for key in tx.column("flow_take_slot", lane=lane):
        if key is not None:
            begin_trial(tx, key, id)


def release(tx: Tx, claims: Sequence[tuple[str, int]]) -> None:
    """Free the slots of claims that have ended without an outcome, given by message and lane; a trial is over."""
    if release_slots(tx, [lane for _, lane in claims]):
        count(tx, [EndedClaim(id, lane) for id, lane in claims])


def count(tx: Tx, claims: Sequence[EndedClaim]) -> dict[str, BreakerChange]:
    """Count the outcomes of claims, in order, and return the breakers that they have opened or closed, by message."""
    keys: dict[int, list[tuple[str, bool]]] = {}
    before: dict[str, Breaker] = {}
    after: dict[str, Breaker] = {}
    parks: dict[str, int] = {}
    changes: dict[str, BreakerChange] = {}
    for claim in claims:
        if claim.lane not in keys:
            rows = tx.json("flow_breakers", lane=claim.lane)
            keys[claim.lane] = [(key, bool(is_top)) for is_top, key, *_ in rows]
            for _, key, *fields in rows:
                before.setdefault(key, Breaker._make(fields))
        for key, is_top in keys[claim.lane]:
            known = after.get(key, before[key])
            # The limits of a batch are those of its key, and not of the keys of its items.
            after[key] = judge(known, claim.id, claim.outcome, claim.limits if is_top else None)
            if after[key].open_for and after[key].in_a_row != known.in_a_row:
                parks[key] = tx.now + after[key].open_for
            if change := BreakerChange.of(key, known, after[key]):
                changes[claim.id] = change
    for key, breaker in after.items():
        if breaker != before[key]:
            tx.run("flow_set_breaker", flow=key, **breaker._asdict(), until=parks.get(key, 0))
    return changes


def begin_trial(tx: Tx, key: str, id: str) -> None:
    """Let nothing of a key start until its trial, which has just been leased, has ended."""
    tx.run("flow_try", flow=key, trial=id, never=NEVER)
