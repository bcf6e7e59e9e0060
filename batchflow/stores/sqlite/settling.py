"""Ending claims: what a settlement writes, all of it in the transaction it came with."""

from collections.abc import Sequence
from typing import NamedTuple

from batchflow.core.run import Step
from batchflow.core.settlement import Enter, Page, Publish, Settled, Settlement, StartItems
from batchflow.stores.sqlite import batches, flows, messages
from batchflow.stores.sqlite.transaction import Tx

STALE = Settled(stale=True)
FRESH = Settled()
_STAYS = frozenset({"suspended", "retry", "parked", "released"})
_RUN_STATE = {"done": "completed", "answered": "failed", "dead": "failed", "cancelled": "cancelled"}


class Held(NamedTuple):
    """What is behind a claim that is held."""

    lane: int
    batch: int | None
    number: int
    cancelled: int
    keep: int
    failures: int
    losses: int


class Ended(NamedTuple):
    """A message that will not be delivered again."""

    settlement: Settlement
    held: Held


def settle(tx: Tx, settlements: Sequence[Settlement]) -> list[Settled]:
    """End the claims that are held."""
    answers = [STALE] * len(settlements)
    held: dict[int, Held] = {}
    rows = [(slot, settlement.id, settlement.fence) for slot, settlement in enumerate(settlements)]
    seen: set[str] = set()
    for slot, *fields in tx.json_rows("message_held", rows):
        # A settlement that was repeated while the first one was on its way comes with it in one group.
        id = settlements[int(slot)].id
        if id not in seen:
            seen.add(id)
            held[slot] = Held._make(fields)
            answers[slot] = FRESH
    _put_steps(tx, [settlements[slot] for slot in held])
    staying: list[Ended] = []
    ended: list[Ended] = []
    for slot, about in held.items():
        settlement = settlements[slot]
        if about.cancelled and settlement.ending in _STAYS:
            settlement = settlement._replace(ending="cancelled")
        (staying if settlement.ending in _STAYS else ended).append(Ended(settlement, about))
    _give_back(tx, staying)
    touched = _end(tx, ended)
    _apply_effects(tx, ended)
    finished = batches.finish(tx, touched)
    if finished:
        _name_ended(settlements, held, finished, answers)
    return answers


def end_waiting(tx: Tx, ended: Sequence[Ended]) -> None:
    """End messages that nobody holds, such as those of a cancelled batch."""
    batches.finish(tx, _end(tx, ended, held_places=False))


def end_held(tx: Tx, ended: Sequence[Ended]) -> None:
    """End messages whose worker is gone."""
    batches.finish(tx, _end(tx, ended))


def _put_steps(tx: Tx, settlements: Sequence[Settlement]) -> None:
    # The journal of a message that is dropped goes with it; that of a dead letter is kept.
    records: list[tuple[str, int, Step]] = [
        (settlement.id, settlement.fence, step)
        for settlement in settlements
        if settlement.ending in _STAYS or settlement.ending == "dead"
        for step in settlement.steps
    ]
    if records:
        messages.put_steps(tx, records)


def _give_back(tx: Tx, staying: Sequence[Ended]) -> None:
    if not staying:
        return
    rows: list[tuple[object, ...]] = []
    ready: dict[int, int] = {}
    for settlement, held in staying:
        due = tx.now if settlement.ending == "released" else max(settlement.due, tx.now)
        reset = any(step.position for step in settlement.steps)
        failures = (0 if reset else held.failures) + (settlement.ending == "retry")
        losses = 0 if reset else held.losses
        rows.append((settlement.id, due, failures, losses, settlement.error))
        ready[held.lane] = min(due, ready.get(held.lane, due))
        if settlement.ending == "parked":
            tx.run("flow_park", lane=held.lane, until=due)
    give_back(tx, rows)
    for lane, due in ready.items():
        flows.ready_by(tx, lane, due)
    give_back_places(tx, [held.lane for _, held in staying])


def give_back(tx: Tx, rows: Sequence[tuple[object, ...]]) -> None:
    """Let messages wait again: id, due, failures, losses, error."""
    tx.run_rows("message_give_back", rows)


def give_back_places(tx: Tx, lanes: Sequence[int]) -> None:
    """One place in its flow key for every claim that ended, named by its lane."""
    counts: dict[int, int] = {}
    for lane in lanes:
        counts[lane] = counts.get(lane, 0) + 1
    for lane, count in counts.items():
        tx.run("flow_give_back", lane=lane, count=count)


def _end(tx: Tx, ended: Sequence[Ended], *, held_places: bool = True) -> set[int]:
    """Remove messages; the batches that were touched."""
    if not ended:
        return set()
    _bury(tx, [(one.settlement, one.held) for one in ended if one.settlement.ending == "dead"])
    kept = [(s.id, _RUN_STATE[s.ending], s.result, s.error) for s, held in ended if held.keep and s.ending != "dead"]
    if kept:
        tx.run_rows("message_keep", kept, now=tx.now)
    moved = batches.end_items(
        tx, [(held.batch, held.number, s) for s, held in ended if held.batch and held.number >= 0]
    )
    for settlement, held in ended:
        if held.batch is not None and held.number < 0:
            delta = moved.setdefault(held.batch, batches.Delta())
            delta.working -= 1
            if settlement.ending != "done":
                error = settlement.error or f"its run '{settlement.id}' was cancelled"
                tx.run("batch_break", batch=held.batch, error=error)
    journals = [(s.id,) for s, held in ended if not held.keep or s.ending == "dead"]
    if journals:
        tx.run_rows("step_drop", journals)
    tx.run_rows("message_drop", [(s.id,) for s, _ in ended])
    if held_places:
        give_back_places(tx, [held.lane for _, held in ended])
    batches.move(tx, moved)
    return set(moved)


def _bury(tx: Tx, dead: Sequence[tuple[Settlement, Held]]) -> None:
    if dead:
        rows = [(s.id, s.error or "", held.failures + 1) for s, held in dead]
        tx.run_rows("message_bury", rows, now=tx.now)


def _apply_effects(tx: Tx, ended: Sequence[Ended]) -> None:
    starts: list[StartItems] = []
    for settlement, _ in ended:
        if settlement.ending != "done":
            continue
        for effect in settlement.effects:
            match effect:
                case StartItems():
                    starts.append(effect)
                case Publish():
                    messages.publish(tx, effect.messages)
                case Enter():
                    batches.enter(tx, effect)
                case Page():
                    batches.page(tx, effect)
    if starts:
        batches.start_items(tx, starts)


def _name_ended(
    settlements: Sequence[Settlement], held: dict[int, Held], finished: dict[int, str], answers: list[Settled]
) -> None:
    for slot, about in held.items():
        if about.batch in finished and not answers[slot].ended_batch:
            answers[slot] = Settled(ended_batch=finished[about.batch])
