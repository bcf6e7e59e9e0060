"""Batches and their items: opening, starting items, ending them, completing, cancelling."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json, to_json

from batchflow.core import ids
from batchflow.core.batch import NewBatch
from batchflow.core.flow import FlowControl
from batchflow.core.message import Message
from batchflow.core.settlement import Enter, Page, Settlement, StartItems
from batchflow.stores.sqlite import flows, messages, waiting
from batchflow.stores.sqlite.transaction import Tx

_ITEM_STATE = {"done": "succeeded", "answered": "failed", "dead": "failed", "cancelled": "cancelled"}


@dataclass(slots=True)
class Delta:
    """How a batch's counts move in one transaction."""

    working: int = 0
    open: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    worked_ms: float = 0.0


def open_batch(tx: Tx, batch: NewBatch, first: Sequence[Message]) -> bool:
    """Store a batch with its first messages."""
    if tx.batch_key(batch.id) is not None:
        return False
    tx.run(
        "batch_open",
        id=batch.id,
        workflow=workflow_key(tx, batch.workflow),
        lane=flows.lane_of(tx, batch.execute, batch.flow),
        params=batch.params,
        complete=batch.complete,
        complete_flow=_flow_text(batch.complete_flow),
        ledger_ttl=batch.ledger_ttl,
        keep_results=int(batch.keep_results),
        force=int(batch.force),
        label=batch.label,
        parent=batch.parent and batch.parent[0],
        parent_step=batch.parent and batch.parent[1],
        depth=batch.depth,
        now=tx.now,
    )
    messages.publish(tx, first)
    if batch.parent:
        waiting.link(tx, [batch.parent[0]])
    return True


def workflow_key(tx: Tx, name: str) -> int:
    """The key of a workflow, made on first use."""
    key = _workflow_key(tx, name)
    if key is None:
        tx.run("workflow_make", name=name)
        key = _workflow_key(tx, name)
        assert key is not None
    return key


def _workflow_key(tx: Tx, name: str) -> int | None:
    return tx.one("workflow_key", name=name)


def enter(tx: Tx, effect: Enter) -> None:
    """The entry layer is through."""
    key = tx.batch_key(effect.batch)
    tx.run("batch_enter", batch=key, total=effect.total, left_out=effect.left_out, now=tx.now)


def page(tx: Tx, effect: Page) -> None:
    """A page was walked."""
    tx.run(
        "batch_page",
        batch=tx.batch_key(effect.batch),
        eligible=effect.eligible,
        already_processed=effect.already_processed,
        duplicates=effect.duplicates,
        left_out=effect.left_out,
        chunks=effect.chunks,
    )


def start_items(tx: Tx, starts: Sequence[StartItems]) -> None:
    """Give a run to each item that has none yet and that no other batch has in flight."""
    rows: list[tuple[int, int, int, str, int]] = []
    counts: dict[int, dict[str, int]] = {}
    for start in starts:
        key = tx.batch_key(start.batch)
        if key is None or not messages.taken_by(tx, key):
            continue
        counts.setdefault(key, {"open": 0, "duplicates": 0, "in_flight": 0})
        workflow = tx.head(key).workflow
        rows.extend(
            (slot, key, number, id, workflow)
            for slot, (number, id) in enumerate(enumerate(start.ids, start.first), len(rows))
        )
    refused: dict[int, int] = dict(tx.json_rows("item_classify", rows)) if rows else {}
    holders: dict[tuple[int, str], int] = {}
    fresh: list[tuple[int, int, int, str, int]] = []
    for row in rows:
        slot, key, _, id, workflow = row
        reason = refused.get(slot)
        if reason is None:
            # Started by another row of this group: for the same batch it is a duplicate.
            holder = holders.setdefault((workflow, id), key)
            first = len(holders) > len(fresh)
            reason = None if first else 1 if holder == key else 2
        if reason is None:
            fresh.append(row)
        counts[key]["open" if reason is None else "duplicates" if reason == 1 else "in_flight"] += 1
    if fresh:
        _add_items(tx, fresh)
    for key, count in counts.items():
        tx.run("batch_start_items", batch=key, **count)


def _add_items(tx: Tx, rows: Sequence[tuple[int, int, int, str, int]]) -> None:
    tx.run_rows("item_add", [(key, number, id) for _, key, number, id, _ in rows])
    tx.run_rows("item_hold", [(workflow, id, key) for _, key, _, id, workflow in rows])
    found: list[tuple[str, int, int, int]] = []
    for _, key, number, _, _ in rows:
        head = tx.head(key)
        found.append((ids.item_run_id(head.id, number), head.lane, key, number))
    tx.run_rows("item_message", found, now=tx.now)
    for lane in {row[1] for row in found}:
        flows.ready_by(tx, lane, tx.now)


def end_items(tx: Tx, ended: Sequence[tuple[int, int, Settlement]]) -> dict[int, Delta]:
    """Items (batch, number) whose run has ended; how that moves their batches."""
    moved: dict[int, Delta] = {}
    rows: list[tuple[Any, ...]] = []
    marks: list[tuple[int, int, int, int | None]] = []
    let_go: list[tuple[int, int, int]] = []
    for key, number, settlement in ended:
        head = tx.head(key)
        state = _ITEM_STATE[settlement.ending]
        delta = moved.setdefault(key, Delta())
        delta.open -= 1
        setattr(delta, state, getattr(delta, state) + 1)
        delta.worked_ms += settlement.took_ms
        rows.append((key, number, state, settlement.result if head.keep_results else None, settlement.error))
        if state == "succeeded":
            marks.append((key, number, head.workflow, None if head.ledger_ttl is None else tx.now + head.ledger_ttl))
        else:
            let_go.append((key, number, head.workflow))
    if rows:
        tx.run_rows("item_end", rows, now=tx.now)
    if marks:
        tx.run_rows("ledger_mark_items", marks, now=tx.now)
    if let_go:
        tx.run_rows("ledger_let_go", let_go)
        tx.run_rows("ledger_sweep_items", let_go)
    return moved


def move(tx: Tx, moved: Mapping[int, Delta]) -> None:
    """Write how the counts of batches moved."""
    for key, delta in moved.items():
        messages.move(
            tx,
            key,
            working=delta.working,
            open=delta.open,
            succeeded=delta.succeeded,
            failed=delta.failed,
            cancelled=delta.cancelled,
            worked_ms=delta.worked_ms,
        )


def finish(tx: Tx, keys: Iterable[int]) -> dict[int, str]:
    """End those batches that have nothing left to do, publishing their completion; which, by key."""
    ended: dict[int, str] = {}
    for key in keys:
        if tx.one("batch_advance", batch=key, now=tx.now):
            head = tx.head(key)
            ended[key] = head.id
            if head.complete:
                _publish_completion(tx, key, head.id, head.complete, _flow(head.complete_flow))
    return ended


def _publish_completion(tx: Tx, key: int, batch: str, destination: str, flow: FlowControl) -> None:
    lane = flows.lane_of(tx, destination, flow)
    # Not by `publish`: an ended batch takes no messages but this one.
    head = tx.head(key)
    row = (ids.complete_id(batch), lane, tx.now, key, 0, "null", None, None, None)
    messages.add(tx, [(*row, head.parent, head.parent_step, head.depth)])
    flows.ready_by(tx, lane, tx.now)
    messages.move(tx, key, working=1)


def _flow_text(flow: FlowControl) -> str:
    return to_json([flow.key, flow.parallelism, flow.rate, flow.period_ms]).decode()


def _flow(text: str) -> FlowControl:
    key, parallelism, rate, period = from_json(text)
    return FlowControl(key=key, parallelism=parallelism, rate=rate, period=f"{period}ms")
