"""Where a command writes: what was asked for to stdout, what went wrong and log lines to stderr."""

import json
import os
import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import structlog
from rich.console import Console
from rich.text import Text

_UNLIMITED_WIDTH = 10_000
# Columns where nobody looks: a table in a file is not cut off.


class Output:
    """The two streams of one command. A `quiet` one says nothing to people."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.stdout = _make_console(stderr=False)
        self.stderr = _make_console(stderr=True)
        self.stdout.quiet = quiet

    def print(self, text: str = "", *, style: str = "", flush: bool = False) -> None:
        """A line for people; `at_once`, where the command goes on for long and its output may be a pipe."""
        self.stdout.print(text, style=style or None, soft_wrap=True)
        if flush:
            self.stdout.file.flush()

    def print_json(self, value: object) -> None:
        """The one JSON document of a command that was asked for JSON."""
        print(json.dumps(value, indent=2, ensure_ascii=False))


def program_name() -> str:
    """How the user calls this command here: by its name, or by the path of the environment it is installed in."""
    if shutil.which("batchflow"):
        return "batchflow"
    script = Path(sys.executable).parent / "batchflow"
    return min(os.path.relpath(script), str(script), key=len) if script.exists() else "python -m batchflow.cli"


def _make_console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _UNLIMITED_WIDTH
    return console


STATE_STYLES = {"failed": "red", "cancelled": "yellow", "cancelling": "yellow"}


def print_table(
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
        output.print("  ".join(cells).rstrip(), style=style)


def print_pairs(output: Output, rows: Mapping[str, str], indent: str = "") -> None:
    """Names and values, one pair a line."""
    width = max(map(len, rows))
    for name, value in rows.items():
        output.stdout.print(f"{indent}{name:<{width}}", style="dim", end="  ")
        output.print(value)


def first_line(error: str | None) -> str:
    """The sentence of an error that is kept with its traceback."""
    return (error or "").split("\n", 1)[0]


def format_local_time(ms: int | None, format: str = "%Y-%m-%d %H:%M:%S") -> str:
    """A time in the time zone of whoever reads it; empty where there is none."""
    return "" if ms is None else datetime.fromtimestamp(ms / 1000, UTC).astimezone().strftime(format)


LOG_LEVELS = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40}
_WARNING = LOG_LEVELS["WARNING"]
_MAX_LINES_ABOVE_BAR = 10
# Lines above a bar: ten thousand failing items would push everything else out of sight.


class LogWriter:
    """While it is entered, structlog writes here; an app that has configured structlog itself is left alone.

    Unless `verbose`, a value of several lines is cut after the first.
    """

    def __init__(self, level: str, output: Output, *, verbose: bool = False) -> None:
        self._output = output
        self._verbose = verbose
        self._level = LOG_LEVELS[level]
        self._min_level = self._level
        self._console = output.stderr
        self._lines_left: int | None = None
        self._dropped = 0
        self._configured = False

    def __enter__(self) -> "LogWriter":
        if not structlog.is_configured():
            self._configured = True
            structlog.configure(
                processors=[
                    self._filter_level,
                    self._cut_to_one_line,
                    structlog.contextvars.merge_contextvars,
                    structlog.processors.add_log_level,
                    structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
                    structlog.dev.ConsoleRenderer(
                        colors=self._output.stderr.is_terminal,
                        pad_event_to=0,
                        exception_formatter=structlog.dev.plain_traceback,
                    ),
                ],
                wrapper_class=structlog.make_filtering_bound_logger(self._level),
                logger_factory=lambda *_: _LogSink(self),
                cache_logger_on_first_use=False,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._configured:
            structlog.reset_defaults()

    def begin_bar(self, console: Console) -> None:
        """A bar is shown from here on: lines go above it, and only a few warnings of them unless verbose."""
        if self._output.stderr.is_terminal:
            self._console = console
        if not self._verbose:
            self._min_level = max(self._level, _WARNING)
            self._lines_left = _MAX_LINES_ABOVE_BAR

    def end_bar(self) -> None:
        """The bar is gone."""
        self._console = self._output.stderr
        self._min_level, self._lines_left = self._level, None
        if self._dropped:
            self.write(f"{self._dropped:,} more log lines were left out; -v shows them")

    def write(self, line: str) -> None:
        """One line, with its colours."""
        if self._lines_left == 0:
            self._dropped += 1
            return
        if self._lines_left is not None:
            self._lines_left -= 1
        self._console.print(Text.from_ansi(line), soft_wrap=True)

    def _filter_level(self, _logger: Any, method: str, event: Any) -> Any:
        if LOG_LEVELS.get(method.upper(), LOG_LEVELS["ERROR"]) < self._min_level:
            raise structlog.DropEvent
        return event

    def _cut_to_one_line(self, _logger: Any, _method: str, event: Any) -> Any:
        # The error of an item comes with its traceback, which the store keeps too.
        if not self._verbose:
            for name, value in event.items():
                if isinstance(value, str) and "\n" in value:
                    event[name] = value.partition("\n")[0]
        return event


class _LogSink:
    """What structlog calls with a rendered line."""

    def __init__(self, lines: LogWriter) -> None:
        self.debug = self.info = self.warning = self.error = self.critical = self.msg = lines.write
