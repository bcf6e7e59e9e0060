"""What is seen of a batch while it runs: a bar in a terminal, a plain line now and then elsewhere, or nothing."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from batchflow.batch.status import BatchStatus
from batchflow.cli.logs import LogLines
from batchflow.cli.output import Output
from batchflow.core.duration import show

_EVERY_MS = 5_000
_BAR_WIDTH = 40


@dataclass(frozen=True, slots=True)
class Moment:
    """A batch as it stands: its status, its speed of late, what is left at that speed, what holds it back."""

    status: BatchStatus
    per_second: float
    eta_ms: int | None
    limit: str

    @property
    def how_far(self) -> str:
        """`540 of 1,000 (54%)`; `540 of 800 so far` while the total is not known."""
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
        """`98.7/s, 5s to go, limit: rate 100/s`; what is not known is left out."""
        if self.status.is_final:
            return f"{self.status.items_per_second:,.1f}/s on average"
        parts = [f"{self.per_second:,.1f}/s"]
        # Whole seconds: nobody can use more, and it would flicker.
        parts += [f"{show((self.eta_ms + 999) // 1000 * 1000)} to go"] if self.eta_ms else []
        parts += [f"limit: {self.limit}"] if self.limit else []
        return ", ".join(parts)


class Display(AbstractContextManager["Display"], Protocol):
    """Something that shows a batch while it is entered."""

    def show(self, moment: Moment) -> None:
        """The batch now."""
        ...


def display_for(output: Output, lines: LogLines, *, silent: bool) -> Display:
    """A bar where stdout is a terminal, else plain lines, and nothing where `silent`."""
    if silent:
        return _Nothing()
    if output.out.is_terminal:
        return _Bar(output.out, lines)
    return _Lines(output)


class _Nothing(Display):
    def show(self, moment: Moment) -> None:
        pass

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        pass


class _Lines(Display):
    def __init__(self, output: Output) -> None:
        self._output = output
        self._next_ms: int | None = None

    def show(self, moment: Moment) -> None:
        elapsed = moment.status.elapsed_ms
        if self._next_ms is None:
            self._next_ms = elapsed + _EVERY_MS
        elif elapsed >= self._next_ms and not moment.status.is_final:
            self._next_ms = elapsed + _EVERY_MS
            self._output.say(f"{moment.status.workflow}: {moment.how_far}, {moment.pace}; {moment.counts}")
            # Whoever follows a pipe wants it now.
            self._output.out.file.flush()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        pass


class _Bar(Display):
    """Two lines at the bottom of the terminal; log lines go above them."""

    def __init__(self, console: Console, lines: LogLines) -> None:
        self._console = console
        self._lines = lines
        self._moment: Moment | None = None
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=8)

    def show(self, moment: Moment) -> None:
        self._moment = moment

    def __enter__(self) -> "_Bar":
        self._lines.above(self._console)
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A bar that has never moved says less than the summary under it.
        self._live.transient = self._moment is None or not self._moment.status.counts.started
        self._live.stop()
        self._lines.below()

    def _render(self) -> Group:
        moment = self._moment
        if moment is None or not (moment.status.total or moment.status.is_total_known):
            return Group(Text("looking for items …", style="dim"))
        status = moment.status
        bar = ProgressBar(
            total=max(1, status.total) if status.is_total_known else None,
            completed=status.counts.ended,
            width=_BAR_WIDTH,
        )
        first = Table.grid(padding=(0, 1))
        first.add_row(Text(status.workflow, style="bold"), bar, Text(moment.how_far))
        counts = Text(moment.counts, style="red" if status.counts.failed else "")
        second = Table.grid(padding=(0, 1))
        second.add_row(Text.assemble(counts, Text(f"  {moment.pace}", style="cyan")))
        return Group(first, second)
