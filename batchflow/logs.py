"""The logger of batchflow: through the app's structlog configuration, or to stderr from INFO on without one."""

import logging
import re
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any, cast

_RESERVED = ("self", "event", "method_name")
# Parameters of structlog's own methods.


class Log:
    """A structlog logger that never fails its caller: a line that cannot be written is left out.

    The output may be closed, a renderer may fail on a value, the arguments may not fit the text. Only Ctrl-C gets
    through.
    """

    __slots__ = ("_values",)

    def __init__(self, values: dict[str, Any] | None = None) -> None:
        self._values: dict[str, Any] = values or {}

    def bind(self, /, **values: Any) -> "Log":
        """The same with more values bound to it."""
        return Log({**self._values, **values})

    def is_enabled_for(self, level: int) -> bool:
        """True if the logger writes lines of `level`, as far as it says."""
        try:
            bound = _current_logger().bind()
            # structlog's loggers and the standard library's spell it differently; one with neither writes all levels.
            for name in ("is_enabled_for", "isEnabledFor"):
                ask = getattr(bound, name, None)
                if ask is not None:
                    return cast("bool", ask(level))
        except KeyboardInterrupt:
            raise
        except BaseException:
            return False
        return True

    def debug(self, event: object, /, *args: object, **values: Any) -> None:
        """Log at the level DEBUG."""
        self._write("debug", event, args, values)

    def info(self, event: object, /, *args: object, **values: Any) -> None:
        """Log at the level INFO."""
        self._write("info", event, args, values)

    def warning(self, event: object, /, *args: object, **values: Any) -> None:
        """Log at the level WARNING."""
        self._write("warning", event, args, values)

    def error(self, event: object, /, *args: object, **values: Any) -> None:
        """Log at the level ERROR."""
        self._write("error", event, args, values)

    def critical(self, event: object, /, *args: object, **values: Any) -> None:
        """Log at the level CRITICAL."""
        self._write("critical", event, args, values)

    def _write(self, level: str, event: object, args: tuple[object, ...], values: dict[str, Any]) -> None:
        values = {**self._values, **values}
        if any(name in values for name in _RESERVED):
            values = {f"{name}_" if name in _RESERVED else name: value for name, value in values.items()}
        try:
            if not args:
                getattr(_current_logger(), level)(event, **values)
            else:
                self._write_formatted(level, event, args, values)
        except KeyboardInterrupt:
            raise
        except BaseException:
            return

    def _write_formatted(self, level: str, event: object, args: tuple[object, ...], values: dict[str, Any]) -> None:
        try:
            # As in structlog, a single mapping holds the values by name.
            text = str(event) % (args[0] if len(args) == 1 and isinstance(args[0], Mapping) else args)
        except Exception:
            text, values = str(event), {**values, "positional_args": args}
        getattr(_current_logger(), level)(text, **values)


_LOG = Log()


def logger() -> Log:
    """The logger of batchflow, as structlog is configured when a line is written.

    Without a configuration, structlog's default format goes to stderr, without the DEBUG lines, of which there are
    several per item. `structlog.configure(…)` takes over whenever it is called.
    """
    return _LOG


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


def _current_logger() -> Any:
    # Imported with the first line: structlog brings rich with it, which takes longer than all of batchflow.
    import structlog

    return _app_logger() if structlog.is_configured() else _default_logger()


@cache
def _app_logger() -> Any:
    import structlog

    return structlog.get_logger("batchflow")


def _default_logger() -> Any:
    import structlog

    # Made for each line, since stderr may be replaced, as a test runner does.
    quiet = structlog.make_filtering_bound_logger(logging.INFO)
    return structlog.wrap_logger(structlog.PrintLogger(sys.stderr), wrapper_class=quiet)
