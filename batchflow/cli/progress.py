"""The progress of a running batch: its speed, the limit that binds it, and the bar or lines that show them."""

import asyncio
from collections import deque
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from batchflow.app import Batchflow
from batchflow.batch.bound import Workflow
from batchflow.batch.handle import BatchHandle
from batchflow.batch.status import BatchStatus
from batchflow.cli.output import LogWriter, Output
from batchflow.core.duration import format_duration, humanize_duration
from batchflow.core.flow import FlowControl, FlowStatus
from batchflow.errors import StoreUnavailable

POLL_SECONDS = 0.25
_RETRY_SECONDS = 1.0
_WINDOW_MS = 5_000
_LIMIT_POLL_MS = 1_000
# Flow keys are read less often: the store counts all waiting messages for them.
_EVERY_MS = 5_000
_BAR_WIDTH = 40


@dataclass(frozen=True, slots=True)
class ProgressSnapshot:
    """The status of a batch, its recent speed in items per second, the time left at that speed, the binding limit."""

    status: BatchStatus
    per_second: float
    eta_ms: int | None
    limit: str

    @property
    def extent(self) -> str:
        """`540 of 1,000 (54%)`; `540 of 800 so far` until the total is known."""
        status = self.status
        if status.is_total_known:
            return f"{status.counts.ended:,} of {status.total:,} ({int(status.percent or 0)}%)"
        return f"{status.counts.ended:,} of {status.total:,} so far"

    @property
    def counts(self) -> str:
        """`540 done, 0 failed, 200 skipped`."""
        counts = self.status.counts
        return f"{counts.succeeded:,} done, {counts.failed:,} failed, {counts.skipped:,} skipped"

    @property
    def pace(self) -> str:
        """`98.7/s, 5s to go, limit: rate 100/s`; without the parts that are unknown."""
        if self.status.is_over:
            return f"{self.status.items_per_second:,.1f}/s on average"
        parts = [f"{self.per_second:,.1f}/s"]
        # Whole seconds: nobody can use more, and it would flicker.
        parts += [f"{humanize_duration((self.eta_ms + 999) // 1000 * 1000)} to go"] if self.eta_ms else []
        parts += [f"limit: {self.limit}"] if self.limit else []
        return ", ".join(parts)


class ProgressDisplay(AbstractContextManager["ProgressDisplay"], Protocol):
    """Shows the progress of a batch inside its `with` block."""

    def update(self, snapshot: ProgressSnapshot) -> None:
        """Show the present progress."""
        ...


def make_display(output: Output, log_writer: LogWriter, *, silent: bool) -> ProgressDisplay:
    """A bar if stdout is a terminal, plain lines otherwise; nothing if `silent`."""
    if silent:
        return _NoDisplay()
    if output.stdout.is_terminal:
        return _BarDisplay(output.stdout, log_writer)
    return _LineDisplay(output)


class _NoDisplay(ProgressDisplay):
    def update(self, snapshot: ProgressSnapshot) -> None:
        pass

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        pass


class _LineDisplay(ProgressDisplay):
    def __init__(self, output: Output) -> None:
        self._output = output
        self._next_ms: int | None = None

    def update(self, snapshot: ProgressSnapshot) -> None:
        elapsed = snapshot.status.elapsed_ms
        if self._next_ms is None:
            self._next_ms = elapsed + _EVERY_MS
        elif elapsed >= self._next_ms and not snapshot.status.is_over:
            self._next_ms = elapsed + _EVERY_MS
            self._output.print(f"{snapshot.status.workflow}: {snapshot.extent}, {snapshot.pace}; {snapshot.counts}")
            # The reader of a pipe must not wait until the buffer is full.
            self._output.stdout.file.flush()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        pass


class _BarDisplay(ProgressDisplay):
    """Two lines at the bottom of the terminal; log lines go above them."""

    def __init__(self, console: Console, log_writer: LogWriter) -> None:
        self._console = console
        self._log_writer = log_writer
        self._snapshot: ProgressSnapshot | None = None
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=8)

    def update(self, snapshot: ProgressSnapshot) -> None:
        self._snapshot = snapshot

    def __enter__(self) -> "_BarDisplay":
        self._log_writer.begin_bar(self._console)
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A bar that has never moved adds nothing to the summary below it.
        self._live.transient = self._snapshot is None or not self._snapshot.status.counts.started
        self._live.stop()
        self._log_writer.end_bar()

    def _render(self) -> Group:
        snapshot = self._snapshot
        if snapshot is None or not (snapshot.status.total or snapshot.status.is_total_known):
            return Group(Text("looking for items …", style="dim"))
        status = snapshot.status
        bar = ProgressBar(
            total=max(1, status.total) if status.is_total_known else None,
            completed=status.counts.ended,
            width=_BAR_WIDTH,
        )
        first = Table.grid(padding=(0, 1))
        first.add_row(Text(status.workflow, style="bold"), bar, Text(snapshot.extent))
        counts = Text(snapshot.counts, style="red" if status.counts.failed else "")
        second = Table.grid(padding=(0, 1))
        second.add_row(Text.assemble(counts, Text(f"  {snapshot.pace}", style="cyan")))
        return Group(first, second)


async def watch_batch(
    handle: BatchHandle[Any], workflow: Workflow[Any, Any], flow: Batchflow, display: ProgressDisplay
) -> None:
    """Show the batch until it ends. Reads are retried while the store is unavailable."""
    while True:
        try:
            await _watch_once(handle, workflow, flow, display)
            return
        except StoreUnavailable:
            await asyncio.sleep(_RETRY_SECONDS)


async def _watch_once(
    handle: BatchHandle[Any], workflow: Workflow[Any, Any], flow: Batchflow, display: ProgressDisplay
) -> None:
    speed = SpeedMeter()
    limit, checked_at = "", -_LIMIT_POLL_MS
    async for status in handle.progress(POLL_SECONDS):
        speed.update(status)
        if status.elapsed_ms - checked_at >= _LIMIT_POLL_MS and not status.is_over:
            limit, checked_at = await _find_limit(workflow, flow), status.elapsed_ms
        display.update(ProgressSnapshot(status, speed.per_second, speed.eta_ms(status), limit))


@dataclass(frozen=True, slots=True)
class _Sample:
    elapsed_ms: int
    ended: int


class SpeedMeter:
    """Measures items per second over the last seconds, so that the pause before a resumption does not count."""

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque()

    def update(self, status: BatchStatus) -> None:
        """Add the present status."""
        self._samples.append(_Sample(status.elapsed_ms, status.counts.ended))
        while len(self._samples) > 2 and status.elapsed_ms - self._samples[0].elapsed_ms > _WINDOW_MS:
            self._samples.popleft()

    @property
    def per_second(self) -> float:
        """The recent speed; 0 if it is unknown."""
        first, last = self._samples[0], self._samples[-1]
        ms = last.elapsed_ms - first.elapsed_ms
        return (last.ended - first.ended) * 1000 / ms if ms > 0 else 0.0

    def eta_ms(self, status: BatchStatus) -> int | None:
        """The time that the rest takes at this speed; None while the total or the speed is unknown."""
        left = status.total - status.counts.ended
        if not status.is_total_known or not self.per_second:
            return None
        return round(left * 1000 / self.per_second)


async def _find_limit(workflow: Workflow[Any, Any], flow: Batchflow) -> str:
    keys = workflow.definition
    names = {str(keys.execute_flow.key): "", str(keys.paginate_flow.key): "paginate "}
    found = await flow.engine.store.flows(list(names))
    now = flow.engine.now()
    # Items first: while any of them wait, the pages do not bind.
    return binding_limit(
        sorted(found, key=lambda it: names[it.limits.key or ""]), names, flow.settings.concurrency, now
    )


def binding_limit(flows: list[FlowStatus], names: Mapping[str, str], concurrency: int, now: int) -> str:
    """The limit that holds back the first of these flow keys with waiting messages; empty if none of them waits."""
    for flow in flows:
        name = names[flow.limits.key or ""]
        if flow.paused:
            return f"{name}paused by an operator"
        if flow.parked_until > now:
            return f"{name}asked to wait for {format_duration((flow.parked_until - now + 999) // 1000 * 1000)}"
        if flow.waiting:
            return name + _flow_limit_text(flow, concurrency)
    return ""


def _flow_limit_text(flow: FlowStatus, concurrency: int) -> str:
    limits = flow.limits
    if limits.parallelism is not None and flow.in_use >= limits.parallelism:
        return f"parallelism {limits.parallelism}"
    if limits.rate is None or flow.in_use >= concurrency:
        return f"concurrency {concurrency}"
    return f"rate {format_rate(limits)}"


def format_rate(limits: FlowControl) -> str:
    """A rate such as "5/s" or "100/1m"."""
    return f"{limits.rate}/{'s' if limits.period_ms == 1000 else format_duration(limits.period_ms)}"
