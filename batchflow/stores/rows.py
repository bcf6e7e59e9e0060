"""Rows made into values, by the names of their columns. Every store reads rows in this order of columns."""

from collections.abc import Sequence
from typing import Any

from pydantic_core import from_json

from batchflow.core.batch import NO_HEADERS, Batch, Counts, Item
from batchflow.core.flow import FlowControl, FlowStatus
from batchflow.core.message import Claim, DeadLetter, Message
from batchflow.core.retry import RetryPolicy
from batchflow.core.run import Journal, Run

Columns = tuple[str, ...]

RUN: Columns = (
    "id", "destination", "state", "created_at", "started_at", "ended_at", "payload", "result", "error", "failures",
    "batch", "label", "parent",
)  # fmt: skip
FLOW: Columns = (
    "key", "max_parallelism", "max_rate", "max_period", "max_burst", "pin_parallelism", "pin_rate", "paused", "in_use",
    "waiting", "parked_until",
)  # fmt: skip
DEAD_LETTER: Columns = (
    "id", "destination", "flow", "parallelism", "rate", "period", "burst", "body", "headers", "retry", "batch", "keep",
    "label", "parent", "parent_step", "depth", "on_failure", "open_dedup", "error", "failures", "losses", "created_at",
    "started_at", "died_at", "item", "number",
)  # fmt: skip
BATCH: Columns = (
    "id", "name", "state", "pages", "chunks", "total", "working", "worked_ms", "params", "force", "label", "headers",
    "paused", "error", "created_at", "started_at", "ended_at", *Counts._fields,
)  # fmt: skip
ITEM: Columns = ("number", "id", "state", "result", "error", "ended_at")

# Stores make claims by position, since by name each takes twice as long.
if Claim._fields != (
    "id", "fence", "destination", "body", "batch", "number", "item", "failures", "losses", "headers", "retry",
    "journal", "params", "started_at", "depth", "data",
):  # fmt: skip
    raise AssertionError(f"the stores make claims in another order than {Claim._fields}")


def run(row: Sequence[Any], journal: Journal = ()) -> Run:
    """A run, with its journal if it was read."""
    return Run(**dict(zip(RUN, row, strict=True)), journal=journal)


def flow_control(key: str, parallelism: int | None, rate: int | None, period: int, burst: int = 1) -> FlowControl:
    """Limits of a key, whose period is in ms; an empty key means none."""
    return FlowControl.of_ms(key or None, parallelism, rate, period, burst if rate else 1)


def flow(row: Sequence[Any]) -> FlowStatus:
    """The status of a flow key."""
    about = dict(zip(FLOW, row, strict=True))
    return FlowStatus(
        limits=flow_control(
            about["key"], about["max_parallelism"], about["max_rate"], about["max_period"], about["max_burst"]
        ),
        pinned_parallelism=about["pin_parallelism"] is not None,
        pinned_rate=about["pin_rate"] is not None,
        paused=bool(about["paused"]),
        in_use=about["in_use"],
        waiting=about["waiting"],
        parked_until=about["parked_until"],
    )


def dead_letter(row: Sequence[Any], journal: Journal) -> DeadLetter:
    """A dead letter."""
    about = dict(zip(DEAD_LETTER, row, strict=True))
    headers, retry, parent = about["headers"], about["retry"], about["parent"]
    message = Message(
        id=about["id"],
        destination=about["destination"],
        flow=flow_control(about["flow"], about["parallelism"], about["rate"], about["period"], about["burst"]),
        body=about["body"],
        headers=from_json(headers) if headers else NO_HEADERS,
        retry=RetryPolicy.from_wire(from_json(retry)) if retry else None,
        batch=about["batch"],
        keep=bool(about["keep"]),
        label=about["label"],
        parent=None if parent is None else (parent, about["parent_step"]),
        depth=about["depth"],
        on_failure=about["on_failure"],
        open_dedup=about["open_dedup"],
    )
    fields = {name: about[name] for name in ("error", "failures", "losses", "created_at", "started_at", "died_at")}
    return DeadLetter(message=message, **fields, item=about["item"], number=about["number"], journal=journal)


def batch(row: Sequence[Any]) -> Batch:
    """A batch."""
    about = dict(zip(BATCH, row, strict=True))
    headers = about["headers"]
    return Batch(
        id=about["id"],
        workflow=about["name"],
        state=about["state"],
        counts=Counts._make(row[-len(Counts._fields) :]),
        pages=about["pages"],
        chunks=about["chunks"],
        total=about["total"],
        working=about["working"],
        worked_ms=float(about["worked_ms"]),
        params=about["params"],
        force=bool(about["force"]),
        label=about["label"],
        headers=from_json(headers) if headers else NO_HEADERS,
        paused=bool(about["paused"]),
        error=about["error"],
        created_at=about["created_at"],
        started_at=about["started_at"],
        ended_at=about["ended_at"],
    )


def item(row: Sequence[Any]) -> Item:
    """An item of a batch."""
    return Item(**dict(zip(ITEM, row, strict=True)))
