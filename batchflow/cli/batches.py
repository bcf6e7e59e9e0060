"""`batchflow batches`: lists, shows and cancels the batches of a store. Reports of batches for people."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from batchflow.batch.bound import Workflow
from batchflow.batch.dry_run import Statistics
from batchflow.batch.handle import BatchHandle, BatchItem
from batchflow.batch.names import quantity
from batchflow.batch.status import BatchSummary, format_counts, format_overstated_count, overstated_count
from batchflow.batch.wait_reason import format_rate
from batchflow.cli.groups import CommandGroup
from batchflow.cli.options import JsonOption, UrlOption
from batchflow.cli.output import (
    STATE_STYLES,
    Output,
    first_line,
    format_local_time,
    print_pairs,
    print_table,
    program_name,
    time_column,
)
from batchflow.cli.target import choose_workflow, load_flow, open_engine
from batchflow.core.batch import Batch, Item
from batchflow.core.duration import humanize_duration
from batchflow.core.flow import FlowControl
from batchflow.core.message import DeadLetter
from batchflow.core.secrets import masked_text
from batchflow.engine.engine import Engine
from batchflow.errors import NotFoundError
from batchflow.http.schemas import BatchInfo, BatchList, CancelBatchResponse, DeadLetterInfo, ItemInfo

_MAX_FAILURES = 5
_NUMBER_COLUMNS = {"done", "failed", "skipped", "took"}

BatchIdArgument = Annotated[str, typer.Argument(metavar="ID", help="The id of the batch, such as bat_….")]

group = typer.Typer(cls=CommandGroup, help="List, show and cancel batches.", rich_markup_mode=None)


@group.command("list")
@dataclass(frozen=True, kw_only=True)
class ListBatches:
    """List the latest batches, newest first.

    `batchflow batches` without a command does the same.
    """

    target: Annotated[str | None, typer.Argument(metavar="MODULE:ATTR", help="An app whose store to read.")] = None
    workflow: Annotated[str | None, typer.Option(metavar="NAME", help="Only batches of this workflow.")] = None
    label: Annotated[str | None, typer.Option(metavar="TEXT", help="Only batches with this label.")] = None
    open_only: Annotated[bool, typer.Option("--open", help="Only batches that have not ended.")] = False
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Show at most N batches.")] = 20
    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Print the list."""
        url = self.url if self.target is None else load_flow(self.target).settings.url
        async with open_engine(url) as engine:
            found = await engine.store.batches(
                workflow=self.workflow, label=self.label, open_only=self.open_only, limit=self.limit
            )
            now = engine.now()
        # A store may hold batches of workflows that this app does not have.
        if self.target is not None and self.workflow is not None and not found:
            choose_workflow(load_flow(self.target), self.workflow, self.target)
        if self.as_json:
            Output().print_json(BatchList(batches=[BatchInfo.of(batch, now) for batch in found]).document())
        else:
            print_batches(Output(), found)
        return 0


@group.command("show")
@dataclass(frozen=True, kw_only=True)
class ShowBatch:
    """Show the counts, failed items and dead letters of a batch."""

    id: BatchIdArgument
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Show at most N failed items.")] = 20
    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Print the batch."""
        async with open_engine(self.url) as engine:
            batch = await _require_batch(engine, self.id)
            failed = await engine.store.items(self.id, state="failed", limit=self.limit)
            letters = await engine.store.dead_letters(batch=self.id, limit=self.limit)
            now = engine.now()
        if self.as_json:
            document = BatchInfo.of(batch, now).document()
            document["failedItems"] = [ItemInfo.of(item).document() for item in failed]
            document["deadLetters"] = [DeadLetterInfo.of(letter).document() for letter in letters]
            Output().print_json(document)
        else:
            print_batch(Output(), batch, failed, letters)
        return 0


@group.command("cancel")
@dataclass(frozen=True, kw_only=True)
class CancelBatch:
    """Cancel a batch.

    Nothing of it starts any more; running items end at their next step.

    Exit codes: 0 cancelled, 1 it had ended before, 2 usage.
    """

    id: BatchIdArgument
    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Cancel the batch; 1 if it had ended before."""
        async with open_engine(self.url) as engine:
            await _require_batch(engine, self.id)
            # Otherwise the items that a dead worker holds would keep the batch in `cancelling`.
            await engine.store.expire()
            cancelled = await engine.store.cancel_batch(self.id)
            batch = await _require_batch(engine, self.id)
            now = engine.now()
        if self.as_json:
            Output().print_json(CancelBatchResponse(cancelled=cancelled, batch=BatchInfo.of(batch, now)).document())
        elif cancelled:
            Output().print(cancelled_text(batch))
        else:
            Output().print(f"Batch {batch.id} had ended before: it is {batch.state}")
        return 0 if cancelled else 1


async def _require_batch(engine: Engine, id: str) -> Batch:
    batch = await engine.store.batch(id)
    if batch is None:
        raise NotFoundError(f"there is no batch '{id}' here; 'batchflow batches' lists them")
    return batch


def print_statistics(output: Output, title: str, workflow: Workflow[Any, Any], found: Statistics) -> None:
    """Print the counts of a dry run, under a title."""
    mean = (
        "none measured yet" if found.mean_item_ms is None else f"{humanize_duration(round(found.mean_item_ms))} an item"
    )
    rows = {
        "eligible": f"{found.total_eligible:,}",
        "already processed": f"{found.already_processed:,}",
        "duplicates": f"{found.duplicates:,}",
        "to process": f"{found.to_process:,}",
        "pages": f"{found.pages:,}",
        "chunks": f"{found.chunks:,}",
        "sample": ", ".join(found.sample) or "none",
        "predicted duration": found.predicted_duration,
        "binding limit": _limit_text(workflow, found.binding_limit),
        "mean time": mean,
    }
    output.print(title, style="bold")
    print_pairs(output, rows)
    output.print(found.message)


def resuming_text(batch: Batch) -> str:
    """The first line of a batch that is resumed."""
    label = f" ({batch.label})" if batch.label else ""
    so_far = f"{batch.counts.ended:,} items done so far"
    return f"Resuming batch {batch.id} of {batch.workflow}{label}: {so_far}"


def print_summary(output: Output, ended: BatchSummary, sentence: str, failures: Sequence[BatchItem[Any]]) -> None:
    """Print the outcome of a batch, under one sentence about it."""
    output.print(sentence, style="bold green" if ended.succeeded else "bold red")
    counts = ended.counts
    rate = f", {counts.ended * 1000 / ended.duration_ms:,.1f}/s" if counts.ended and ended.duration_ms else ""
    rows = {
        "batch": f"{ended.id} of {ended.workflow}" + (f" ({ended.label})" if ended.label else ""),
        "state": ended.state,
        "items": format_counts(counts),
        "took": f"{humanize_duration(ended.duration_ms)}{rate}",
    }
    rows |= {"error": ended.error} if ended.error else {}
    rows |= {} if ended.counted is None else {"warning": format_overstated_count(ended.counted, counts)}
    print_pairs(output, rows)
    if failures:
        output.print("Failed:")
        print_pairs(output, {item.id: first_line(item.error) for item in failures}, indent="  ")
        left = counts.failed - len(failures)
        more = f"{left:,} more; all of them: " if left else "all about it: "
        output.print(f"  {more}{program_name()} batches show {ended.id}")


async def first_failures(handle: BatchHandle[Any]) -> list[BatchItem[Any]]:
    """The first few items that have failed."""
    found: list[BatchItem[Any]] = []
    async for item in handle.items("failed"):
        found.append(item)
        if len(found) == _MAX_FAILURES:
            break
    return found


def print_batches(output: Output, found: Sequence[Batch]) -> None:
    """Print a list of batches."""
    if not found:
        output.print("No batches")
        return
    started, times = time_column("started", [it.created_at for it in found])
    columns = ["batch", "workflow", "state", "done", "failed", "skipped", started, "took"]
    columns += ["label"] if any(it.label for it in found) else []
    rows = [_batch_row(it, time)[: len(columns)] for it, time in zip(found, times, strict=True)]
    print_table(output, columns, rows, [STATE_STYLES.get(it.state, "") for it in found], numbers=_NUMBER_COLUMNS)


def _batch_row(it: Batch, started: str) -> tuple[str, ...]:
    counts = it.counts
    return (
        it.id,
        it.workflow,
        it.state,
        f"{counts.succeeded:,}/{max(counts.started, it.total or 0):,}",
        f"{counts.failed:,}",
        f"{counts.skipped:,}",
        started,
        "" if it.ended_at is None else humanize_duration(it.ended_at - it.created_at),
        it.label or "",
    )


def print_batch(output: Output, found: Batch, failed: Sequence[Item], letters: Sequence[DeadLetter]) -> None:
    """Print one batch with its errors."""
    counts = found.counts
    rows = {
        "batch": found.id + (f" ({found.label})" if found.label else ""),
        "workflow": found.workflow,
        "state": found.state,
        "parameters": masked_text(found.params),
        "items": format_counts(counts),
        "eligible": _eligible_text(found),
        "started": format_local_time(found.created_at),
        "ended": format_local_time(found.ended_at),
    }
    rows |= {"error": found.error} if found.error else {}
    counted = overstated_count(found)
    rows |= {} if counted is None else {"warning": format_overstated_count(counted, counts)}
    print_pairs(output, rows)
    if failed:
        output.print(f"Failed items{_shown_of(len(failed), counts.failed)}:", style="bold")
        print_pairs(output, {item.id: first_line(item.error) for item in failed}, indent="  ")
    if letters:
        output.print("Dead letters:", style="bold")
        print_pairs(output, {letter.id: _dead_letter_text(letter) for letter in letters}, indent="  ")


def _eligible_text(found: Batch) -> str:
    text = f"{found.counts.eligible:,} on {quantity(found.pages, 'page')}, {quantity(found.chunks, 'chunk')}"
    return f"{text}; the limit of the trigger ended the walk there" if found.counts.left_out else text


def cancelled_text(found: Batch) -> str:
    """A sentence about a batch that was cancelled just now."""
    if found.items_ended:
        return f"Batch {found.id} is cancelled: {format_counts(found.counts)}"
    running = found.counts.open
    ending = "1 running item ends at its" if running == 1 else f"{running:,} running items end at their"
    return f"Batch {found.id} is being cancelled: {ending} next step"


def _dead_letter_text(letter: DeadLetter) -> str:
    subject = letter.item or letter.message.destination
    attempts = quantity(letter.failures, "attempt")
    return f"{subject}, {format_local_time(letter.died_at)}, {attempts}: {first_line(letter.error)}"


def _limit_text(workflow: Workflow[Any, Any], name: str) -> str:
    layer, _, kind = name.partition(" ")
    if not kind:
        return name
    flow: FlowControl = getattr(workflow.definition, f"{layer}_flow")
    return f"{name}, {format_rate(flow) if kind == 'rate' else flow.parallelism}"


def _shown_of(shown: int, all: int) -> str:
    return f" ({shown:,} of {all:,})" if shown < all else f" ({all:,})"
