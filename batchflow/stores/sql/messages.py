"""Publishing messages."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from pydantic_core import from_json, to_json

from batchflow.core import ids
from batchflow.core.message import FAILURE_STEP, Message
from batchflow.core.retry import RetryPolicy
from batchflow.core.settlement import ARRIVES_AFTER
from batchflow.stores import base
from batchflow.stores.sql import events, flows
from batchflow.stores.sql.transaction import Tx

_FIELDS = tuple(Message.__dataclass_fields__)


class NewMessage(NamedTuple):
    """A message to add, in the order of the statement `message_add`."""

    id: str
    lane: int
    due: int
    batch: int | None
    keep: int = 0
    body: str = "null"
    headers: str | None = None
    retry: str | None = None
    label: str | None = None
    parent: str | None = None
    parent_step: int | None = None
    depth: int = 0
    on_failure: str | None = None
    open_dedup: str | None = None


class WaitingMessage(NamedTuple):
    """A message that no worker holds."""

    id: str
    lane: int
    batch: int | None
    number: int
    keep: int
    parent: str | None
    parent_step: int | None
    linked: int
    waits: int


class HeldMessage(NamedTuple):
    """The message of a held claim."""

    lane: int
    batch: int | None
    number: int
    cancelled: int
    keep: int
    failures: int
    losses: int
    stage: int = 0
    parent: str | None = None
    parent_step: int | None = None
    linked: int = 0
    on_failure: str | None = None
    attempts: int = 0
    waits: int = 0

    @property
    def is_report(self) -> bool:
        """True for a failure message and for a notification: neither becomes a dead letter."""
        return self.parent_step is not None and self.parent_step <= FAILURE_STEP


def publish(tx: Tx, messages: Sequence[Message]) -> list[bool]:
    """Add the new ones of some messages, and return of each whether it was new."""
    known: set[str] = (
        set(tx.json_rows("messages_known", [(it.id, it.open_dedup) for it in messages])) if messages else set()
    )
    under_way: set[str] = set()
    rows: list[NewMessage] = []
    working: dict[int, int] = {}
    ready: dict[int, int] = {}
    new: list[bool] = []
    ended: list[tuple[str, tuple[str, int]]] = []
    for message in messages:
        batch = None if message.batch is None else tx.batch_key(message.batch)
        fresh = message.id not in known and message.open_dedup not in under_way and _is_accepted(tx, message, batch)
        new.append(fresh)
        if not fresh:
            if message.parent is not None and message.id in known:
                ended.append((message.id, message.parent))
            continue
        known.add(message.id)
        if message.open_dedup is not None:
            under_way.add(message.open_dedup)
        row = _row(tx, message, batch)
        rows.append(row)
        ready[row.lane] = min(row.due, ready.get(row.lane, row.due))
        if batch is not None:
            working[batch] = working.get(batch, 0) + 1
    if rows:
        add(tx, rows)
    if parents := {message.parent[0] for message in messages if message.parent}:
        events.mark_linked(tx, sorted(parents))
    if ended:
        events.add_arrivals(tx, [arrival for id, parent in ended for arrival in _outcome(tx, id, *parent)])
    for lane, due in ready.items():
        flows.mark_ready(tx, lane, due)
    for batch, count in working.items():
        change_counts(tx, batch, working=count)
    return new


def _outcome(tx: Tx, id: str, parent: str, step: int) -> list[events.NewArrival]:
    """The arrival of a child that has ended already: the step that waits for it has been dropped meanwhile."""
    found = tx.json("run_outcome", id=id, parent=parent)
    return [events.NewArrival(parent, step, ARRIVES_AFTER[state], result, error) for state, result, error in found]


def _row(tx: Tx, message: Message, batch: int | None) -> NewMessage:
    parent, step = message.parent or (None, None)
    lane = flows.lane_of(tx, message.destination, message.flow, batch or 0, held=message.held)
    return NewMessage(
        id=message.id,
        lane=lane,
        due=message.not_before if message.not_before > tx.now else 0,
        batch=batch,
        keep=int(message.keep),
        body=message.body,
        headers=headers_text(message.headers),
        retry=to_json(message.retry.as_wire()).decode() if message.retry else None,
        label=message.label,
        parent=parent,
        parent_step=step,
        depth=message.depth,
        on_failure=message.on_failure,
        open_dedup=message.open_dedup,
    )


def as_text(message: Message) -> str:
    """A message as JSON text, from which `of_text` makes it again."""
    fields = {name: getattr(message, name) for name in _FIELDS}
    flow, retry = message.flow, message.retry
    fields["flow"] = (flow.key or "", flow.parallelism, flow.rate, flow.period_ms, flow.burst)
    fields["retry"] = retry.as_wire() if retry else None
    fields["headers"] = dict(message.headers)
    return to_json(fields).decode()


def of_text(text: str) -> Message:
    """The message of this JSON text."""
    fields: dict[str, Any] = from_json(text)
    flow, retry, parent = fields["flow"], fields["retry"], fields["parent"]
    fields["flow"] = base.flow_control(*flow)
    fields["retry"] = RetryPolicy.from_wire(retry) if retry else None
    fields["parent"] = tuple(parent) if parent else None
    return Message(**fields)


def headers_text(headers: object) -> str | None:
    """Headers as they are stored; None without headers."""
    return to_json(headers).decode() if headers else None


def add(tx: Tx, rows: Sequence[NewMessage]) -> None:
    """Add messages whose ids are new."""
    tx.run_rows("message_add", rows, now=tx.now)


def completion_id(tx: Tx, batch: int) -> str:
    """The id of a batch's completion message."""
    return ids.complete_id(tx.batch_head(batch).id, tx.one("batch_generation", batch=batch))


def waiting_message(tx: Tx, id: str) -> list[WaitingMessage]:
    """The waiting message of this id, if there is one."""
    return [WaitingMessage._make(row) for row in tx.json("message_waiting", id=id)]


def waiting(tx: Tx, ids: Sequence[str]) -> list[WaitingMessage]:
    """Those of these messages that no worker holds."""
    return [WaitingMessage._make(row) for row in tx.json_rows("messages_waiting", [(id,) for id in ids])]


def drop(tx: Tx, gone: Iterable[str]) -> None:
    """Remove messages."""
    tx.run_rows("message_drop", [(id,) for id in gone])


def accepts_messages(tx: Tx, batch: int) -> bool:
    """True if the batch accepts messages: it exists, and is neither ended nor being cancelled."""
    return bool(tx.one("batch_takes_messages", batch=batch))


def change_counts(tx: Tx, batch: int, **deltas: float) -> None:
    """Change a batch's counts by `deltas`."""
    zero = {
        "working": 0, "open": 0, "succeeded": 0, "failed": 0, "cancelled": 0, "retrying": 0, "parked": 0, "worked_ms": 0
    }  # fmt: skip
    tx.run("batch_change_counts", batch=batch, **(zero | deltas))


def _is_accepted(tx: Tx, message: Message, batch: int | None) -> bool:
    if message.batch is None:
        return True
    return batch is not None and accepts_messages(tx, batch)
