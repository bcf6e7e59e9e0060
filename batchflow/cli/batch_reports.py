"""Reports of batches and their items for people: lists, details, the outcome of a run, the counts of a dry run."""

import shlex
from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic_core import to_json

from batchflow.batch.answers import result_text
from batchflow.batch.bound import Workflow
from batchflow.batch.dry_run import Statistics
from batchflow.batch.handle import BatchHandle
from batchflow.batch.items import BatchItem
from batchflow.batch.names import WireKeys, quantity
from batchflow.batch.rollup import Totals, read_retries
from batchflow.batch.status import (
    BatchStatus,
    BatchSummary,
    WaitReason,
    format_counts,
    format_overstated_count,
    overstated_count,
)
from batchflow.batch.wait_reason import WaitReasons, failing_text, format_rate
from batchflow.cli.failures import print_error, print_groups, print_groups_with_examples
from batchflow.cli.output import (
    STATE_STYLES,
    Output,
    format_local_time,
    print_pairs,
    print_table,
    program_name,
    time_column,
)
from batchflow.cli.runs import print_steps, truncate
from batchflow.core.batch import Batch, Item, Notification
from batchflow.core.dead_letters import DeadLetter, DeadLetterQuery
from batchflow.core.duration import humanize_duration
from batchflow.core.flow import FlowControl
from batchflow.core.message import UnservedWork
from batchflow.core.ports import Client
from batchflow.core.report import headline, one_line
from batchflow.core.run import Run
from batchflow.core.secrets import masked_text
from batchflow.http.schemas.batches import wire_params
from batchflow.serve.app_url import without_credentials

_MAX_FAILURES = 5
_NUMBER_COLUMNS = {"done", "failed", "skipped", "took", "priority"}


class BatchDetails(NamedTuple):
    """A batch with an item for each kind of its errors, its failed items, and its dead letters."""

    batch: Batch
    examples: Sequence[Item]
    failed: Sequence[Item]
    letters: Sequence[DeadLetter]
    wait_reason: WaitReason | None
    retries: Sequence[Batch]

    @classmethod
    async def read(cls, client: Client, batch: Batch, limit: int) -> "BatchDetails":
        """The details, at most `limit` failed items."""
        store = client.store
        failed = await store.items(batch.id, state="failed", limit=limit)
        examples: list[Item] = []
        for number in dict.fromkeys(it.number for it in batch.errors if it.number >= 0):
            examples += await store.items(batch.id, after=number - 1, limit=1)
        letters = await store.dead_letters(DeadLetterQuery(batch=batch.id), limit)
        # The app of the batch is not known here, only its store.
        reason = await WaitReasons(client, None).find(batch)
        return cls(batch, examples, failed, letters, reason, await read_retries(store, batch))


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


def is_success(ended: BatchSummary) -> bool:
    """True if all items have succeeded, and `on_complete` too."""
    return ended.succeeded and ended.completion_error is None


def print_summary(
    output: Output,
    ended: BatchSummary,
    sentence: str,
    failures: Sequence[BatchItem[Any]],
    notification: Notification | None = None,
    *,
    url: str = "",
) -> None:
    """Print the outcome of a batch, under one sentence about it; `url` is the option that names its store."""
    output.print(sentence, style="bold green" if is_success(ended) else "bold red")
    counts = ended.counts
    rate = f", {counts.ended * 1000 / ended.duration_ms:,.1f}/s" if counts.ended and ended.duration_ms else ""
    rows = {
        "batch": f"{ended.id} of {ended.workflow}" + (f" ({ended.label})" if ended.label else ""),
        "state": ended.state,
        "items": format_counts(counts),
        "took": f"{humanize_duration(ended.duration_ms)}{rate}",
    }
    rows |= {"error": ended.error} if ended.error else {}
    rows |= {"on_complete": f"failed: {ended.completion_error}"} if ended.completion_error else {}
    rows |= {} if notification is None or notification.error is None else {"notify_url": _sent_text(notification)}
    rows |= {} if ended.counted is None else {"warning": format_overstated_count(ended.counted, counts)}
    print_pairs(output, rows)
    if failures:
        output.print("Failed:")
        print_groups(output, [group for group in ended.errors if group.items])
        ids = ", ".join(item.id for item in failures)
        left = counts.failed - len(failures)
        more = f" and {left:,} more" if left else ""
        output.print(f"  {ids}{more}")
    if failures or ended.completion_error or ended.error:
        output.print(f"  why: {program_name()} batches show {ended.id}{url}")


async def first_failures(handle: BatchHandle[Any]) -> list[BatchItem[Any]]:
    """The first few items that have failed."""
    found: list[BatchItem[Any]] = []
    async for item in handle.items("failed"):
        found.append(item)
        if len(found) == _MAX_FAILURES:
            break
    return found


def print_batches(output: Output, found: Sequence[Batch], now: int, unserved: Sequence[UnservedWork] = ()) -> None:
    """Print a list of batches; `unserved` is the work that no worker serves."""
    if not found:
        output.print("No batches")
        return
    started, times = time_column("started", [it.created_at for it in found])
    columns = ["batch", "workflow", "state", "done", "failed", "skipped", started, "took"]
    notes = [_note(it, now, is_served=not any(_is_of(work, it) for work in unserved)) for it in found]
    rows = [[*_batch_row(it, time, now)] for it, time in zip(found, times, strict=True)]
    priorities = [f"{it.priority}" if it.priority else "" for it in found]
    for title, cells in {"": notes, "priority": priorities, "label": [it.label or "" for it in found]}.items():
        if any(cells):
            columns.append(title)
            rows = [[*row, cell] for row, cell in zip(rows, cells, strict=True)]
    styles = [STATE_STYLES.get(it.state, "yellow" if _has_trouble(it) else "") for it in found]
    print_table(output, columns, rows, styles, numbers=_NUMBER_COLUMNS)


def _batch_row(it: Batch, started: str, now: int) -> tuple[str, ...]:
    counts = it.counts
    return (
        it.id,
        it.workflow,
        it.state,
        f"{counts.succeeded:,}/{max(counts.started, it.total or 0):,}",
        f"{counts.failed:,}",
        f"{counts.skipped:,}",
        started,
        humanize_duration(it.ended_at - it.created_at) if it.ended_at is not None else _elapsed_text(it, now),
    )


def _elapsed_text(it: Batch, now: int) -> str:
    # The clock of the store can be ahead of this machine.
    return humanize_duration(max(0, now - it.created_at) // 1000 * 1000)


def _has_trouble(it: Batch) -> bool:
    return bool(it.counts.failed or it.counts.retrying or it.completion_error)


def _is_of(work: UnservedWork, batch: Batch) -> bool:
    return work.batch == batch.id or (work.batch is None and work.destination.startswith(f"/{batch.workflow}/"))


def _note(it: Batch, now: int, *, is_served: bool = True) -> str:
    """The speed of a batch that is open, its time to go, and its trouble."""
    status = BatchStatus.of(it, now)
    parts: list[str] = []
    if not it.items_ended and status.counts.ended:
        parts.append(f"{status.items_per_second:,.1f}/s")
        parts += [f"{humanize_duration(status.eta_ms // 1000 * 1000)} to go"] if status.eta_ms else []
    parts += [] if is_served or it.items_ended else ["no worker serves it"]
    if it.paused and not it.items_ended:
        parts.append("paused" if it.stop_reason is None else "paused by its failure budget")
    parts += ["waits for approval"] if it.waits_for_approval else []
    parts += [failing_text(status)] if it.counts.retrying else []
    parts += [f"{it.counts.parked:,} parked"] if it.counts.parked else []
    parts += ["on_complete runs"] if it.items_ended and it.working else []
    parts += ["on_complete failed"] if it.completion_error else []
    parts += ["notify_url failed"] if it.notification is not None and it.notification.state == "failed" else []
    return ", ".join(parts)


def print_batch(output: Output, report: BatchDetails, now: int) -> None:
    """Print one batch with its errors."""
    found = report.batch
    counts, status = found.counts, BatchStatus.of(found, now)
    took = f"{humanize_duration(status.elapsed_ms)}, {status.items_per_second:,.1f}/s"
    rows = {
        "batch": found.id + (f" ({found.label})" if found.label else ""),
        "workflow": found.workflow,
        "state": f"{found.state}, paused" if found.paused and not found.items_ended else found.state,
        "parameters": to_json(wire_params(found)).decode(),
        "items": format_counts(counts),
        "eligible": _eligible_text(found),
        "started": format_local_time(found.created_at),
    }
    rows |= {"priority": f"{found.priority}"} if found.priority else {}
    rows |= {"failure budget": f"{found.failure_budget}"} if found.failure_budget else {}
    rows |= {"now": _note(found, now)} if not status.is_over and _note(found, now) else {}
    rows |= {"waits": report.wait_reason.sentence} if report.wait_reason else {}
    rows |= {"ended": format_local_time(found.ended_at), "took": took} if found.ended_at is not None else {}
    rows |= {"error": status.error} if status.error else {}
    rows |= {"on_complete": f"failed: {headline(found.completion_error)}"} if found.completion_error else {}
    rows |= {"notify_url": _notification_text(found, found.notify_url)} if found.notify_url else {}
    counted = overstated_count(found)
    rows |= {} if counted is None else {"warning": format_overstated_count(counted, counts)}
    rows |= {"retry of": found.retry_of} if found.retry_of else {}
    totals = Totals.of(found, report.retries)
    rows |= {} if totals is None else {"with retries": str(totals)}
    print_pairs(output, rows)
    if report.retries:
        output.print(f"Retries ({len(report.retries):,}):", style="bold")
        print_pairs(output, {it.id: f"{it.state}: {format_counts(it.counts)}" for it in report.retries}, indent="  ")
    if found.errors:
        output.print("Errors:", style="bold")
        errors = {item.number: item.error or "" for item in report.examples}
        errors |= {letter.number: letter.error for letter in report.letters if letter.item is None}
        print_groups_with_examples(output, found.errors, errors)
    shown = {item.number for item in report.examples if item.state == "failed"}
    if others := {item.id: _failed_item_text(item) for item in report.failed if item.number not in shown}:
        title = "Other failed items" if shown else "Failed items"
        output.print(f"{title}{_shown_of(len(others), counts.failed - len(shown))}:", style="bold")
        print_pairs(output, others, indent="  ", cut=True)
        output.print(f"  one in full: {program_name()} batches item {found.id} {shlex.quote(next(iter(others)))}")


def _notification_text(batch: Batch, url: str) -> str:
    sent = batch.notification
    return f"{without_credentials(url)}: {'sent when the batch has ended' if sent is None else _sent_text(sent)}"


def _sent_text(notification: Notification) -> str:
    match notification.state:
        case "failed":
            return f"failed: {headline(notification.error or '')}"
        case "succeeded":
            return f"sent at {format_local_time(notification.at)}"
        case "in_progress":
            return "is being sent"


def _failed_item_text(item: Item) -> str:
    return f"{quantity(item.attempts, 'attempt')}: {one_line(headline(item.error or ''))}"


def print_item(output: Output, batch: Batch, item: Item, run: Run | None) -> None:
    """Print all that is known of one item."""
    rows = {
        "item": item.id,
        "batch": f"{batch.id} of {batch.workflow}, number {item.number:,}",
        "state": _item_state(item, batch),
        "attempts": f"{item.attempts:,}",
        "started": format_local_time(run.started_at) if run is not None else "",
        "ended": format_local_time(item.ended_at),
        "result": truncate(masked_text(result_text(item) or "")),
    }
    print_pairs(output, {name: value for name, value in rows.items() if value})
    if item.error:
        output.print("Last error:" if item.state == "open" else "Error:", style="bold")
        print_error(output, item.error)
    if run is not None:
        print_steps(output, run)


def _item_state(item: Item, batch: Batch) -> str:
    return "open, retrying" if item.state == "open" and item.error and not batch.items_ended else item.state


def _eligible_text(found: Batch) -> str:
    text = f"{found.counts.eligible:,} on {quantity(found.pages, 'page')}, {quantity(found.chunks, 'chunk')}"
    return f"{text}; the limit of the trigger ended the walk there" if found.counts.left_out else text


def _limit_text(workflow: Workflow[Any, Any], name: str) -> str:
    layer, _, kind = name.partition(" ")
    if not kind:
        return name
    flow: FlowControl = getattr(workflow.definition, f"{layer}_flow")
    return f"{name}, {format_rate(flow) if kind == 'rate' else flow.parallelism}"


def _shown_of(shown: int, all: int) -> str:
    return f" ({shown:,} of {all:,})" if shown < all else f" ({all:,})"


def end_message(summary: BatchSummary, wire: WireKeys) -> str:
    """A sentence about the end of a batch: for a batch without items, the reason for that."""
    sentence = _items_message(summary, wire)
    return sentence if summary.completion_error is None else f"{sentence}, but on_complete failed"


def _items_message(summary: BatchSummary, wire: WireKeys) -> str:
    counts = summary.counts
    if summary.state != "completed":
        return f"The batch {'was cancelled' if summary.state == 'cancelled' else summary.state}"
    if not counts.started and not counts.eligible:
        return "No eligible items found"
    if not counts.started and counts.already_processed and not counts.in_flight:
        return "All items already processed"
    return f"Processed {wire.quantity(counts.succeeded)}" + (f", {counts.failed:,} failed" if counts.failed else "")
