"""What people read of runs: a list, one run with its steps, who waits for an event."""

from collections.abc import Sequence

from batchflow.cli.documents import LATEST_MS
from batchflow.cli.output import Output
from batchflow.cli.report import COLOURS, first_line, local, pairs, table
from batchflow.core.duration import show
from batchflow.core.run import Run, Step, Waiter
from batchflow.serve.failure import headline
from batchflow.serve.runs import RunPage

_LONGEST = 500
# Of a payload or a result; --json has all of it.
_MINUTES = "%m-%d %H:%M"
_COLOURS = {**COLOURS, "timeout": "yellow"}


def runs(output: Output, page: RunPage) -> None:
    """A list of runs, and how to see the next page."""
    if not page.runs:
        output.say("No runs")
        return
    columns = ["run", "function", "state", "created", "took"]
    labelled = any(run.label for run in page.runs)
    rows = [[*_row(run), *([run.label or ""] if labelled else [])] for run in page.runs]
    styles = [_COLOURS.get(run.state, "") for run in page.runs]
    table(output, [*columns, *(["label"] if labelled else [])], rows, styles)
    if page.next_cursor is not None:
        output.say(f"more: --cursor {page.next_cursor}", style="dim")


def run(output: Output, found: Run) -> None:
    """One run with its steps."""
    rows = {
        "run": found.id + (f" ({found.label})" if found.label else ""),
        "function": found.destination,
        "state": found.state,
        "parent": found.parent or "",
        "batch": found.batch or "",
        "payload": _cut(found.payload),
        "result": _cut(found.result or ""),
        "error": first_line(found.error),
        "failures": f"{found.failures:,}" if found.failures else "",
        "created": local(found.created_at),
        "started": local(found.started_at),
        "ended": local(found.ended_at),
    }
    pairs(output, {name: value for name, value in rows.items() if value})
    if not found.journal:
        output.say("No steps")
        return
    output.say("Steps:", style="bold")
    since = found.started_at or found.created_at
    cells = [_step(step, since) for step in found.steps]
    styles = [_COLOURS.get(step.state, "") for step in found.steps]
    table(output, ["step", "kind", "state", "attempts", "recorded", "after", ""], cells, styles)


def waiters(output: Output, event: str, found: Sequence[Waiter]) -> None:
    """Who waits for an event."""
    if not found:
        output.say(f"No run waits for '{event}'")
        return
    rows = [[it.run, it.step, local(it.since), _until(it)] for it in found]
    table(output, ["run", "step", "since", "until"], rows, [""] * len(rows))


def _row(it: Run) -> list[str]:
    took = "" if it.ended_at is None else show(it.ended_at - it.created_at)
    return [it.id, it.destination, it.state, local(it.created_at, _MINUTES), took]


def _step(step: Step, since: int) -> list[str]:
    attempts = f"{step.failures + (step.state == 'done')}" if step.kind == "run" else ""
    recorded = step.at if step.position and step.at else None
    return [
        step.name,
        step.kind,
        step.state,
        attempts,
        local(recorded, "%H:%M:%S"),
        "" if recorded is None else show(recorded - since),
        first_line(headline(step.error or "")) or _due(step),
    ]


def _due(step: Step) -> str:
    return f"until {local(step.due)}" if step.state == "pending" and 0 < step.due <= LATEST_MS else ""


def _until(it: Waiter) -> str:
    return "" if it.until is None or it.until > LATEST_MS else local(it.until)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"
