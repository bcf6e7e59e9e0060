"""The JSON documents of `--json`. Names are camelCase, as on the wire; times are ISO 8601 in UTC."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from pydantic.alias_generators import to_camel

from batchflow.batch.status import BatchStatus
from batchflow.batch.summary import BatchSummary
from batchflow.core.batch import Batch, Counts, Item
from batchflow.core.message import DeadLetter


def of_summary(summary: BatchSummary, sentence: str, *, resumed: bool) -> dict[str, Any]:
    """How a batch ended, with a sentence about it."""
    return {
        "batchId": summary.id,
        "workflow": summary.workflow,
        "state": summary.state,
        "success": summary.succeeded,
        "message": sentence,
        "resumed": resumed,
        "counts": of_counts(summary.counts),
        "pages": summary.pages,
        "chunks": summary.chunks,
        "durationMs": summary.duration_ms,
        "label": summary.label,
        "error": summary.error,
    }


def of_status(status: BatchStatus, *, resumed: bool) -> dict[str, Any]:
    """A batch that goes on elsewhere or later."""
    return {
        "batchId": status.id,
        "workflow": status.workflow,
        "state": status.state,
        "success": False,
        "message": f"Interrupted after {status.counts.ended} of {status.total} items",
        "resumed": resumed,
        "counts": of_counts(status.counts),
        "pages": status.pages,
        "chunks": status.chunks,
        "durationMs": status.elapsed_ms,
        "label": status.label,
        "error": status.error,
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
            "destination": letter.destination,
            "itemId": letter.item,
            "failures": letter.failures,
            "error": letter.error,
            "diedAt": moment(letter.died_at),
        }
        for letter in letters
    ]


def of_counts(counts: Counts) -> dict[str, int]:
    """Every count, by its name."""
    return {to_camel(name): count for name, count in counts._asdict().items()}


def moment(ms: int | None) -> str | None:
    """A time in the way all programs read it."""
    return (
        None
        if ms is None
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
