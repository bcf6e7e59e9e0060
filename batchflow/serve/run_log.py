"""The log of a run: silent while it is replayed."""

from collections.abc import Callable
from typing import Any

from batchflow.logs import Log


class RunLog:
    """A structlog logger bound to a run, silent while recorded steps are replayed.

    `log.info("charged %s", id, amount=3)`: arguments by place go into the text, those by name are values of the line,
    whatever their names. A line that cannot be written is left out; it never fails the run.

    So what was logged before a recorded step is not logged again; what an attempt logged after the last one is, when
    that part of the code runs again: after a failure, or a crash.
    """

    __slots__ = ("_bound", "_is_replaying")

    def __init__(self, bound: Log, is_replaying: Callable[[], bool]) -> None:
        self._bound = bound
        self._is_replaying = is_replaying

    def bind(self, /, **values: Any) -> "RunLog":
        """The same with more values bound to it."""
        return RunLog(self._bound.bind(**values), self._is_replaying)

    def debug(self, event: object, /, *args: object, **values: Any) -> None:
        """Log at the level DEBUG."""
        if not self._is_replaying():
            self._bound.debug(event, *args, **values)

    def info(self, event: object, /, *args: object, **values: Any) -> None:
        """Log at the level INFO."""
        if not self._is_replaying():
            self._bound.info(event, *args, **values)

    def warning(self, event: object, /, *args: object, **values: Any) -> None:
        """Log at the level WARNING."""
        if not self._is_replaying():
            self._bound.warning(event, *args, **values)

    def error(self, event: object, /, *args: object, **values: Any) -> None:
        """Log at the level ERROR."""
        if not self._is_replaying():
            self._bound.error(event, *args, **values)

    def exception(self, event: object, /, *args: object, **values: Any) -> None:
        """Log at the level ERROR, with the exception that is being handled."""
        self.error(event, *args, **{"exc_info": True, **values})

    def critical(self, event: object, /, *args: object, **values: Any) -> None:
        """Log at the level CRITICAL."""
        if not self._is_replaying():
            self._bound.critical(event, *args, **values)
