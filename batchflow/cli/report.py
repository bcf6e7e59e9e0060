"""What people read: statistics, summaries, lists."""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from batchflow.batch.bound import Workflow
from batchflow.batch.handle import BatchHandle
from batchflow.batch.statistics import Statistics
from batchflow.batch.summary import BatchSummary, counted_more, spell_counted, spell_counts
from batchflow.cli.output import Output, program
from batchflow.cli.watch import spell_rate
from batchflow.core.batch import Batch, Item
from batchflow.core.duration import show
from batchflow.core.flow import FlowControl
from batchflow.core.message import DeadLetter

_FIRST_FAILURES = 5
COLOURS = {"failed": "red", "cancelled": "yellow", "cancelling": "yellow"}
_COLUMNS = ("batch", "workflow", "state", "done", "failed", "skipped", "started", "took", "label")
_NUMBERS = {"done", "failed", "skipped", "took"}


def statistics(output: Output, workflow: Workflow[Any, Any], found: Statistics) -> None:
    """A dry run's table."""
    mean = "none measured yet" if found.mean_item_ms is None else f"{show(round(found.mean_item_ms))} an item"
    rows = {
        "eligible": f"{found.total_eligible:,}",
        "already processed": f"{found.already_processed:,}",
        "duplicates": f"{found.duplicates:,}",
        "to process": f"{found.to_process:,}",
        "pages": f"{found.pages:,}",
        "chunks": f"{found.chunks:,}",
        "sample": ", ".join(found.sample) or "none",
        "predicted duration": found.predicted_duration,
        "binding limit": _spell_limit(workflow, found.binding_limit),
        "mean time": mean,
    }
    output.say(workflow.name, style="bold")
    pairs(output, rows)
    output.say(found.message)


def resuming(batch: Batch) -> str:
    """That an open batch is gone on with."""
    label = f" ({batch.label})" if batch.label else ""
    so_far = f"{batch.counts.ended:,} items done so far"
    return f"Resuming batch {batch.id} of {batch.workflow}{label}: {so_far}"


def summary(output: Output, ended: BatchSummary, sentence: str, failures: Sequence[Item]) -> None:
    """How a batch ended, under one sentence about it."""
    output.say(sentence, style="bold green" if ended.succeeded else "bold red")
    counts = ended.counts
    rate = f", {counts.ended * 1000 / ended.duration_ms:,.1f}/s" if counts.ended and ended.duration_ms else ""
    rows = {
        "batch": f"{ended.id} of {ended.workflow}" + (f" ({ended.label})" if ended.label else ""),
        "state": ended.state,
        "items": spell_counts(counts),
        "took": f"{show(ended.duration_ms)}{rate}",
    }
    rows |= {"error": ended.error} if ended.error else {}
    rows |= {} if ended.counted is None else {"warning": spell_counted(ended.counted, counts)}
    pairs(output, rows)
    if failures:
        output.say("Failed:")
        pairs(output, {item.id: first_line(item.error) for item in failures}, indent="  ")
        left = counts.failed - len(failures)
        more = f"{left:,} more; all of them: " if left else "all about it: "
        output.say(f"  {more}{program()} batches show {ended.id}")


async def first_failures(handle: BatchHandle[Any]) -> list[Item]:
    """The first items that have failed, enough to see what is wrong."""
    found: list[Item] = []
    async for item in handle.items("failed"):
        found.append(item)
        if len(found) == _FIRST_FAILURES:
            break
    return found


def batches(output: Output, found: Sequence[Batch]) -> None:
    """A list of batches."""
    if not found:
        output.say("No batches")
        return
    columns = _COLUMNS if any(it.label for it in found) else _COLUMNS[:-1]
    rows = [_row(it)[: len(columns)] for it in found]
    table(output, columns, rows, [COLOURS.get(it.state, "") for it in found], numbers=_NUMBERS)


def _row(it: Batch) -> tuple[str, ...]:
    counts = it.counts
    return (
        it.id,
        it.workflow,
        it.state,
        f"{counts.succeeded:,}/{max(counts.started, it.total or 0):,}",
        f"{counts.failed:,}",
        f"{counts.skipped:,}",
        local(it.created_at, "%m-%d %H:%M"),
        "" if it.ended_at is None else show(it.ended_at - it.created_at),
        it.label or "",
    )


def batch(output: Output, found: Batch, failed: Sequence[Item], letters: Sequence[DeadLetter]) -> None:
    """One batch with what went wrong in it."""
    counts = found.counts
    rows = {
        "batch": found.id + (f" ({found.label})" if found.label else ""),
        "workflow": found.workflow,
        "state": found.state,
        "parameters": found.params,
        "items": spell_counts(counts),
        "eligible": f"{counts.eligible:,} on {found.pages:,} pages, {found.chunks:,} chunks",
        "started": local(found.created_at),
        "ended": local(found.ended_at),
    }
    rows |= {"error": found.error} if found.error else {}
    counted = counted_more(found)
    rows |= {} if counted is None else {"warning": spell_counted(counted, counts)}
    pairs(output, rows)
    if failed:
        output.say(f"Failed items{_of(len(failed), counts.failed)}:", style="bold")
        pairs(output, {item.id: first_line(item.error) for item in failed}, indent="  ")
    if letters:
        output.say("Dead letters:", style="bold")
        pairs(output, {letter.id: _spell_letter(letter) for letter in letters}, indent="  ")


def cancelled(found: Batch) -> str:
    """What cancelling has done."""
    if found.is_final:
        return f"Batch {found.id} is cancelled: {spell_counts(found.counts)}"
    return f"Batch {found.id} is being cancelled: {found.counts.open:,} items at work end at their next step"


def _spell_letter(letter: DeadLetter) -> str:
    subject = letter.item or letter.message.destination
    attempts = f"{letter.failures} attempt{'' if letter.failures == 1 else 's'}"
    return f"{subject}, {local(letter.died_at)}, {attempts}: {first_line(letter.error)}"


def _spell_limit(workflow: Workflow[Any, Any], name: str) -> str:
    layer, _, kind = name.partition(" ")
    if not kind:
        return name
    flow: FlowControl = getattr(workflow.definition, f"{layer}_flow")
    return f"{name}, {spell_rate(flow) if kind == 'rate' else flow.parallelism}"


def table(
    output: Output,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    styles: Sequence[str],
    *,
    numbers: Collection[str] = (),
) -> None:
    """Columns side by side, each as wide as it has to be; those named in `numbers` to the right."""
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row, style in zip((columns, *rows), ("bold", *styles), strict=True):
        cells = [
            cell.rjust(width) if name in numbers else cell.ljust(width)
            for cell, width, name in zip(row, widths, columns, strict=True)
        ]
        output.say("  ".join(cells).rstrip(), style=style)


def pairs(output: Output, rows: Mapping[str, str], indent: str = "") -> None:
    """Names and values, one pair a line."""
    width = max(map(len, rows))
    for name, value in rows.items():
        output.out.print(f"{indent}{name:<{width}}", style="dim", end="  ")
        output.say(value)


def _of(shown: int, all: int) -> str:
    return f" ({shown:,} of {all:,})" if shown < all else f" ({all:,})"


def first_line(error: str | None) -> str:
    """The sentence of an error that is kept with its traceback."""
    return (error or "").split("\n", 1)[0]


def local(ms: int | None, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    """A time in the time zone of whoever reads it; empty where there is none."""
    return "" if ms is None else datetime.fromtimestamp(ms / 1000, UTC).astimezone().strftime(form)
