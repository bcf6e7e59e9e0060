"""The JSON documents of `--json`. Names are camelCase, as on the wire; times are ISO 8601 in UTC."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from pydantic.alias_generators import to_camel
from pydantic_core import from_json

from batchflow.batch.status import BatchStatus
from batchflow.batch.summary import BatchSummary, counted_more
from batchflow.core.batch import Batch, Counts, Item
from batchflow.core.message import DeadLetter
from batchflow.core.run import Run, Step, Waiter
from batchflow.core.worker import WorkerStatus

LATEST_MS = 253_402_300_799_999
"""The end of the year 9999. What goes on later than that does not go on by time alone."""


def of_summary(summary: BatchSummary, sentence: str) -> dict[str, Any]:
    """How a batch ended, with a sentence about it."""
    return {
        "batchId": summary.id,
        "workflow": summary.workflow,
        "state": summary.state,
        "success": summary.succeeded,
        "message": sentence,
        "counts": of_counts(summary.counts),
        "pages": summary.pages,
        "chunks": summary.chunks,
        "durationMs": summary.duration_ms,
        "label": summary.label,
        "error": summary.error,
        "counted": summary.counted,
    }


def of_status(status: BatchStatus) -> dict[str, Any]:
    """A batch that goes on elsewhere or later."""
    return {
        "batchId": status.id,
        "workflow": status.workflow,
        "state": status.state,
        "success": False,
        "message": f"Interrupted after {status.counts.ended} of {status.total} items",
        "counts": of_counts(status.counts),
        "pages": status.pages,
        "chunks": status.chunks,
        "durationMs": status.elapsed_ms,
        "label": status.label,
        "error": status.error,
        "counted": status.counted,
    }


def of_batch(batch: Batch) -> dict[str, Any]:
    """A batch as the store has it."""
    return {
        "batchId": batch.id,
        "workflow": batch.workflow,
        "state": batch.state,
        "counts": of_counts(batch.counts),
        "pages": batch.pages,
        "chunks": batch.chunks,
        "total": max(batch.counts.started, batch.total or 0),
        "isFinal": batch.is_final and not batch.working,
        "force": batch.force,
        "label": batch.label,
        "error": batch.error,
        "counted": counted_more(batch),
        "createdAt": moment(batch.created_at),
        "startedAt": moment(batch.started_at),
        "endedAt": moment(batch.ended_at),
    }


def of_items(items: Iterable[Item]) -> list[dict[str, Any]]:
    """Items that have failed."""
    return [
        {"itemId": item.id, "number": item.number, "error": item.error, "endedAt": moment(item.ended_at)}
        for item in items
    ]


def of_dead_letters(letters: Iterable[DeadLetter]) -> list[dict[str, Any]]:
    """Messages whose attempts are used up."""
    return [
        {
            "id": letter.id,
            "destination": letter.message.destination,
            "itemId": letter.item,
            "failures": letter.failures,
            "error": letter.error,
            "diedAt": moment(letter.died_at),
        }
        for letter in letters
    ]


def of_run(run: Run) -> dict[str, Any]:
    """A run as a list of runs has it."""
    return {
        "workflowRunId": run.id,
        "route": run.destination,
        "state": run.state,
        "result": value(run.result),
        "error": run.error,
        "failures": run.failures,
        "label": run.label,
        "parent": run.parent,
        "batchId": run.batch,
        "createdAt": moment(run.created_at),
        "startedAt": moment(run.started_at),
        "endedAt": moment(run.ended_at),
    }


def of_run_with_steps(run: Run) -> dict[str, Any]:
    """A run with its payload and its steps."""
    return {**of_run(run), "payload": value(run.payload), "steps": [_of_step(step) for step in run.steps]}


def _of_step(step: Step) -> dict[str, Any]:
    return {
        "name": step.name,
        "kind": step.kind,
        "state": step.state,
        "attempts": step.failures + (step.state == "done") if step.kind == "run" else None,
        "recordedAt": moment(step.at) if step.position and step.at else None,
        "dueAt": moment(step.due) if step.state == "pending" and step.due else None,
        "result": value(step.value),
        "error": step.error,
    }


def of_waiter(waiter: Waiter) -> dict[str, Any]:
    """A run that waits for an event."""
    return {
        "workflowRunId": waiter.run,
        "step": waiter.step,
        "since": moment(waiter.since),
        "until": moment(waiter.until),
    }


def of_worker(worker: WorkerStatus) -> dict[str, Any]:
    """A worker as it stands."""
    return {
        "name": worker.name,
        "state": "lost" if worker.lost else "working",
        "since": moment(worker.since or None),
        "seenAt": moment(worker.seen_at or None),
        "leaseUntil": moment(worker.lease_until),
        "concurrency": worker.concurrency or None,
        "hanging": worker.hanging,
        "held": worker.held,
        "holds": dict(sorted(worker.holds.items())),
    }


def value(text: str | None) -> Any:
    """What JSON text says; None where there is none."""
    return None if text is None else from_json(text)


def of_counts(counts: Counts) -> dict[str, int]:
    """Every count, by its name."""
    return {to_camel(name): count for name, count in counts._asdict().items()}


def moment(ms: int | None) -> str | None:
    """A time in the way all programs read it; None where there is none, or it is never."""
    return (
        None
        if ms is None or ms > LATEST_MS
        else datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )


def headline(summary: BatchSummary, plural: str) -> str:
    """A batch's end in one sentence; the pattern's own words where nothing was to be done."""
    counts = summary.counts
    if summary.state == "completed" and not counts.started:
        if not counts.eligible:
            return "No eligible items found"
        if counts.already_processed and not counts.in_flight:
            return "All items already processed"
    if summary.state == "completed":
        return f"Processed {counts.succeeded:,} {plural}" + (f", {counts.failed:,} failed" if counts.failed else "")
    return f"The batch {'was cancelled' if summary.state == 'cancelled' else summary.state}"
