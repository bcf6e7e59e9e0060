"""Rows made into values: what every store reads, it reads in this order of fields."""

from collections.abc import Sequence
from typing import Any

from batchflow.core.batch import Batch, Counts, Item
from batchflow.core.message import DeadLetter
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


def dead_letter(row: Sequence[Any], journal: Journal) -> DeadLetter:
    """A dead letter."""
    id, destination, body, batch, item, error, failures, died_at = row
    return DeadLetter(
        id=id,
        destination=destination,
        body=body,
        batch=batch,
        item=item,
        error=error,
        failures=failures,
        died_at=died_at,
        journal=journal,
    )


def batch(row: Sequence[Any]) -> Batch:
    """A batch."""
    id, workflow, state, pages, chunks, total, working, worked_ms, params, force, label, error, *rest = row
    created_at, started_at, ended_at, *counts = rest
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
        error=error,
        created_at=created_at,
        started_at=started_at,
        ended_at=ended_at,
    )


def item(row: Sequence[Any]) -> Item:
    """An item of a batch."""
    number, id, state, result, error, ended_at = row
    return Item(number=number, id=id, state=state, result=result, error=error, ended_at=ended_at)
