"""`batchflow batches why`: what a batch waits for."""

from collections.abc import Sequence
from dataclasses import dataclass

from batchflow.batch.why import BindingKey, WaitReport, explain_wait
from batchflow.cli.batches import BatchIdArgument, require_batch
from batchflow.cli.flow_keys import print_holders, print_keys
from batchflow.cli.options import JsonOption, UrlOption
from batchflow.cli.output import Output, print_table, program_name, shorten
from batchflow.cli.target import open_batches
from batchflow.core.duration import humanize_duration
from batchflow.core.message import OpenMessage, WorkerStatus
from batchflow.core.report import headline, one_line
from batchflow.core.secrets import masked_text
from batchflow.http.schemas.why import BatchWaitInfo

_NAME_CELLS = 32
# Ids of items may be URLs.


@dataclass(frozen=True, kw_only=True)
class ExplainBatch:
    """Tell why a batch is not done: a sentence, the first open items, and what holds them back.

    Items that are tried again come first, then those that run, the oldest first, then those that wait.
    """

    id: BatchIdArgument
    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Print the reasons."""
        async with open_batches(self.url) as engine:
            # The app of the batch is not known here, only its store.
            report = await explain_wait(engine, None, await require_batch(engine, self.id))
        if self.as_json:
            Output().print_json(BatchWaitInfo.of(report).document())
        else:
            _print_report(Output(), report)
        return 0


def _print_report(output: Output, report: WaitReport) -> None:
    batch = report.batch
    label = f" ({batch.label})" if batch.label else ""
    output.print(f"{batch.workflow} {batch.id}{label}: {report.sentence}")
    if report.layers:
        _print_messages(output, f"Layers ({batch.working:,} open):", report.layers, report)
    if report.items:
        shown = f"{len(report.items):,} of {batch.counts.open:,}"
        all = f"{batch.counts.open:,}"
        title = f"Open items ({shown if len(report.items) < batch.counts.open else all}):"
        _print_messages(output, title, report.items, report)
    if report.keys:
        _print_keys(output, report.keys, report.at)
    if report.workers:
        _print_workers(output, report.workers, report.at)
    if report.items:
        output.print()
        output.print(f"one in full: {program_name()} batches item {batch.id} ITEM", style="dim")


def _print_messages(output: Output, title: str, messages: Sequence[OpenMessage], report: WaitReport) -> None:
    output.print()
    output.print(title, style="bold")
    rows = [
        (
            shorten(it.item or it.id.removeprefix(f"{report.batch.id}."), _NAME_CELLS),
            it.state,
            f"{it.attempts:,}",
            *_doing(it, report),
        )
        for it in messages
    ]
    below = [one_line(masked_text(headline(it.error))) if it.error else "" for it in messages]
    styles = ["yellow" if it.state in ("retrying", "parked", "lost") else "" for it in messages]
    first = "item" if messages[0].number >= 0 else "message"
    columns = [first, "state", "failed", "when", "at"]
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    print_table(output, columns, rows, styles, numbers=("failed",), below=below)


def _doing(message: OpenMessage, report: WaitReport) -> tuple[str, str]:
    """When a message goes on or since when it runs; its worker or its step."""
    if message.state == "running":
        since = report.at - (message.started_at or report.at)
        return f"for {_seconds(since)}", message.worker or ""
    when = f"in {_seconds(message.due_at - report.at + 999)}" if message.due_at else ""
    if message.state in ("retrying", "parked", "lost"):
        when = when or "now"
    return when, report.steps.get(message.id, "")


def _print_keys(output: Output, keys: Sequence[BindingKey], now: int) -> None:
    output.print()
    output.print("Flow keys that hold it back:", style="bold")
    print_keys(output, [it.status for it in keys], now, waiting=False)
    for status, holders in keys:
        if holders:
            output.print()
            output.print(f"Held longest under {status.limits.key}:", style="bold")
            print_holders(output, holders, now)


def _print_workers(output: Output, workers: Sequence[WorkerStatus], now: int) -> None:
    output.print()
    output.print("Workers that serve it:", style="bold")
    rows = [
        (
            it.name,
            "lost" if it.lost else "working",
            f"{it.held:,} of {it.concurrency:,}" if it.concurrency else f"{it.held:,}",
            f"{_seconds(now - it.seen_at)} ago" if it.seen_at else "",
        )
        for it in workers
    ]
    styles = ["red" if it.lost else "" for it in workers]
    print_table(output, ["worker", "state", "holds", "heartbeat"], rows, styles)


def _seconds(ms: int) -> str:
    return humanize_duration(max(0, ms) // 1000 * 1000)
