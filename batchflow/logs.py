"""The logger of batchflow: it writes to the app's structlog, else to the app's `logging`, else to stderr.

Values come from outside, such as ids, labels and the texts of exceptions: their control characters are escaped here, so
that no renderer shows a forged line.
"""

import inspect
import io
import logging
import os
import re
import sys
import textwrap
import traceback
from collections.abc import Callable, Mapping
from functools import cache
from types import TracebackType
from typing import Any, TextIO, TypeAlias, cast

ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None]

LOG_LEVELS: Mapping[str, int] = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}
"""The levels of `BATCHFLOW_LOG_LEVEL`."""

_RESERVED = ("self", "event", "method_name")
# Parameters of structlog's own methods.
_NOT_VALUES = ("event", "timestamp", "level", "exc_info", "stack", "exception")
# The rest of what structlog's renderer gets.
_RECORD_FIELDS = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"})
# Names that a record of `logging` has itself.


class SafeLogger:
    """A logger that never fails its caller: a line that cannot be written is left out.

    The output may be closed, a renderer may fail on a value, the arguments may not fit the text. Only Ctrl-C gets
    through. `name` is that of the loggers of structlog and `logging` that get its lines.
    """

    __slots__ = ("_name", "_values")

    def __init__(self, values: dict[str, Any] | None = None, name: str = "batchflow") -> None:
        self._values: dict[str, Any] = values or {}
        self._name = name

    def bind(self, /, **values: Any) -> "SafeLogger":
        """The same with more values bound to it."""
        return SafeLogger({**self._values, **values}, self._name)

    def is_enabled_for(self, level: int) -> bool:
        """True if the logger writes lines of `level`, as far as it says."""
        try:
            return _sink(self._name, level) is not None
        except KeyboardInterrupt:
            raise
        except BaseException:
            return False

    def debug(self, event: object, /, *args: object, **values: Any) -> None:
        """Log at the level DEBUG."""
        self._write(logging.DEBUG, event, args, values)

    def info(self, event: object, /, *args: object, **values: Any) -> None:
        """Log at the level INFO."""
        self._write(logging.INFO, event, args, values)

    def warning(self, event: object, /, *args: object, **values: Any) -> None:
        """Log at the level WARNING."""
        self._write(logging.WARNING, event, args, values)

    def error(self, event: object, /, *args: object, **values: Any) -> None:
        """Log at the level ERROR."""
        self._write(logging.ERROR, event, args, values)

    def critical(self, event: object, /, *args: object, **values: Any) -> None:
        """Log at the level CRITICAL."""
        self._write(logging.CRITICAL, event, args, values)

    def _write(self, level: int, event: object, args: tuple[object, ...], values: dict[str, Any]) -> None:
        try:
            write = _sink(self._name, level)
            if write is None:
                return
            values = {**self._values, **values}
            if args:
                event, values = _formatted(event, args, values)
            if isinstance(event, str):
                event = escape_controls(event)
            write(level, event, {_value_name(name): _escaped(value) for name, value in values.items()})
        except KeyboardInterrupt:
            raise
        except BaseException:
            return


def _formatted(event: object, args: tuple[object, ...], values: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    try:
        # As in structlog, a single mapping holds the values by name.
        return str(event) % (args[0] if len(args) == 1 and isinstance(args[0], Mapping) else args), values
    except Exception:
        return str(event), {**values, "positional_args": args}


def _value_name(name: str) -> str:
    return f"{name}_" if name in _RESERVED else escape_controls(name)


def _escaped(value: object) -> object:
    return escape_controls(value) if isinstance(value, str) else value


_LOG = SafeLogger()


def logger() -> SafeLogger:
    """The logger of batchflow.

    Its lines go to structlog if the app has configured that, else to `logging` if the logger `batchflow` or the root
    has a handler, else to stderr. That is decided when a line is written. Unless the level of a logger `batchflow` is
    set, BATCHFLOW_LOG_LEVEL holds; without it INFO on stderr, and else what the app has configured.
    """
    return _LOG


@cache
def log_of(prefix: str) -> SafeLogger:
    """The logger of the lines that begin with `[prefix]`, such as `reviews:execute` or `batchflow:greet`.

    It has the name of the workflow or the function: `batchflow.reviews`, `batchflow.greet`.
    """
    first, _, rest = prefix.partition(":")
    name = rest if first == "batchflow" else first
    return SafeLogger(name=f"batchflow.{name}") if name else _LOG


class _Threshold:
    """The level of BATCHFLOW_LOG_LEVEL; 0 if it is not set."""

    level = 0


def set_level(name: str | None) -> None:
    """Write no lines below a level of `LOG_LEVELS`; None: as the app has configured it."""
    _Threshold.level = 0 if name is None else LOG_LEVELS[name]


def has_app_logging() -> bool:
    """True if the app has configured structlog or `logging`, so that its configuration gets the lines."""
    if _app_structlog() is not None:
        return True
    # pytest has handlers at the root that record what a test logs.
    handlers = (*logging.getLogger("batchflow").handlers, *logging.getLogger().handlers)
    return any(not type(handler).__module__.startswith("_pytest.") for handler in handlers)


CONTROLS = re.compile(
    # ASCII and C1 controls; marks that reverse the direction; separators of lines; half a surrogate pair.
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
"""The characters that `escape_controls` escapes."""


def escape_controls(text: str) -> str:
    """Escape what would move the cursor of a terminal, end a line or reverse its direction: ESC becomes `\\x1b`."""
    return text if text.isascii() and text.isprintable() else CONTROLS.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    known = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(found[0])
    code = ord(found[0])
    return known or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def safe_str(error: BaseException) -> str:
    """The `str` of an exception; never raises, whatever its `__str__` does."""
    try:
        # `__str__` may return a subclass of str, whose methods could do anything.
        return "".join(str(error))
    except KeyboardInterrupt:
        raise
    except BaseException as unreadable:
        return f"(its text cannot be read: {type(unreadable).__name__})"


def safe_repr(error: BaseException) -> str:
    """The `repr` of an exception; never raises, whatever its `__repr__` does."""
    try:
        return "".join(repr(error))
    except KeyboardInterrupt:
        raise
    except BaseException:
        return f"{type(error).__name__}: {safe_str(error)}"


# The three ways out

_Write: TypeAlias = Callable[[int, object, dict[str, Any]], None]


def _sink(name: str, level: int) -> _Write | None:
    """The function that writes a line of this level; None: it is not written."""
    explicit = _explicit_level(name)
    if level < explicit:
        return None
    if (structlog := _app_structlog()) is not None:
        return _structlog_sink(structlog.get_logger(name), level)
    own = logging.getLogger(name)
    if own.disabled or own.manager.disable >= level:
        return None
    if own.hasHandlers():
        return _LoggingSink(own) if explicit or level >= own.getEffectiveLevel() else None
    return _write_to_stderr if level >= (explicit or logging.INFO) else None


def _explicit_level(name: str) -> int:
    """The level set for this logger or one above it, up to `batchflow`, or else by the environment; 0 if none is."""
    found: logging.Logger | None = logging.getLogger(name)
    while found is not None and found.name.startswith("batchflow"):
        if found.level:
            return found.level
        found = found.parent
    return _Threshold.level


def _app_structlog() -> Any:
    """The module structlog, if the app has configured it."""
    # It is not imported for this: only an app that has imported it can have configured it.
    module = sys.modules.get("structlog")
    is_configured = getattr(module, "is_configured", None)
    return module if is_configured is not None and is_configured() else None


def _structlog_sink(log: Any, level: int) -> _Write | None:
    bound = log.bind()
    # structlog's loggers and the standard library's spell it differently; one with neither writes all levels.
    for name in ("is_enabled_for", "isEnabledFor"):
        ask = getattr(bound, name, None)
        if ask is not None and not cast("bool", ask(level)):
            return None
    return lambda level, event, values: getattr(bound, _method(level))(event, **values)


def _method(level: int) -> str:
    return logging.getLevelName(level).lower()


class _LoggingSink:
    """Writes to a logger of the standard library: the values go into the message, and by name into the record."""

    def __init__(self, target: logging.Logger) -> None:
        self._target = target

    def __call__(self, level: int, event: object, values: dict[str, Any]) -> None:
        exc_info = _exc_info(values.pop("exc_info", None))
        stack = _stack_text() if values.pop("stack_info", None) else None
        texts = [escape_controls(str(event)), *(f"{name}={_value_text(value)}" for name, value in values.items())]
        extra = {f"{name}_" if name in _RECORD_FIELDS else name: value for name, value in values.items()}
        file, line, function = _caller()
        record = self._target.makeRecord(
            self._target.name, level, file, line, " ".join(texts), (), exc_info, function, extra, stack
        )
        if exc_info is not None:
            # The text of an exception may be a forged line; formatters take this text if there is one.
            record.exc_text = _traceback_text(exc_info)
        # Not `log`, which would ask for the level again.
        self._target.handle(record)


def _value_text(value: object) -> str:
    text = escape_controls(value if isinstance(value, str) else repr(value))
    plain = text and not any(it in text for it in " =\"'")
    return text if plain or not isinstance(value, str) else repr(text).replace("\\\\", "\\")


def _caller() -> tuple[str, int, str]:
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return ("", 0, "") if frame is None else (frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)


def _write_to_stderr(level: int, event: object, values: dict[str, Any]) -> None:
    # The logger is made for each line, since stderr may be replaced, as a test runner does.
    import structlog

    log = structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        processors=line_processors(with_date=not is_terminal(sys.stderr), colors=wants_colors(sys.stderr)),
        wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
    )
    getattr(log, _method(level))(event, **values)


def is_terminal(stream: TextIO) -> bool:
    """True if the stream is a terminal."""
    return hasattr(stream, "isatty") and stream.isatty()


def wants_colors(stream: TextIO) -> bool:
    """True if lines to a stream are coloured: on a terminal, unless NO_COLOR is set, and elsewhere with FORCE_COLOR."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or sys.platform == "win32":
        return False
    return bool(os.environ.get("FORCE_COLOR")) or is_terminal(stream)


@cache
def line_processors(*, with_date: bool, colors: bool) -> tuple[Any, ...]:
    """The processors of structlog that make a line for people."""
    # Imported with the first line: structlog brings rich with it, which takes longer than all of batchflow.
    import structlog

    return (
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.StackInfoRenderer(),
        structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S" if with_date else "%H:%M:%S", utc=False),
        _escape_line,
        structlog.dev.ConsoleRenderer(
            colors=colors, pad_event_to=0, sort_keys=False, exception_formatter=_format_exception
        ),
    )


class _ValueText:
    """The text of a value, as a renderer that shows the `repr` of objects writes it."""

    def __init__(self, value: object) -> None:
        self._text = _value_text(value)

    def __repr__(self) -> str:
        return self._text


def _escape_line(_logger: Any, _method: str, event: Any) -> Any:
    """Make text of all values, and escape it: the app's own lines, which the command writes too, are not yet."""
    for name, value in event.items():
        if name not in _NOT_VALUES:
            event[name] = _ValueText(value)
    event["event"] = escape_controls(str(event.get("event", "")))
    return event


def _format_exception(out: TextIO, exc_info: ExcInfo) -> None:
    out.write("\n" + _traceback_text(exc_info))


def _exc_info(value: Any) -> ExcInfo | None:
    """The exception of a line's `exc_info`: True, an exception or a tuple of three, as in structlog and `logging`."""
    if isinstance(value, BaseException):
        return type(value), value, value.__traceback__
    if isinstance(value, tuple):
        return cast("ExcInfo", value)
    current = sys.exc_info()
    return cast("ExcInfo", current) if value and current[1] is not None else None


def _traceback_text(exc_info: ExcInfo) -> str:
    """The traceback of an exception, indented, so that no line of its message looks like a line of the log."""
    text = "".join(traceback.format_exception(*exc_info)).rstrip("\n")
    return textwrap.indent("\n".join(map(escape_controls, text.split("\n"))), "  ")


def _stack_text() -> str:
    out = io.StringIO()
    traceback.print_stack(file=out)
    return out.getvalue().rstrip("\n")
