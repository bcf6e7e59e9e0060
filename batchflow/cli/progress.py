"""The progress of a running batch: its speed, the limit that binds it, and the bar or lines that show them."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from batchflow.app import Batchflow
from batchflow.batch.handle import BatchHandle
from batchflow.batch.status import BatchStatus
from batchflow.batch.wait_reason import failing_text
from batchflow.cli.output import LogWriter, Output
from batchflow.cli.process import cancel_and_wait
from batchflow.core.duration import humanize_duration
from batchflow.engine.loop_monitor import BlockedLoop
from batchflow.errors import StoreUnavailable
from batchflow.logs import escape_controls

POLL_SECONDS = 0.25
_RETRY_SECONDS = 1.0
_WINDOW_MS = 5_000
_SILENT_MS = 2_000
_EVERY_MS = 5_000
_BAR_WIDTH = 40
_BLOCKED_S = 1.5


@dataclass(frozen=True, slots=True)
class ProgressSnapshot:
    """The status of a batch at a time, its recent speed in items per second, the time left at that speed.

    `outage` is a sentence about a store that does not answer; it takes the place of the reason in the status.
    """

    status: BatchStatus
    per_second: float = 0.0
    eta_ms: int | None = None
    outage: str = ""
    at: int = 0

    @property
    def extent(self) -> str:
        """`540 of 1,000 (54%)`; `540 of 800 so far` until the total is known."""
        status, done = self.status, self.status.counts.ended
        if not status.is_total_known:
            return f"{done:,} of {status.total:,} so far"
        percent = int(status.percent or 0)
        # Rounded numbers and counts that follow a moment later must not tell of an end that has not come.
        percent = percent if status.state == "completed" else min(percent, 99)
        return f"{done:,} of {status.total:,} ({percent}%)"

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
        # Where nothing gets done because all attempts fail, a limit is not the reason.
        moves = self.per_second > 0 or not self.status.counts.retrying
        reason = self.status.wait_reason
        parts += [reason.sentence] if reason and reason.code == "limit" and moves and not self.outage else []
        return ", ".join(parts)

    @property
    def trouble(self) -> str:
        """`20 retrying: 15 × ConnectError, 5 × ReadTimeout`, and why nothing starts; empty if all is well."""
        parked, reason = self.status.counts.parked, self.status.wait_reason
        why = self.outage or (reason.sentence if reason and reason.code != "limit" else "")
        parts = [failing_text(self.status), f"{parked:,} parked" if parked else "", why]
        return "" if self.status.is_over else "; ".join(part for part in parts if part)

    @property
    def style(self) -> str:
        """Red if nothing has succeeded and something has failed, yellow if something fails, else green."""
        counts = self.status.counts
        if not (counts.failed or counts.retrying or self.status.error or self.status.completion_error):
            return "yellow" if counts.cancelled else "green"
        return "yellow" if counts.succeeded else "red"


class ProgressDisplay(AbstractContextManager["ProgressDisplay"], Protocol):
    """Shows the progress of a batch inside its `with` block."""

    def update(self, snapshot: ProgressSnapshot) -> None:
        """Show the present progress."""
        ...


def make_display(
    output: Output,
    log_writer: LogWriter,
    *,
    silent: bool,
    blocked_loop: Callable[[], BlockedLoop | None] = lambda: None,
) -> ProgressDisplay:
    """A bar if stdout is a terminal, plain lines otherwise; nothing if `silent`.

    `blocked_loop` returns the code that blocks the event loop, as `Engine.blocked_loop`.
    """
    if silent:
        return _NoDisplay()
    if output.stdout.is_terminal:
        return _BarDisplay(output.stdout, log_writer, blocked_loop)
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
        if self._next_ms is None:
            self._next_ms = snapshot.at + _EVERY_MS
        elif snapshot.at >= self._next_ms and not snapshot.status.is_over:
            self._next_ms = snapshot.at + _EVERY_MS
            line = f"{snapshot.status.workflow}: {snapshot.extent}, {snapshot.pace}; {snapshot.counts}"
            self._output.print(f"{line}; {trouble}" if (trouble := snapshot.trouble) else line, flush=True)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        pass


class _BarDisplay(ProgressDisplay):
    """Two or three lines at the bottom of the terminal; log lines go above them."""

    def __init__(self, console: Console, log_writer: LogWriter, blocked_loop: Callable[[], BlockedLoop | None]) -> None:
        self._console = console
        self._blocked_loop = blocked_loop
        self._log_writer = log_writer
        self._snapshot: ProgressSnapshot | None = None
        self._updated_at = console.get_time()
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=8)

    def update(self, snapshot: ProgressSnapshot) -> None:
        self._snapshot = snapshot
        self._updated_at = self._console.get_time()

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
        # Called by a thread. Updates come from the event loop, several a second, whatever the store does.
        silent_s = self._console.get_time() - self._updated_at
        trouble = "" if snapshot is None else snapshot.trouble
        if silent_s > _BLOCKED_S:
            found = self._blocked_loop()
            where = f"at {found.place}" if found is not None and found.place else "by code that does not await"
            trouble = f"the event loop has been blocked for {int(silent_s)}s {where}"
        third = [_one_line(trouble, "yellow")] if trouble else []
        if snapshot is None or not (snapshot.status.total or snapshot.status.is_total_known):
            return Group(Text("looking for items …", style="dim"), *third)
        status, style = snapshot.status, snapshot.style
        bar = ProgressBar(
            total=max(1, status.total) if status.is_total_known else None,
            completed=status.counts.ended,
            width=_BAR_WIDTH,
            complete_style=style,
            finished_style=style,
            pulse_style=style,
        )
        first = Table.grid(padding=(0, 1))
        first.add_row(Text(status.workflow, style="bold"), bar, Text(snapshot.extent))
        second = _one_line(f"{snapshot.counts}  ", "" if style == "green" else style)
        second.append(snapshot.pace, style="cyan")
        return Group(first, second, *third)


def _one_line(text: str, style: str) -> Text:
    return Text(escape_controls(text), style=style, no_wrap=True, overflow="ellipsis")


async def watch_batch(handle: BatchHandle[Any], flow: Batchflow, display: ProgressDisplay) -> None:
    """Show the batch until it ends. Reads are retried while the store is unavailable."""
    watch = _BatchWatch(handle, flow, display)
    ticking = asyncio.create_task(watch.tick())
    try:
        while True:
            try:
                await watch.follow()
                return
            except StoreUnavailable as error:
                watch.report_outage(error)
                await asyncio.sleep(_RETRY_SECONDS)
    finally:
        await cancel_and_wait(ticking)


class _BatchWatch:
    """Reads a batch, and updates its display several times a second, even while the store does not answer."""

    def __init__(self, handle: BatchHandle[Any], flow: Batchflow, display: ProgressDisplay) -> None:
        self._handle = handle
        self._flow = flow
        self._display = display
        self._speed = SpeedMeter()
        self._snapshot: ProgressSnapshot | None = None
        self._outage = ""
        self._answered_at = 0

    async def follow(self) -> None:
        """Read the batch until it ends."""
        self._speed = SpeedMeter()
        async for status in self._handle.progress(POLL_SECONDS):
            self._speed.update(status)
            self._outage, self._answered_at = "", self._flow.engine.now()
            eta_ms = self._speed.eta_ms(status)
            self._show(ProgressSnapshot(status, self._speed.per_second, eta_ms, at=self._answered_at))

    def report_outage(self, error: StoreUnavailable) -> None:
        """Show from now on that the store is away."""
        self._outage = f"the store is away: {str(error).partition('; it is tried again')[0]}, trying again"

    async def tick(self) -> None:
        """Update the display while no answer comes."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            now, snapshot = self._flow.engine.now(), self._snapshot
            silent_ms = now - self._answered_at
            if snapshot is None or silent_ms < (_RETRY_SECONDS * 1000 if self._outage else _SILENT_MS):
                continue
            reason = self._outage or f"the store has not answered for {silent_ms // 1000}s"
            self._show(replace(snapshot, per_second=0.0, eta_ms=None, outage=reason, at=now))

    def _show(self, snapshot: ProgressSnapshot) -> None:
        self._snapshot = snapshot
        self._display.update(snapshot)


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
    def is_empty(self) -> bool:
        """True before the first status."""
        return not self._samples

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
