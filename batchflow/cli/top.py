"""`batchflow top`: a live screen of open batches, the flow keys that hold them back, and workers."""

import asyncio
import contextlib
import sys
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.cells import cell_len
from rich.console import Group
from rich.live import Live
from rich.text import Text

from batchflow.batch.status import BatchStatus
from batchflow.batch.wait_reason import failing_text, flow_keys
from batchflow.cli.flow_keys import key_cells
from batchflow.cli.options import JsonOption, UrlOption
from batchflow.cli.output import Output, format_local_time, shorten
from batchflow.cli.process import SignalHandler
from batchflow.cli.progress import SpeedMeter
from batchflow.cli.target import open_batches
from batchflow.core.batch import Batch
from batchflow.core.duration import humanize_duration
from batchflow.core.flow import FlowStatus
from batchflow.core.message import WorkerStatus
from batchflow.engine.engine import Engine
from batchflow.errors import StoreUnavailable
from batchflow.http.schemas.batches import BatchInfo
from batchflow.http.schemas.top import TopFrame
from batchflow.logs import escape_controls

MOST_BATCHES = 50
"""The number of the latest open batches that one look reads."""

_EVERY_SECONDS = 1.0
_GRACE_SECONDS = 5.0
_SHOWN_WITHOUT_SCREEN = 20
_SILENT_MS = 15_000
_FEW_LINES = 3

Line = tuple[str, str]
"""A line of the screen, and its style."""


@dataclass(frozen=True, kw_only=True)
class ShowTop:
    """Show open batches, the flow keys that hold them back, and workers, live; q or Ctrl-C ends it.

    It reads only the store, once a second. Where stdout is not a terminal it prints one frame. With --json each frame
    is one line.

    Exit codes: 0 shown, 1 the store is unavailable, 2 usage.
    """

    once: Annotated[bool, typer.Option("--once", help="Print one frame and exit.")] = False
    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Print one frame, or one each second until the end."""
        output = Output()
        async with open_batches(self.url) as engine:
            look = Look(engine)
            if self.once or not (self.as_json or output.stdout.is_terminal):
                self._print(output, await look.next())
                return 0
            with SignalHandler(_GRACE_SECONDS) as signals, _keys(signals):
                follow = self._follow_json(look) if self.as_json else _follow(output, look)
                task = asyncio.create_task(follow)
                if await signals.wait_for(task):
                    await task
                task.cancel()
        return 0

    def _print(self, output: Output, frame: "Frame") -> None:
        if self.as_json:
            _print_line(output, frame)
        else:
            for text, style in frame.lines(output.stdout.width, _SHOWN_WITHOUT_SCREEN):
                output.print(text, style=style)

    async def _follow_json(self, look: "Look") -> None:
        while True:
            _print_line(Output(), await look.next())
            await asyncio.sleep(_EVERY_SECONDS)


def _print_line(output: Output, frame: "Frame") -> None:
    output.print_json(frame.document(), indent=None)


async def _follow(output: Output, look: "Look") -> None:
    """Refresh the screen each second; while the store is away the last frame stays, with the reason."""
    frame = await look.next()
    with Live(console=output.stdout, screen=True, auto_refresh=False) as live:
        while True:
            height, width = output.stdout.height, output.stdout.width
            lines = frame.lines(width, max(_FEW_LINES, height // 2))[: height - 1]
            texts = [Text(shorten(escape_controls(text), width), style=style, no_wrap=True) for text, style in lines]
            live.update(Group(*texts), refresh=True)
            await asyncio.sleep(_EVERY_SECONDS)
            try:
                frame = await look.next()
            except StoreUnavailable as error:
                frame = frame.with_outage(str(error).partition("; it is tried again")[0])


@contextlib.contextmanager
def _keys(signals: SignalHandler) -> Generator[None]:
    """End with the key q, as with Ctrl-C, where stdin is a terminal."""
    try:
        import termios
        import tty
    except ImportError:  # not on Windows
        yield
        return
    if not sys.stdin.isatty():
        yield
        return
    descriptor, loop = sys.stdin.fileno(), asyncio.get_running_loop()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)

    def read() -> None:
        if sys.stdin.read(1) in ("q", "Q", ""):
            signals.stop_requested.set()

    loop.add_reader(descriptor, read)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@dataclass(frozen=True, slots=True)
class _Row:
    """An open batch, with its speed over the last seconds and why it goes no faster."""

    batch: Batch
    status: BatchStatus
    per_second: float
    eta_ms: int | None
    waits: str


class Look:
    """Reads the store for one frame after the other; speeds are those between them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._meters: dict[str, SpeedMeter] = {}

    async def next(self) -> "Frame":
        """Read what one frame shows: four reads, of which none counts what waits."""
        store, now = self._engine.store, self._engine.now()
        found = await store.batches(open_only=True, limit=MOST_BATCHES + 1, params=False)
        names = {name for batch in found for name in flow_keys(None, batch)}
        keys = await store.flows(sorted(names), waiting=False) if names else ()
        workers = await store.workers()
        self._meters = {it.id: self._meters.get(it.id) or SpeedMeter() for it in found}
        by_name = {it.limits.key or "": it for it in keys}
        rows = [self._row(batch, by_name, workers, now) for batch in found[:MOST_BATCHES]]
        shown = [it for it in keys if _binds(it, now) or it.in_use]
        return Frame(store.location, now, rows, len(found) > MOST_BATCHES, shown, workers)

    def _row(self, batch: Batch, keys: Mapping[str, FlowStatus], workers: Sequence[WorkerStatus], now: int) -> _Row:
        status, meter = BatchStatus.of(batch, now), self._meters[batch.id]
        is_first = meter.is_empty
        meter.update(status)
        # The first frame has no other to compare with: the mean since the trigger.
        speed = status.items_per_second if is_first else meter.per_second
        eta = status.eta_ms if is_first else meter.eta_ms(status)
        return _Row(
            batch, status, speed, eta, _waits_text(status, batch, keys, workers if self._engine.executes else None, now)
        )


def _waits_text(
    status: BatchStatus, batch: Batch, keys: Mapping[str, FlowStatus], workers: Sequence[WorkerStatus] | None, now: int
) -> str:
    """Why a batch goes no faster, as far as these few reads tell; `batches why` knows more.

    `workers` is None if none is needed.
    """
    if batch.paused:
        return "paused"
    if batch.state == "cancelling":
        return "being cancelled"
    parts = [failing_text(status), f"{batch.counts.parked:,} parked" if batch.counts.parked else ""]
    prefix = f"/{batch.workflow}/"
    live = [it for it in workers or () if not it.lost]
    if workers is not None and not any(not it.serves or any(to.startswith(prefix) for to in it.serves) for it in live):
        parts.append("no live worker serves it")
    for name, part in flow_keys(None, batch).items():
        flow = keys.get(name)
        if flow is None or not _binds(flow, now) or not (batch.working if part else batch.counts.open):
            continue
        closed = f"{part}key {key_cells(flow, now)[-1]}"
        parts.append(closed if _is_closed(flow, now) else f"limit: {part}parallelism {flow.limits.parallelism}")
    return "; ".join(part for part in parts if part)


def _is_closed(flow: FlowStatus, now: int) -> bool:
    return flow.paused or flow.parked_until > now


def _binds(flow: FlowStatus, now: int) -> bool:
    limit = flow.limits.parallelism
    return _is_closed(flow, now) or (limit is not None and flow.in_use >= limit)


@dataclass(frozen=True, slots=True)
class Frame:
    """The result of one look, as lines for people or as a document."""

    location: str
    at: int
    rows: Sequence[_Row]
    has_more: bool
    keys: Sequence[FlowStatus]
    workers: Sequence[WorkerStatus]
    outage: str = ""

    def with_outage(self, reason: str) -> "Frame":
        """The same, while the store is away."""
        return Frame(self.location, self.at, self.rows, self.has_more, self.keys, self.workers, reason)

    def document(self) -> object:
        """The document of the frame."""
        batches = [BatchInfo.of(row.batch, self.at) for row in self.rows]
        return TopFrame.of(self.at, batches, self.has_more, self.keys, self.workers).document()

    def lines(self, width: int, most_batches: int) -> list[Line]:
        """The lines of the frame, each within a terminal of this width."""
        head = f"batchflow top  {format_local_time(self.at, '%H:%M:%S %z')}  {self.location}"
        lines: list[Line] = [(shorten(head, width), "bold")]
        if self.outage:
            lines.append((f"the store is away: {self.outage}, trying again", "red"))
        return [*lines, *self._batch_lines(width, most_batches), *self._key_lines(width), *self._worker_lines(width)]

    def _batch_lines(self, width: int, most: int) -> list[Line]:
        if not self.rows:
            return [("", ""), ("No open batches", "")]
        cells = [("batch", "workflow", "done", "rate", "left", "failed")]
        cells += [_batch_cells(row) for row in self.rows[:most]]
        table = _table(cells, width, right={2, 3, 4, 5}, widest=1)
        lines: list[Line] = [("", ""), (table[0], "bold")]
        for row, line in zip(self.rows, table[1:], strict=False):
            counts = row.status.counts
            inline = cell_len(table[0]) + 2 + cell_len(row.waits) <= width
            text = f"{line.ljust(len(table[0]))}  {row.waits}" if inline and row.waits else line
            failing = "red" if counts.failed and not counts.succeeded else ""
            lines.append((text, failing or ("yellow" if row.waits and inline else "")))
            if row.waits and not inline:
                lines.append((shorten(f"    {row.waits}", width), "yellow"))
        more = len(self.rows) - most
        if more > 0:
            lines.append((f"… {more:,}{'+' if self.has_more else ''} more", "dim"))
        elif self.has_more:
            lines.append(("… more", "dim"))
        return lines

    def _key_lines(self, width: int) -> list[Line]:
        if not self.keys:
            return []
        cells = [("flow key", "running", "rate", "state")]
        for it in self.keys:
            key, parallelism, rate, state = key_cells(it, self.at)
            limit = "" if it.limits.parallelism is None else f" of {parallelism}"
            cells.append((key, f"{it.in_use:,}{limit}", rate, state))
        table = _table(cells, width, right={1}, widest=0)
        styles = ["bold", *("yellow" if _binds(it, self.at) else "" for it in self.keys)]
        return [("", ""), *_few(list(zip(table, styles, strict=True)))]

    def _worker_lines(self, width: int) -> list[Line]:
        if not self.workers:
            return [("", ""), ("No workers", "yellow" if self.rows else "")]
        cells = [("worker", "state", "heartbeat", "load")]
        for it in self.workers:
            silent = max(0, self.at - it.seen_at) if it.seen_at else 0
            state = "lost" if it.lost else "silent" if silent > _SILENT_MS else "alive"
            load = f"{it.held:,} of {it.concurrency:,}" if it.concurrency else f"{it.held:,}"
            cells.append((it.name, state, f"{humanize_duration(silent // 1000 * 1000)} ago", load))
        table = _table(cells, width, right={2, 3}, widest=0)
        styles = ["bold", *("" if row[1] == "alive" else "red" for row in cells[1:])]
        return [("", ""), *_few(list(zip(table, styles, strict=True)))]


def _few(lines: list[Line], most: int = 10) -> list[Line]:
    """The title and the first lines of a table, with the number of the others."""
    more = len(lines) - 1 - most
    return lines if more <= 0 else [*lines[: most + 1], (f"… {more:,} more", "dim")]


def _batch_cells(row: _Row) -> tuple[str, ...]:
    status = row.status
    label = f" ({status.label})" if status.label else ""
    total = f"{status.total:,}" if status.is_total_known else f"{status.total:,}+"
    percent = "" if status.percent is None else f" {int(status.percent)}%"
    left = "" if row.eta_ms is None else humanize_duration((row.eta_ms + 999) // 1000 * 1000)
    done = f"{status.counts.ended:,}/{total}{percent}"
    return status.id, status.workflow + label, done, f"{row.per_second:,.1f}/s", left, f"{status.counts.failed:,}"


def _table(rows: Sequence[tuple[str, ...]], width: int, *, right: set[int], widest: int) -> list[str]:
    """Rows as lines of aligned cells; the column `widest` gives up what a line has beyond the width."""
    safe = [[escape_controls(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*safe, strict=True)]
    over = sum(widths) + 2 * (len(widths) - 1) - width
    if over > 0:
        widths[widest] = max(8, widths[widest] - over)
    lines: list[str] = []
    for row in safe:
        cells: list[str] = []
        for place, cell in enumerate(row):
            text = cell if cell_len(cell) <= widths[place] else _cut(cell, widths[place])
            space = " " * (widths[place] - cell_len(text))
            cells.append(space + text if place in right else text + space)
        lines.append("  ".join(cells).rstrip())
    return lines


def _cut(text: str, width: int) -> str:
    while cell_len(text) > width - 1:
        text = text[:-1]
    return f"{text}…"
