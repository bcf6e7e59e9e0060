"""Messages that come in."""

from collections.abc import Sequence

from pydantic_core import to_json

from batchflow.core.message import Message
from batchflow.stores.sqlite import flows, waiting
from batchflow.stores.sqlite.transaction import Tx


def publish(tx: Tx, messages: Sequence[Message]) -> list[bool]:
    """Add those that are new; of each, whether it was."""
    known: set[str] = (
        set(tx.json_rows("messages_known", [(message.id,) for message in messages])) if messages else set()
    )
    rows: list[tuple[object, ...]] = []
    working: dict[int, int] = {}
    ready: dict[int, int] = {}
    new: list[bool] = []
    for message in messages:
        batch = None if message.batch is None else tx.batch_key(message.batch)
        fresh = message.id not in known and _takes(tx, message, batch)
        new.append(fresh)
        if not fresh:
            continue
        known.add(message.id)
        lane = flows.lane_of(tx, message.destination, message.flow)
        due = max(message.not_before, tx.now)
        ready[lane] = min(due, ready.get(lane, due))
        headers = to_json(dict(message.headers)).decode() if message.headers else None
        retry = to_json(message.retry.as_wire()).decode() if message.retry else None
        parent, step = message.parent or (None, None)
        fixed = (message.id, lane, due, batch, int(message.keep), message.body, headers, retry)
        rows.append((*fixed, message.label, parent, step, message.depth))
        if batch is not None:
            working[batch] = working.get(batch, 0) + 1
    if rows:
        add(tx, rows)
    if parents := {message.parent[0] for message in messages if message.parent}:
        waiting.link(tx, sorted(parents))
    for lane, due in ready.items():
        flows.ready_by(tx, lane, due)
    for batch, count in working.items():
        move(tx, batch, working=count)
    return new


def add(tx: Tx, rows: Sequence[tuple[object, ...]]) -> None:
    """Add messages whose ids are new: id, lane, due, batch, keep, body, headers, retry, label, parent, step, depth."""
    tx.run_rows("message_add", rows, now=tx.now)


def taken_by(tx: Tx, batch: int) -> bool:
    """Whether the batch is there and takes messages: it has neither ended nor is it being cancelled."""
    return bool(tx.one("batch_takes_messages", batch=batch))


def move(tx: Tx, batch: int, **deltas: float) -> None:
    """Change a batch's counts by `deltas`."""
    zero = {"working": 0, "open": 0, "succeeded": 0, "failed": 0, "cancelled": 0, "worked_ms": 0}
    tx.run("batch_move", batch=batch, **(zero | deltas))


def _takes(tx: Tx, message: Message, batch: int | None) -> bool:
    if message.batch is None:
        return True
    return batch is not None and taken_by(tx, batch)
