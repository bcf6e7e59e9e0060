"""Settling claims: everything that a settlement writes, in one transaction."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from batchflow.core import ids
from batchflow.core.message import FAILURE_STEP, NOTIFICATION_STEP, SUSPECT_LOSSES
from batchflow.core.posts import LogEntry
from batchflow.core.run import Step
from batchflow.core.settlement import ARRIVES, RUN_STATE, STAYS, EndRun, Notice, Settlement, SettleResult
from batchflow.stores import base
from batchflow.stores.sql import (
    batches,
    breakers,
    dead_letters,
    events,
    failures,
    flows,
    messages,
    notifications,
    post_log,
    posts,
    queues,
    steps,
    wire_runs,
)
from batchflow.stores.sql.messages import HeldMessage
from batchflow.stores.sql.transaction import Tx

STALE = SettleResult(stale=True)
FRESH = SettleResult()
STARTED, SUSPECT = 1, 2
"""Stages of a message (see the schema)."""
_GOES_ON = STAYS | {"dead"}
"""Endings after which the run is not done: a run that was cancelled meanwhile ends as cancelled."""


_FAILS = frozenset({"dead", "failed"})
"""Endings after which an item has failed."""


class EndedMessage(NamedTuple):
    """A message that will not be delivered again."""

    settlement: Settlement
    held: HeldMessage


# Made for every item; the constructor of a named tuple takes three times as long.
_new: Callable[..., EndedMessage] = tuple[Any, ...].__new__


def settle(tx: Tx, settlements: Sequence[Settlement]) -> list[SettleResult]:
    """End held claims; a settlement of any other claim is stale."""
    answers = [STALE] * len(settlements)
    held: dict[int, HeldMessage] = {}
    rows = [(slot, settlement.id, settlement.fence) for slot, settlement in enumerate(settlements)]
    seen: set[str] = set()
    for slot, *fields in tx.json_rows("message_held", rows):
        # A repeated settlement can be in the same group as the first one.
        id = settlements[int(slot)].id
        if id not in seen:
            seen.add(id)
            held[slot] = HeldMessage._make(fields)
            answers[slot] = FRESH
    _put_steps(tx, [settlements[slot] for slot in held])
    staying: list[EndedMessage] = []
    ended: list[EndedMessage] = []
    counts = False
    failing: set[int] = set()
    ending: set[tuple[str, str]] = set()
    for slot, about in held.items():
        settlement = settlements[slot]
        if settlement.ending in _GOES_ON and (about.cancelled or _run_is_ending(settlement, ending)):
            settlement = settlement._replace(ending="cancelled")
        elif about.is_report and settlement.ending == "dead":
            # The dead letter or batch of which it is has the outcome.
            settlement = settlement._replace(ending="failed")
        if settlement.ending != "done" and about.batch is not None and about.number >= 0:
            counts = counts or tx.batch_head(about.batch).max_in_a_row is not None
            if settlement.ending in _FAILS:
                failing.add(about.batch)
        (staying if settlement.ending in STAYS else ended).append(_new(EndedMessage, (settlement, about)))
    _release_staying(tx, staying)
    # Before anything ends: the end of a parent may cancel one of these.
    _apply_effects(tx, staying)
    touched = _end(tx, ended)
    if breakers.release_slots(tx, [about.lane for about in held.values()]) or counts:
        breakers.count_outcomes(tx, [*staying, *ended], {settlements[slot].id: slot for slot in held}, answers)
    for settlement, about in staying:
        if settlement.ending == "parked":
            flows.park(tx, about.lane, settlement.due)
    _apply_effects(tx, [one for one in ended if one.settlement.ending != "cancelled"])
    # After the items that a page of the same group has started.
    for batch in failing:
        touched |= _enforce_failure_budget(tx, batch)
    if touched and (finished := batches.end_finished(tx, touched)):
        _add_ended_batches(tx, held, finished, answers)
    return answers


def _run_is_ending(settlement: Settlement, ending: set[tuple[str, str]]) -> bool:
    """True for a dead one that ends a workflow run which another one of its group ends; `ending` are those runs."""
    if settlement.ending != "dead":
        return False
    ends = {(effect.tenant, effect.run) for effect in settlement.effects if isinstance(effect, EndRun)}
    known = not ends.isdisjoint(ending)
    ending |= ends
    return known


def end_unclaimed(tx: Tx, ended: Sequence[EndedMessage]) -> None:
    """End messages that no worker holds, such as those of a cancelled batch."""
    batches.end_finished(tx, _end(tx, ended, held_places=False))


def end_held(tx: Tx, ended: Sequence[EndedMessage]) -> None:
    """End messages whose worker is lost."""
    touched = _end(tx, ended)
    items = [(held.batch, s) for s, held in ended if held.batch is not None and held.number >= 0]
    for batch in {batch for batch, s in items if s.ending in _FAILS}:
        touched |= _enforce_failure_budget(tx, batch)
    breakers.release(tx, [(settlement.id, held.lane) for settlement, held in ended])
    batches.end_finished(tx, touched)


def _put_steps(tx: Tx, settlements: Sequence[Settlement]) -> None:
    # The journal of a deleted message is deleted with it; the journal of a dead letter is kept.
    records: list[tuple[str, int, Step]] = [
        (settlement.id, settlement.fence, step)
        for settlement in settlements
        if settlement.ending in STAYS or settlement.ending == "dead"
        for step in settlement.steps
    ]
    if records:
        steps.put(tx, records)


def _release_staying(tx: Tx, staying: Sequence[EndedMessage]) -> None:
    if not staying:
        return
    rows: list[tuple[object, ...]] = []
    failed: list[EndedMessage] = []
    ready: dict[int, int] = {}
    suspended = [settlement.id for settlement, held in staying if settlement.ending == "suspended" and held.linked]
    at_once = events.runs_with_arrivals(tx, suspended) if suspended else frozenset[str]()
    for settlement, held in staying:
        at_once_now = settlement.ending == "released" or settlement.id in at_once or settlement.due <= tx.now
        due = 0 if at_once_now else settlement.due
        reset = any(step.position for step in settlement.steps)
        failed_before = (0 if reset else held.failures) + (settlement.ending == "retry")
        losses = 0 if reset else held.losses
        if waits := base.reason_of(settlement):
            failed.append(_new(EndedMessage, (settlement, held)))
        attempts = held.attempts + (settlement.failed_attempts if waits else 0)
        rows.append((settlement.id, due, failed_before, losses, settlement.error, stage_of(losses), waits, attempts))
        ready[held.lane] = min(due, ready.get(held.lane, due))
    release_messages(tx, rows)
    for lane, due in ready.items():
        flows.mark_ready(tx, lane, due)
    if failed:
        failures.note(tx, [(held.batch, held.number, s) for s, held in failed if held.batch is not None])
        dead_letters.log_attempts(tx, [(s.id, base.attempts_of(s, tx.now)) for s, _ in failed])
        batches.count_waiting(tx, [(held.batch, held.number, base.reason_of(s)) for s, held in failed], 1)


def stage_of(losses: int) -> int:
    """The stage of a message that waits again after a claim."""
    return SUSPECT if losses >= SUSPECT_LOSSES else STARTED


def release_messages(tx: Tx, rows: Sequence[tuple[object, ...]]) -> None:
    """Put messages back into their queues: id, due, failures, losses, error, stage, waits, attempts."""
    tx.run_rows("message_release", rows)


def _end(tx: Tx, ended: Sequence[EndedMessage], *, held_places: bool = True) -> set[int]:
    """End messages, and return the batches that were touched."""
    if not ended:
        return set()
    failed = [one for one in ended if one.settlement.ending in _FAILS]
    if failed:
        failures.note(tx, [(held.batch, held.number, s) for s, held in failed if held.batch is not None])
    dead = [one for one in failed if one.settlement.ending == "dead"]
    if dead:
        dead_letters.log_attempts(tx, [(s.id, base.attempts_of(s, tx.now)) for s, _ in dead])
        dead_letters.make(tx, dead)
    kept = [(s.id, RUN_STATE[s.ending], s.result, s.error) for s, held in ended if held.keep and s.ending != "dead"]
    if kept:
        tx.run_rows("message_keep", kept, now=tx.now)
    items = [(held.batch, held.number, s) for s, held in ended if held.batch and held.number >= 0]
    moved = batches.end_items(tx, items) if items else dict[int, batches.BatchDelta]()
    if not held_places:
        for _, held in ended:
            if held.waits and held.batch is not None and held.number >= 0:
                moved[held.batch].count_waiting(held.waits, -1)
    layers = [(held.batch, s) for s, held in ended if held.batch is not None and held.number < 0]
    broken = [_end_layer(tx, batch, s, moved) for batch, s in layers]
    journals = [(s.id,) for s, held in ended if not held.keep and s.ending != "dead"]
    if journals:
        steps.drop(tx, journals)
    gone = [s.id for s, _ in ended if s.ending != "dead"]
    if gone:
        messages.drop(tx, gone)
    if moved:
        batches.write_deltas(tx, moved)
    touched = set(moved)
    _notify_parents(tx, ended)
    if dead:
        _call_failure_functions(tx, dead)
    linked = [one for one in ended if one.held.linked]
    if linked:
        events.drop_waits(tx, [settlement.id for settlement, _ in linked])
        events.drop_webhooks(tx, [settlement.id for settlement, _ in linked if settlement.ending != "dead"])
        cancelled = [settlement.id for settlement, _ in linked if settlement.ending == "cancelled"]
        if cancelled:
            touched |= _cancel_children(tx, cancelled)
    if any(broken):
        touched |= cancel_held_back(tx, base.SWEEP_LIMIT)[1]
    # Messages of a batch are not posts.
    if cancelled := [s.id for s, held in ended if s.ending == "cancelled" and held.batch is None]:
        posts.end_cancelled(tx, cancelled)
    return touched


def _end_layer(tx: Tx, batch: int, settlement: Settlement, moved: dict[int, batches.BatchDelta]) -> bool:
    """Count the end of a message of a batch's layers; True if the walk broke off while it held messages back."""
    moved.setdefault(batch, batches.BatchDelta()).working -= 1
    if ids.completes(settlement.id, tx.batch_head(batch).id):
        error = None if settlement.ending == "done" else settlement.sentence
        tx.run("batch_completed", batch=batch, error=error)
        notifications.after_completion(tx, batch, settlement.id)
        return False
    if settlement.ending == "done":
        return False
    broken_off = tx.run("batch_break_off", batch=batch, error=settlement.sentence)
    return bool(broken_off and tx.run("lanes_break_off", batch=batch))


def _enforce_failure_budget(tx: Tx, batch: int) -> set[int]:
    """Pause or cancel a batch with more failed items than its failure budget allows; the batches that were touched."""
    action = tx.one("batch_exceeded_budget", batch=batch)
    if action is None:
        return set()
    tx.notices.append(Notice("budget_exceeded", tx.batch_head(batch).id))
    if action == "pause":
        batches.pause(tx, batch, "failure_budget")
        return set()
    batches.begin_cancel(tx, batch, "failure_budget")
    return {batch, *_cancel_waiting(tx, waiting_of_batch(tx, batch, base.SWEEP_LIMIT))}


def cancel_held_back(tx: Tx, limit: int) -> tuple[int, set[int]]:
    """Cancel up to `limit` messages held back by broken-off walks: how many, and the batches that were touched."""
    count, touched = 0, set[int]()
    for lane in tx.json("lanes_broken_off"):
        waits = [
            messages.WaitingMessage._make(row)
            for row in tx.json("message_waiting_of_lane", lane=lane, limit=limit - count)
        ]
        count += len(waits)
        touched |= _end(tx, cancellations_of(waits), held_places=False)
        flows.recount_lane(tx, lane)
        if count == limit:
            break
    return count, touched


def _notify_parents(tx: Tx, ended: Sequence[EndedMessage]) -> None:
    """Deliver the end of children and calls to the steps that wait for them."""
    children = [one for one in ended if one.held.parent is not None]
    if not children:
        return
    arrivals = [
        events.NewArrival(held.parent, held.parent_step, ARRIVES[s.ending], s.result, s.error)
        for s, held in children
        if held.parent is not None and held.parent_step and held.parent_step > FAILURE_STEP
    ]
    if arrivals:
        events.add_arrivals(tx, arrivals)
    if calls := [one for one in children if one.held.parent_step == FAILURE_STEP]:
        dead_letters.end_failure_calls(tx, calls)
    if sent := [one for one in children if one.held.parent_step == NOTIFICATION_STEP]:
        notifications.end(tx, sent)


def _call_failure_functions(tx: Tx, dead: Sequence[EndedMessage]) -> None:
    """Publish the failure messages of dead letters that have a destination for them."""
    found: list[tuple[str, int, str]] = []
    for settlement, held in dead:
        of_item = held.batch is not None and held.number >= 0
        destination = tx.batch_head(held.batch).on_failure if held.batch is not None and of_item else held.on_failure
        if destination is not None:
            found.append((settlement.id, settlement.fence, destination))
    if found:
        dead_letters.call_failure_functions(tx, found)


def _cancel_children(tx: Tx, parents: Sequence[str]) -> set[int]:
    """Cancel the children of cancelled runs, and return the batches that were touched."""
    rows = [(parent,) for parent in parents]
    tx.run_rows("message_cancel_leased_of_parents", rows)
    touched: set[int] = set(tx.json_rows("batches_of_parents", rows))
    waits = {it.id: it for it in map(messages.WaitingMessage._make, tx.json_rows("message_waiting_of_parents", rows))}
    for key in touched:
        batches.begin_cancel(tx, key)
        # `sweep_cancelled` ends the rest of a very large batch later.
        waits.update((it.id, it) for it in waiting_of_batch(tx, key, base.SWEEP_LIMIT))
    return touched | _cancel_waiting(tx, waits.values())


def _cancel_waiting(tx: Tx, waits: Collection[messages.WaitingMessage]) -> set[int]:
    """Cancel waiting messages, and return the batches that were touched."""
    touched = _end(tx, cancellations_of(waits), held_places=False)
    for lane in {it.lane for it in waits}:
        flows.recount_lane(tx, lane)
    return touched


def waiting_of_batch(tx: Tx, batch: int, limit: int) -> list[messages.WaitingMessage]:
    """The waiting messages of a batch."""
    return [messages.WaitingMessage._make(row) for row in tx.json("message_waiting_of_batch", batch=batch, limit=limit)]


def cancellations_of(waits: Iterable[messages.WaitingMessage]) -> list[EndedMessage]:
    """Cancellations of waiting messages."""
    return [
        EndedMessage(
            Settlement(it.id, 0, "cancelled"),
            HeldMessage(
                lane=it.lane,
                batch=it.batch,
                number=it.number,
                cancelled=0,
                keep=it.keep,
                failures=0,
                losses=0,
                parent=it.parent,
                parent_step=it.parent_step,
                linked=it.linked,
                waits=it.waits,
            ),
        )
        for it in waits
    ]


def _apply_effects(tx: Tx, of: Sequence[EndedMessage]) -> None:
    effects = [(settlement.id, effect) for settlement, _ in of for effect in settlement.effects]
    steps.apply_effects(tx, [(id, effect) for id, effect in effects if not isinstance(effect, EndRun)])
    for _, effect in effects:
        if isinstance(effect, EndRun):
            end_run(tx, effect)


def end_run(tx: Tx, effect: EndRun) -> bool:
    """End a workflow run of QStash, cancel its posts and publish those of its end; False if it has ended."""
    members = wire_runs.end(tx, effect)
    if members is None:
        return False
    cancel_posts(tx, effect.tenant, posts.progress(tx, effect.tenant, members))
    posts.send(tx, effect.posts)
    return True


def cancel_posts(tx: Tx, tenant: str, progress: Mapping[str, int]) -> None:
    """End posts that wait, and mark those that a worker has."""
    queued, waiting, leased = ([id for id in progress if progress[id] == stage] for stage in range(posts.CANCELLED))
    if queued:
        # First: a place that is freed below goes to a post that is not cancelled.
        queues.drop_waiting(tx, queued)
        post_log.log(tx, [LogEntry(id, tenant, "CANCELED", tx.now) for id in queued])
    if waiting:
        _cancel_waiting(tx, messages.waiting(tx, waiting))
    if leased:
        tx.run_rows("messages_cancel_leased", [(id,) for id in leased])


def _add_ended_batches(
    tx: Tx, held: dict[int, HeldMessage], finished: dict[int, str], answers: list[SettleResult]
) -> None:
    # One settlement of a group has ended the batch, and not each of them.
    last = {about.batch: slot for slot, about in held.items()}
    for batch, id in finished.items():
        if batch in last:
            answers[last[batch]] = answers[last[batch]]._replace(ended_batch=id)
            tx.notices.remove(Notice("batch_ended", id))
