"""Batches and their items: opening, walking, starting and ending items, ending the batch."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from pydantic_core import from_json, to_json

from batchflow.core import ids
from batchflow.core.batch import Canary, ItemState, NewBatch, StopReason
from batchflow.core.flow import FlowControl
from batchflow.core.message import Message
from batchflow.core.settlement import ITEM_STATE, FinishEntry, FinishWalk, Notice, RecordPage, Settlement, StartItems
from batchflow.stores import base
from batchflow.stores.base import flow_control
from batchflow.stores.sql import events, flows, ledger, messages, notifications, retries
from batchflow.stores.sql.transaction import Tx


@dataclass(slots=True)
class BatchDelta:
    """Changes of a batch's counts in one transaction."""

    working: int = 0
    open: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    retrying: int = 0
    parked: int = 0
    worked_ms: float = 0.0

    def count_waiting(self, reason: int, count: int) -> None:
        """Count items that begin or cease to wait for one of the reasons `base.RETRYING` and `base.PARKED`."""
        self.retrying += count if reason == base.RETRYING else 0
        self.parked += count if reason == base.PARKED else 0


def open_batch(tx: Tx, batch: NewBatch, first: Sequence[Message]) -> bool:
    """Store a batch with its first messages."""
    if tx.one("batch_known", id=batch.id, open_dedup=batch.open_dedup):
        if batch.parent is not None:
            _complete_again(tx, batch.id, batch.parent[0])
        return False
    tx.run(
        "batch_open",
        id=batch.id,
        workflow=_workflow_key(tx, batch.workflow),
        ledger=ledger.key_of(tx, batch.ledger or batch.workflow),
        params=batch.params,
        headers=messages.headers_text(dict(batch.headers)),
        complete=batch.complete,
        complete_flow=_flow_text(batch.complete_flow),
        on_failure=batch.on_failure,
        notify_url=batch.notify_url,
        ledger_ttl=batch.ledger_ttl,
        keep_results=int(batch.keep_results),
        force=int(batch.force),
        named=int(batch.named),
        label=batch.label,
        open_dedup=batch.open_dedup,
        failure_budget=batch.failure_budget and batch.failure_budget.to_text(),
        parent=batch.parent and batch.parent[0],
        parent_step=batch.parent and batch.parent[1],
        depth=batch.depth,
        retry_of=batch.retry_of,
        priority=batch.priority,
        **_canary_values(batch.canary),
        now=tx.now,
    )
    key = tx.batch_key(batch.id)
    assert key is not None
    tx.run("batch_lane", batch=key, lane=flows.lane_of(tx, batch.execute, batch.flow, key))
    messages.publish(tx, first)
    if batch.parent:
        events.mark_linked(tx, [batch.parent[0]])
    return True


def _canary_values(canary: Canary | None) -> dict[str, Any]:
    if canary is None:
        return {"canary": None, "approve_under": None, "held_by": None}
    held_by = flows.UNAPPROVED | flows.HELD * canary.after_walk
    return {"canary": canary.items, "approve_under": canary.approve_under, "held_by": held_by}


def _complete_again(tx: Tx, id: str, parent: str) -> None:
    """Complete an ended batch once more for its parent, which has lost its outcome and asks for it again."""
    key = tx.one("batch_complete_again", id=id, parent=parent)
    if key is not None:
        head = tx.batch_head(key)
        assert head.complete is not None
        events.mark_linked(tx, [parent])
        _publish_completion(tx, key, head.id, head.complete, _flow(head.complete_flow))


def _workflow_key(tx: Tx, name: str) -> int:
    """The key of a workflow, created on first use."""
    found = _known_workflow(tx, name)
    if found is None:
        tx.run("workflow_add", name=name)
        found = _known_workflow(tx, name)
        assert found is not None
    return found


def _known_workflow(tx: Tx, name: str) -> int | None:
    return tx.one("workflow_key", name=name)


def set_priority(tx: Tx, id: str, priority: int) -> bool:
    """Change the priority of a batch."""
    key = tx.batch_key(id)
    if key is None or not tx.run("batch_set_priority", batch=key, priority=priority):
        return False
    flows.set_priority(tx, key, priority)
    return True


def enter(tx: Tx, effect: FinishEntry) -> None:
    """Record that the entry layer has ended."""
    key = tx.batch_key(effect.batch)
    tx.run("batch_enter", batch=key, total=effect.total, left_out=effect.left_out, now=tx.now)


def page(tx: Tx, effect: RecordPage) -> None:
    """Add the counts of a page."""
    tx.run(
        "batch_page",
        batch=tx.batch_key(effect.batch),
        eligible=effect.eligible,
        already_processed=effect.already_processed,
        duplicates=effect.duplicates,
        left_out=effect.left_out,
        chunks=effect.chunks,
    )


def walked(tx: Tx, effect: FinishWalk) -> None:
    """Record that the walk has ended: messages held back can be claimed from now on."""
    key = tx.batch_key(effect.batch)
    if key is None:
        return
    tx.run("batch_end_walk", batch=key, total=effect.total)
    flows.reopen_lanes(tx, key, flows.HELD)


_Row: TypeAlias = tuple[int, int, int, str, int, int]
START_CANDIDATE = ("slot", "batch", "number", "id", "ledger", "once")
"""The columns of an item that may start, as this module writes and reads them."""

_REASONS = {1: "duplicates", 2: "in_flight", 3: "already_processed"}


def start_items(tx: Tx, starts: Sequence[StartItems]) -> None:
    """Start each item that has no run yet and is neither processed nor in flight elsewhere."""
    rows: list[_Row] = []
    again: list[retries.Again] = []
    data: dict[int, str] = {}
    own: dict[int, FlowControl] = {}
    counts: dict[int, dict[str, int]] = {}
    for start in starts:
        key = tx.batch_key(start.batch)
        if key is None or not messages.accepts_messages(tx, key):
            continue
        counts.setdefault(key, {"open": 0, "duplicates": 0, "in_flight": 0, "already_processed": 0})
        data |= {slot: text for slot, text in enumerate(start.data, len(rows)) if text is not None}
        own |= {slot: flow for slot, flow in enumerate(start.flows, len(rows)) if flow is not None}
        counts[key]["already_processed"] += start.already_processed
        if tx.batch_head(key).is_retry:
            again += retries.again(tx, start, key, len(rows))
        rows += _rows(tx, start, key, len(rows))
    refused: dict[int, int] = dict(tx.json_rows("item_classify", rows, now=tx.now)) if rows else {}
    earlier = _refuse_again(tx, again, rows, refused) if again else {}
    holders: dict[tuple[int, str], int] = {}
    mine: set[tuple[int, str]] = set()
    fresh: list[_Row] = []
    for row in rows:
        slot, key, _, id, ledger, once = row
        reason = refused.get(slot)
        if reason is None:
            # Started by another row of this group: a duplicate, if it is in the same batch.
            if (key, id) in mine:
                reason = 1
            elif holders.setdefault((ledger, id), key) != key and once:
                reason = 2
        if reason is None:
            mine.add((key, id))
            fresh.append(row)
        else:
            counts[key][_REASONS[reason]] += 1
    if fresh:
        _add_items(tx, fresh, counts, own)
    for key in {rows[one.slot][1] for one in again}:
        retries.note(tx, key, [(number, id) for _, at, number, id, *_ in fresh if at == key], earlier)
    if data:
        brought = [(row[1], row[2], data[row[0]]) for row in fresh if row[0] in data]
        tx.run_rows("item_add_data", brought)
    for key, count in counts.items():
        tx.run("batch_start_items", batch=key, **count)


def _refuse_again(
    tx: Tx, again: Sequence[retries.Again], rows: Sequence[_Row], refused: dict[int, int]
) -> dict[str, ItemState]:
    """Refuse items of retries for the state of their earlier runs; return these states, by id."""
    states = retries.earlier_states(tx, again)
    for slot, state in states.items():
        if state == "open":
            refused.setdefault(slot, 2)
        elif state == "succeeded" and not tx.batch_head(rows[slot][1]).force:
            refused.setdefault(slot, 3)
    return {rows[slot][3]: state for slot, state in states.items()}


def _rows(tx: Tx, start: StartItems, key: int, slot: int) -> list[_Row]:
    head, first, marked = tx.batch_head(key), start.first, frozenset(start.marked)
    ledger, once = head.ledger, head.is_retry if head.every else 2
    return [
        (slot + place, key, first + place, id, ledger, once and 1 if id in marked else once)
        for place, id in enumerate(start.ids)
    ]


def _add_items(tx: Tx, rows: Sequence[_Row], counts: dict[int, dict[str, int]], own: Mapping[int, FlowControl]) -> None:
    """Add items; `own` are the limits of those that have a flow key of their own, by slot."""
    tx.run_rows("item_add", [(key, number, id) for _, key, number, id, _, _ in rows])
    tx.run_rows("item_mark_in_flight", [(ledger, id, key) for _, key, _, id, ledger, _ in rows])
    nested: Mapping[tuple[int, str], int] = {}
    if own:
        nested = flows.nested_lanes(tx, [(tx.batch_head(row[1]).lane, own[row[0]]) for row in rows if row[0] in own])
    found: list[tuple[str, int, int, int]] = []
    lanes: set[int] = set()
    for slot, key, number, _, _, _ in rows:
        head = tx.batch_head(key)
        flow = own.get(slot) if own else None
        if flow is None:
            lane = head.lane
            lanes.add(lane)
        else:
            lane = nested[head.lane, flow.key or ""]
        found.append((ids.item_run_id(head.id, number), lane, key, number))
        counts[key]["open"] += 1
    tx.run_rows("item_message", found, now=tx.now)
    for lane in lanes:
        flows.mark_ready(tx, lane, 0)
    if nested:
        flows.mark_ready_at_once(tx, nested.values())


def end_items(tx: Tx, ended: Sequence[tuple[int, int, Settlement]]) -> dict[int, BatchDelta]:
    """End items, given as batch, number and settlement, and return the changes of their batches' counts."""
    moved: dict[int, BatchDelta] = {}
    rows: list[tuple[Any, ...]] = []
    marks: list[tuple[int, int, int, int | None]] = []
    released: list[tuple[int, int, int]] = []
    latest, head, delta, expires_at = None, None, BatchDelta(), None
    for key, number, settlement in ended:
        # Items of one batch mostly follow one another.
        if key != latest or head is None:
            latest, head, delta = key, tx.batch_head(key), moved.setdefault(key, BatchDelta())
            expires_at = None if head.ledger_ttl is None else tx.now + head.ledger_ttl
        state = ITEM_STATE[settlement.ending]
        if state == "succeeded":
            delta.succeeded += 1
            marks.append((key, number, head.ledger, expires_at))
        else:
            delta.failed += state == "failed"
            delta.cancelled += state == "cancelled"
            released.append((key, number, head.ledger))
        delta.open -= 1
        delta.worked_ms += settlement.took_ms
        rows.append((key, number, state, settlement.result if head.keep_results else None, settlement.error))
    if rows:
        tx.run_rows("item_end", rows, now=tx.now)
    if marks:
        tx.run_rows("mark_items", marks, now=tx.now)
    for key in moved:
        if tx.batch_head(key).is_retry:
            retries.recover(tx, key, [number for batch, number, *_ in marks if batch == key])
    if released:
        tx.run_rows("mark_release", released)
        tx.run_rows("mark_drop_empty", released)
    return moved


def count_waiting(tx: Tx, waiting: Iterable[tuple[int | None, int, int]], count: int) -> None:
    """Count the items among messages, given as batch, number and reason, that begin or cease to wait for it."""
    moved: dict[int, BatchDelta] = {}
    for key, number, reason in waiting:
        if key is not None and number >= 0:
            moved.setdefault(key, BatchDelta()).count_waiting(reason, count)
    write_deltas(tx, moved)


def write_deltas(tx: Tx, moved: Mapping[int, BatchDelta]) -> None:
    """Write the changes of batches' counts."""
    for key, delta in moved.items():
        messages.change_counts(
            tx,
            key,
            working=delta.working,
            open=delta.open,
            succeeded=delta.succeeded,
            failed=delta.failed,
            cancelled=delta.cancelled,
            retrying=delta.retrying,
            parked=delta.parked,
            worked_ms=delta.worked_ms,
        )


def end_finished(tx: Tx, keys: Iterable[int]) -> dict[int, str]:
    """End the batches that have nothing left to do and publish their completions; the ids of the ended, by key.

    Canaries end, too.
    """
    ended: dict[int, str] = {}
    for key in keys:
        if tx.one("batch_advance", batch=key, now=tx.now):
            head = tx.batch_head(key)
            ended[key] = head.id
            tx.notices.append(Notice("batch_ended", head.id))
            if head.complete:
                _publish_completion(tx, key, head.id, head.complete, _flow(head.complete_flow))
            elif head.notify_url:
                notifications.publish(tx, head)
        elif tx.batch_head(key).canary is not None:
            _end_canary(tx, key)
    return ended


def _end_canary(tx: Tx, key: int) -> None:
    approved = tx.one("batch_end_canary", batch=key)
    if approved is not None:
        tx.notices.append(Notice("canary_ended", tx.batch_head(key).id))
    if approved:
        flows.reopen_lanes(tx, key, flows.UNAPPROVED)


def pause(tx: Tx, batch: int, reason: StopReason | None = None) -> bool:
    """Lease nothing more of a batch until it is resumed. False if it has ended or is being cancelled."""
    if not tx.run("batch_pause", batch=batch, reason=reason):
        return False
    flows.close_lanes(tx, batch, flows.PAUSED)
    return True


def begin_cancel(tx: Tx, batch: int, reason: StopReason | None = None) -> bool:
    """Lease nothing more of a batch, and mark its leased messages. False if it has ended."""
    if not tx.run("batch_cancel", batch=batch, reason=reason):
        return False
    flows.close_lanes(tx, batch, flows.CANCELLED)
    tx.run("message_cancel_leased_of_batch", batch=batch)
    return True


def approve(tx: Tx, id: str) -> bool:
    """Release the held messages of a batch with a canary."""
    key = tx.batch_key(id)
    if key is None or not tx.run("batch_approve", batch=key):
        return False
    flows.reopen_lanes(tx, key, flows.UNAPPROVED)
    return True


def _publish_completion(tx: Tx, key: int, batch: str, destination: str, flow: FlowControl) -> None:
    lane = flows.lane_of(tx, destination, flow)
    # Not by `publish`: an ended batch accepts no messages but this one.
    head = tx.batch_head(key)
    id = messages.completion_id(tx, key)
    row = messages.NewMessage(id, lane, 0, key, parent=head.parent, parent_step=head.parent_step, depth=head.depth)
    messages.add(tx, [row])
    flows.mark_ready(tx, lane, 0)
    messages.change_counts(tx, key, working=1)


def _flow_text(flow: FlowControl) -> str:
    return to_json([flow.key, flow.parallelism, flow.rate, flow.period_ms, flow.burst]).decode()


def _flow(text: str) -> FlowControl:
    return flow_control(*from_json(text))
