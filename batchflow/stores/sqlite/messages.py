"""Messages that come in: publishing them, and recording steps of those that are claimed."""

from collections.abc import Sequence

from pydantic_core import to_json

from batchflow.core.message import Message
from batchflow.core.ports import Verdict
from batchflow.core.run import Step
from batchflow.stores.sqlite import flows
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
        rows.append((message.id, lane, due, batch, int(message.keep), message.body, headers, retry))
        if batch is not None:
            working[batch] = working.get(batch, 0) + 1
    if rows:
        add(tx, rows)
    for lane, due in ready.items():
        flows.ready_by(tx, lane, due)
    for batch, count in working.items():
        move(tx, batch, working=count)
    return new


def add(tx: Tx, rows: Sequence[tuple[object, ...]]) -> None:
    """Add messages whose ids are new: id, lane, due, batch, keep, body, headers, retry."""
    tx.run_rows("message_add", rows, now=tx.now)


def taken_by(tx: Tx, batch: int) -> bool:
    """Whether the batch is there and takes messages: it has neither ended nor is it being cancelled."""
    return bool(tx.one("batch_takes_messages", batch=batch))


def move(tx: Tx, batch: int, **deltas: float) -> None:
    """Change a batch's counts by `deltas`."""
    zero = {"working": 0, "open": 0, "succeeded": 0, "failed": 0, "cancelled": 0, "worked_ms": 0}
    tx.run("batch_move", batch=batch, **(zero | deltas))


def record(tx: Tx, records: Sequence[tuple[str, int, Step]]) -> list[Verdict]:
    """Record steps of claims that are held."""
    written = put_steps(tx, [(claim, fence, step) for claim, fence, step in records])
    verdicts: list[Verdict] = ["recorded"] * len(records)
    if written < len(records):
        claims = [(slot, claim, fence) for slot, (claim, fence, _) in enumerate(records)]
        for slot, cancelled in tx.json_rows("step_refused", claims):
            verdicts[slot] = "cancelled" if cancelled else "stale"
    return verdicts


def put_steps(tx: Tx, records: Sequence[tuple[str, int, Step]]) -> int:
    """Write steps of claims that are held; how many were. A recorded outcome sets failures and losses to none."""
    written = tx.run_rows("step_put", [(claim, fence, *step) for claim, fence, step in records])
    again = [(claim, fence) for claim, fence, step in records if fence > 1 and step.position]
    if again:
        tx.run_rows("message_reset_counts", again)
    return written


def _takes(tx: Tx, message: Message, batch: int | None) -> bool:
    if message.batch is None:
        return True
    return batch is not None and taken_by(tx, batch)
