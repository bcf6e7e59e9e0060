"""The command's log lines: to stderr, or above the bar while there is one."""

from types import TracebackType
from typing import Any

import structlog
from rich.console import Console
from rich.text import Text

from batchflow.cli.output import Output

LEVELS = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40}
_WARNING = LEVELS["WARNING"]
_AT_MOST = 10
# Lines above a bar: ten thousand failing items would push everything else out of sight.


class LogLines:
    """While it is entered, structlog writes here; an app that has configured structlog itself is left alone.

    Unless `verbose`, a value of several lines is cut after the first.
    """

    def __init__(self, level: str, output: Output, *, verbose: bool = False) -> None:
        self._output = output
        self._verbose = verbose
        self._level = LEVELS[level]
        self._least = self._level
        self._console = output.err
        self._room: int | None = None
        self._dropped = 0
        self._configured = False

    def __enter__(self) -> "LogLines":
        if not structlog.is_configured():
            self._configured = True
            structlog.configure(
                processors=[
                    self._only_wanted,
                    self._on_one_line,
                    structlog.contextvars.merge_contextvars,
                    structlog.processors.add_log_level,
                    structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
                    structlog.dev.ConsoleRenderer(
                        colors=self._output.err.is_terminal,
                        pad_event_to=0,
                        exception_formatter=structlog.dev.plain_traceback,
                    ),
                ],
                wrapper_class=structlog.make_filtering_bound_logger(self._level),
                logger_factory=lambda *_: _Sink(self),
                cache_logger_on_first_use=False,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._configured:
            structlog.reset_defaults()

    def above(self, console: Console) -> None:
        """A bar is shown from here on: lines go above it, and only a few warnings of them unless verbose."""
        if self._output.err.is_terminal:
            self._console = console
        if not self._verbose:
            self._least = max(self._level, _WARNING)
            self._room = _AT_MOST

    def below(self) -> None:
        """The bar is gone."""
        self._console = self._output.err
        self._least, self._room = self._level, None
        if self._dropped:
            self.write(f"{self._dropped:,} more log lines were left out; -v shows them")

    def write(self, line: str) -> None:
        """One line, with its colours."""
        if self._room == 0:
            self._dropped += 1
            return
        if self._room is not None:
            self._room -= 1
        self._console.print(Text.from_ansi(line), soft_wrap=True)

    def _only_wanted(self, _logger: Any, method: str, event: Any) -> Any:
        if LEVELS.get(method.upper(), LEVELS["ERROR"]) < self._least:
            raise structlog.DropEvent
        return event

    def _on_one_line(self, _logger: Any, _method: str, event: Any) -> Any:
        # The error of an item comes with its traceback, which the store keeps too.
        if not self._verbose:
            for name, value in event.items():
                if isinstance(value, str) and "\n" in value:
                    event[name] = value.partition("\n")[0]
        return event


class _Sink:
    """What structlog calls with a rendered line."""

    def __init__(self, lines: LogLines) -> None:
        self.debug = self.info = self.warning = self.error = self.critical = self.msg = lines.write
