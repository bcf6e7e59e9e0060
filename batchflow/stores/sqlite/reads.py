"""Reading: rows made into values."""

from collections.abc import Sequence
from typing import Any

from pydantic_core import from_json

from batchflow.core.batch import Batch, Counts, Item, ItemState
from batchflow.core.message import DeadLetter
from batchflow.core.run import NEVER, Journal, Run, RunQuery, Step
from batchflow.core.worker import WorkerStatus
from batchflow.stores.sqlite.locks import WorkerLocks
from batchflow.stores.sqlite.transaction import Tx


def run(tx: Tx, id: str) -> Run | None:
    """A run with its journal."""
    found = tx.json("run_read", id=id)
    if not found:
        return None
    # Journals that were buried by an earlier version have fewer fields.
    buried = tx.one("dead_letter_journal", id=id)
    steps = from_json(buried) if buried else [row[1:] for row in steps_of(tx, [(id,)])]
    return _run(found[0], tuple(Step(*row) for row in steps))


def run_list(tx: Tx, query: RunQuery, limit: int) -> list[Run]:
    """The latest runs, without journals."""
    before_at, before_id = query.before or (NEVER, "")
    rows = tx.json(
        "run_list",
        state=query.state,
        destination=query.destination,
        label=query.label,
        before_at=before_at,
        before_id=before_id,
        limit=limit,
    )
    return [_run(row, ()) for row in rows]


def _run(row: Sequence[Any], journal: Journal) -> Run:
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


def steps_of(tx: Tx, runs: Sequence[tuple[str]]) -> list[Any]:
    """The steps of these runs, each with its run before its fields."""
    return tx.json_rows("step_of_runs", runs)


def dead_letters(tx: Tx, batch: str | None, limit: int) -> list[DeadLetter]:
    """The latest dead letters."""
    return [
        DeadLetter(
            id=id,
            destination=destination,
            body=body,
            batch=of_batch,
            item=item,
            error=error,
            failures=failures,
            died_at=died_at,
            journal=tuple(Step(*row) for row in from_json(journal)),
        )
        for id, destination, body, of_batch, item, error, failures, died_at, journal in tx.json(
            "dead_letter_list", batch=batch, limit=limit
        )
    ]


def batch(tx: Tx, id: str) -> Batch | None:
    """A batch as it stands."""
    found = tx.json("batch_read", id=id)
    return _batch(found[0]) if found else None


def batch_list(tx: Tx, workflow: str | None, open_only: bool, limit: int) -> list[Batch]:
    """The latest batches."""
    return [_batch(row) for row in tx.json("batch_list", workflow=workflow, open_only=open_only, limit=limit)]


def _batch(row: Sequence[Any]) -> Batch:
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
        worked_ms=worked_ms,
        params=params,
        force=bool(force),
        label=label,
        error=error,
        created_at=created_at,
        started_at=started_at,
        ended_at=ended_at,
    )


def items(tx: Tx, id: str, state: ItemState | None, after: int, limit: int) -> list[Item]:
    """Items of a batch, by number."""
    key = tx.batch_key(id)
    if key is None:
        return []
    return [
        Item(number=number, id=item, state=item_state, result=result, error=error, ended_at=ended_at)
        for number, item, item_state, result, error, ended_at in tx.json(
            "item_read", batch=key, state=state, after=after, limit=limit
        )
    ]


def workers(tx: Tx, locks: WorkerLocks) -> list[WorkerStatus]:
    """Workers, by name."""
    return [
        WorkerStatus(name, since, seen_at, ends, concurrency, holds, lost=ends <= tx.now or locks.is_free(name))
        for name, since, seen_at, ends, concurrency, holds in tx.json("worker_status")
    ]
