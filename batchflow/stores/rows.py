"""Rows made into values: what every store reads, it reads in this order of fields."""

from collections.abc import Sequence
from typing import Any

from pydantic_core import from_json

from batchflow.core.batch import NO_HEADERS, Batch, Counts, Item
from batchflow.core.flow import FlowControl, FlowStatus
from batchflow.core.message import DeadLetter, Message
from batchflow.core.retry import RetryPolicy
from batchflow.core.run import Journal, Run


def run(row: Sequence[Any], journal: Journal = ()) -> Run:
    """A run; without its journal where that was not read."""
    id, destination, state, created_at, started_at, ended_at, payload, result, error, failures, *rest = row
    batch, label, parent = rest
    return Run(
        id=id,
        destination=destination,
        state=state,
        created_at=created_at,
        started_at=started_at,
        ended_at=ended_at,
        payload=payload,
        result=result,
        error=error,
        failures=failures,
        batch=batch,
        label=label,
        parent=parent,
        journal=journal,
    )


def flow_control(key: str, parallelism: int | None, rate: int | None, period: int, burst: int = 1) -> FlowControl:
    """Limits of a key, whose period is in ms; no key is kept as an empty one."""
    return FlowControl.of_ms(key or None, parallelism, rate, period, burst if rate else 1)


def flow(row: Sequence[Any]) -> FlowStatus:
    """A flow key as it stands."""
    key, parallelism, rate, period, burst, pinned, pinned_rate, paused, in_use, waiting, parked_until = row
    return FlowStatus(
        flow_control(key, parallelism, rate, period, burst),
        pinned is not None,
        pinned_rate is not None,
        bool(paused),
        in_use,
        waiting,
        parked_until,
    )


def dead_letter(row: Sequence[Any], journal: Journal) -> DeadLetter:
    """A dead letter."""
    id, destination, key, parallelism, rate, period, burst, body, headers, retry, batch, keep, label, *rest = row
    parent, step, depth, on_failure, open_dedup, error, failures, losses, created, started, died, item, number = rest
    message = Message(
        id=id,
        destination=destination,
        flow=flow_control(key, parallelism, rate, period, burst),
        body=body,
        headers=from_json(headers) if headers else NO_HEADERS,
        retry=RetryPolicy.from_wire(from_json(retry)) if retry else None,
        batch=batch,
        keep=bool(keep),
        label=label,
        parent=None if parent is None else (parent, step),
        depth=depth,
        on_failure=on_failure,
        open_dedup=open_dedup,
    )
    return DeadLetter(
        message=message,
        error=error,
        failures=failures,
        losses=losses,
        created_at=created,
        started_at=started,
        died_at=died,
        item=item,
        number=number,
        journal=journal,
    )


def batch(row: Sequence[Any]) -> Batch:
    """A batch."""
    id, workflow, state, pages, chunks, total, working, worked_ms, params, force, label, *rest = row
    headers, paused, error, created_at, started_at, ended_at, *counts = rest
    return Batch(
        id=id,
        workflow=workflow,
        state=state,
        counts=Counts._make(counts),
        pages=pages,
        chunks=chunks,
        total=total,
        working=working,
        worked_ms=float(worked_ms),
        params=params,
        force=bool(force),
        label=label,
        headers=from_json(headers) if headers else NO_HEADERS,
        paused=bool(paused),
        error=error,
        created_at=created_at,
        started_at=started_at,
        ended_at=ended_at,
    )


def item(row: Sequence[Any]) -> Item:
    """An item of a batch."""
    number, id, state, result, error, ended_at = row
    return Item(number=number, id=id, state=state, result=result, error=error, ended_at=ended_at)
