"""What happened, as text for people: a table of runs and their steps."""

import reprlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from batchflow.core.duration import show
from batchflow.testing.records import FINAL, BatchRecord, RunRecord, StepRecord

MOST_RUNS = 20
"""How many runs are shown."""

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


def table(start: datetime, now: datetime, runs: Iterable[RunRecord[Any]], batches: Iterable[BatchRecord[Any]]) -> str:
    """All runs with their steps, in the order in which they were first seen; times since the `start`."""
    seen = [run for run in runs if not run.is_layer or run.state == "failed"]
    lines = [f"{len(seen)} run{'' if len(seen) == 1 else 's'}, at {now:%Y-%m-%d %H:%M:%S} UTC ({_since(start, now)})"]
    for batch in batches:
        lines.append(f"batch {batch.ended}" if batch.ended else f"batch {batch.handle.workflow} {batch.id} not ended")
    for run in seen[:MOST_RUNS]:
        lines.append(_title(run, start))
        lines.extend(_columns([*_ended(run, start), *_waiting(run, start)]))
    if (more := len(seen) - MOST_RUNS) > 0:
        lines.append(f"… and {more} more run{'' if more == 1 else 's'}")
    return "\n".join(lines)


def _title(run: RunRecord[Any], start: datetime) -> str:
    what = f"{run.function} {run.id}{f' of {run.item!r}' if run.item else ''} {run.state}"
    if run.state in FINAL and run.ended is not None:
        what = f"{what} {_since(start, run.ended)}"
    if run.state == "completed":
        return f"{what}: {_cut(run.text or 'null')}"
    return f"{what}: {run.error}" if run.error else what


def _ended(run: RunRecord[Any], start: datetime) -> Iterable[Sequence[str]]:
    for record in run.history:
        state = record.state if record.attempt == 1 else f"{record.state} (attempt {record.attempt})"
        yield record.name, record.kind, state, _since(start, record.at), _input_and_output(record)


def _waiting(run: RunRecord[Any], start: datetime) -> Iterable[Sequence[str]]:
    for step in run.journal.values():
        if step.state == "pending" and run.state not in FINAL:
            until = f"until +{show(step.due - _ms(start))}" if step.due else ""
            yield step.name, step.kind, "pending", until, step.error or ""


def _input_and_output(record: StepRecord) -> str:
    given = [_SHORT.repr(value) for value in record.args]
    if record.kind == "run":
        given += [f"{name}={_SHORT.repr(value)}" for name, value in record.kwargs.items()]
    if record.error is not None:
        outcome = record.error.partition("\n")[0]
    elif record.kind == "call" and record.state == "done":
        outcome = str(record.output.status)
    else:
        outcome = _SHORT.repr(record.output)
    if record.kind == "sleep":
        return ""
    return f"({', '.join(given)}) → {outcome}"


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return ["    no steps"]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return [
        "    " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _cut(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:79]}…"


def _since(start: datetime, at: datetime) -> str:
    return f"+{show(_ms(at) - _ms(start))}"


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)
