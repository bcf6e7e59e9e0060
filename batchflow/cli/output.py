"""The output of a command: results on stdout, errors and log lines on stderr; tables for people."""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from io import UnsupportedOperation
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from batchflow.logs import CONTROLS, LOG_LEVELS, escape_controls, has_app_logging, line_processors, set_level

STATE_STYLES = {"failed": "red", "cancelled": "yellow", "cancelling": "yellow"}
_WARNING = LOG_LEVELS["WARNING"]
_MAX_LINES_ABOVE_BAR = 10
# Ten thousand failing items would push everything else out of sight.
_MIN_CELLS = 20
# What is cut keeps at least this much; the line of a narrow terminal wraps instead.
_UNLIMITED_WIDTH = 10_000
# Columns of a table in a file, which is not cut off.


class Output:
    """The two streams of a command. If `quiet`, `print` writes nothing."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.stdout = _make_console(stderr=False)
        self.stderr = _make_console(stderr=True)
        self.stdout.quiet = quiet

    def print(self, text: str = "", *, style: str = "", flush: bool = False) -> None:
        """Print one line for people, whatever is in it; `flush` it if the command runs on and its output may be a pipe.

        Ids, labels and errors come from outside: their control characters are escaped.
        """
        self.stdout.print(escape_controls(text), style=style or None, soft_wrap=True)
        if flush:
            self.stdout.file.flush()

    def print_json(self, value: object, indent: int | None = 2) -> None:
        """Print a JSON document of a command, on the stdout that it was started with; without `indent` in one line."""
        # `json` itself escapes ASCII controls alone.
        text = CONTROLS.sub(_json_escape, json.dumps(value, indent=indent, ensure_ascii=False))
        print(text, file=_document_stream.get() or sys.stdout, flush=True)


def _json_escape(found: re.Match[str]) -> str:
    return found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}"


_document_stream: ContextVar[TextIO | None] = ContextVar("document_stream", default=None)


def reserve_stdout() -> Callable[[], None]:
    """Reserve stdout for `print_json`, and send whatever else is written to it to stderr. Returns the undoing.

    That includes the output of user code, of its libraries in C, and of the processes that it starts.
    """
    before = sys.stdout
    before.flush()
    try:
        number = before.fileno()
        kept = os.dup(number)
    except (UnsupportedOperation, ValueError):
        # A stream without a descriptor, as tests have.
        _document_stream.set(before)
        sys.stdout = sys.stderr

        def restore() -> None:
            _document_stream.set(None)
            sys.stdout = before

        return restore
    document = os.fdopen(kept, "w", encoding=before.encoding, errors=before.errors)
    _document_stream.set(document)
    os.dup2(sys.stderr.fileno(), number)

    def restore_descriptor() -> None:
        _document_stream.set(None)
        before.flush()
        os.dup2(kept, number)
        document.close()

    return restore_descriptor


def program_name() -> str:
    """The word that runs this command here: its name, or its path if that is not in PATH."""
    if shutil.which("batchflow"):
        return "batchflow"
    script = Path(sys.executable).parent / "batchflow"
    return min(os.path.relpath(script), str(script), key=len) if script.exists() else "python -m batchflow.cli"


def _make_console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _UNLIMITED_WIDTH
    return console


def print_table(
    output: Output,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    styles: Sequence[str],
    *,
    numbers: Collection[str] = (),
    below: Sequence[str] = (),
) -> None:
    """Print columns as wide as their cells; the columns `numbers` are aligned to the right.

    `below` has a line for each row, which is printed below it unless it is empty, and ends with the line of a terminal.
    """
    lines = [columns, *([escape_controls(cell) for cell in row] for row in rows)]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    for number, (line, style) in enumerate(zip(lines, ("bold", *styles), strict=True)):
        cells = [_pad(it, width, name in numbers) for it, width, name in zip(line, widths, columns, strict=True)]
        output.print("  ".join(cells).rstrip(), style=style)
        if number and below and below[number - 1]:
            output.print(shorten(f"    {below[number - 1]}", output.stdout.width), style="red")


def print_pairs(output: Output, rows: Mapping[str, str], indent: str = "", *, cut: bool = False) -> None:
    """Print names and values, one pair a line; `cut` values end with the line of a terminal."""
    names = [escape_controls(name) for name in rows]
    width = max(map(cell_len, names))
    for name, value in zip(names, rows.values(), strict=True):
        output.stdout.print(indent + _pad(name, width), style="dim", end="  ", soft_wrap=True)
        output.print(shorten(value, output.stdout.width - cell_len(indent) - width - 2) if cut else value)


def shorten(text: str, width: int) -> str:
    """The text, cut to this many columns of a terminal if they are enough for anything."""
    if cell_len(text) <= width or width < _MIN_CELLS:
        return text
    return set_cell_size(text, width - 1).rstrip() + "…"


def _pad(text: str, width: int, to_right: bool = False) -> str:
    # Letters of some scripts are two columns wide.
    space = " " * (width - cell_len(text))
    return space + text if to_right else text + space


def first_line(error: str | None) -> str:
    """The first line of an error that is stored with its traceback."""
    return (error or "").split("\n", 1)[0]


def format_local_time(ms: int | None, format: str = "%Y-%m-%d %H:%M:%S %z") -> str:
    """A time in the local time zone, with its offset; empty for None."""
    return "" if ms is None else datetime.fromtimestamp(ms / 1000, UTC).astimezone().strftime(format)


def time_column(name: str, times: Sequence[int | None], format: str = "%m-%d %H:%M") -> tuple[str, list[str]]:
    """The title and the cells of a column of local times.

    The title has the offset, or each cell if they differ: an hour at the end of summer time comes twice.
    """
    offsets = {format_local_time(it, "%z") for it in times if it is not None}
    if len(offsets) > 1:
        return name, [format_local_time(it, f"{format} %z") for it in times]
    return " ".join((name, *offsets)), [format_local_time(it, format) for it in times]


class LogWriter:
    """Writes the lines of structlog inside its `with` block, unless the app has configured structlog or `logging`.

    `level` is that of BATCHFLOW_LOG_LEVEL. Unless `verbose`, values of several lines are cut after the first line.
    """

    def __init__(self, level: str | None, output: Output, *, verbose: bool = False) -> None:
        self._output = output
        self._verbose = verbose
        set_level(level)
        self._level = LOG_LEVELS[level or "INFO"]
        self._min_level = self._level
        self._console = output.stderr
        self._lines_left: int | None = None
        self._dropped = 0
        self._configured = False

    def __enter__(self) -> "LogWriter":
        if not has_app_logging():
            # Imported with the first command that logs, and not by the help.
            import structlog

            self._configured = True
            stderr = self._output.stderr
            colors = stderr.is_terminal and not stderr.no_color
            structlog.configure(
                processors=[
                    self._filter_level,
                    self._cut_to_one_line,
                    *line_processors(with_date=not stderr.is_terminal, colors=colors),
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
            import structlog

            structlog.reset_defaults()

    def begin_bar(self, console: Console) -> None:
        """Write above the bar of `console` from now on; only a few warnings, unless verbose."""
        if self._output.stderr.is_terminal:
            self._console = console
        if not self._verbose:
            self._min_level = max(self._level, _WARNING)
            self._lines_left = _MAX_LINES_ABOVE_BAR

    def end_bar(self) -> None:
        """Write to stderr again."""
        self._console = self._output.stderr
        self._min_level, self._lines_left = self._level, None
        if self._dropped:
            self.write(f"{self._dropped:,} more log lines were left out; -v shows them")

    def write(self, line: str) -> None:
        """Write one line, with its colours."""
        if self._lines_left == 0:
            self._dropped += 1
            return
        if self._lines_left is not None:
            self._lines_left -= 1
        self._console.print(Text.from_ansi(line), soft_wrap=True)

    def _filter_level(self, _logger: Any, method: str, event: Any) -> Any:
        if LOG_LEVELS.get(method.upper(), LOG_LEVELS["ERROR"]) < self._min_level:
            from structlog import DropEvent

            raise DropEvent
        return event

    def _cut_to_one_line(self, _logger: Any, _method: str, event: Any) -> Any:
        if not self._verbose:
            for name, value in event.items():
                if isinstance(value, str) and "\n" in value:
                    event[name] = value.partition("\n")[0]
        return event


class _LogSink:
    """The logger that structlog calls with a rendered line."""

    def __init__(self, writer: LogWriter) -> None:
        self.debug = self.info = self.warning = self.error = self.critical = self.msg = writer.write
