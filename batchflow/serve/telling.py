"""The log of a run: silent while it is replayed, and one event for each thing the engine does where that is wanted."""

from collections.abc import Callable
from typing import Any

from batchflow.logs import logger


class RunLog:
    """A structlog logger bound to a run, silent while recorded steps are replayed.

    So what was logged before a recorded step is not logged again; what an attempt logged after the last one is, when
    that part of the code runs again: after a failure, or a crash.
    """

    __slots__ = ("_bound", "_is_replaying")

    def __init__(self, bound: Any, is_replaying: Callable[[], bool]) -> None:
        self._bound = bound
        self._is_replaying = is_replaying

    def bind(self, **values: Any) -> "RunLog":
        """The same with more values bound to it."""
        return RunLog(self._bound.bind(**values), self._is_replaying)

    def debug(self, event: str, **values: Any) -> None:
        """Log at the level DEBUG."""
        self._say("debug", event, values)

    def info(self, event: str, **values: Any) -> None:
        """Log at the level INFO."""
        self._say("info", event, values)

    def warning(self, event: str, **values: Any) -> None:
        """Log at the level WARNING."""
        self._say("warning", event, values)

    def error(self, event: str, **values: Any) -> None:
        """Log at the level ERROR."""
        self._say("error", event, values)

    def exception(self, event: str, **values: Any) -> None:
        """Log at the level ERROR, with the exception that is being handled."""
        self._say("error", event, {"exc_info": True, **values})

    def critical(self, event: str, **values: Any) -> None:
        """Log at the level CRITICAL."""
        self._say("critical", event, values)

    def _say(self, level: str, event: str, values: dict[str, Any]) -> None:
        if not self._is_replaying():
            getattr(self._bound, level)(event, **values)


def teller(name: str, run: str, now: Callable[[], int]) -> Callable[[str, str | None], None]:
    """Tells what happens to a run of a verbose function, one structlog event each; `time` is in ms since the epoch."""
    log = logger().bind(run=run)

    def tell(event_type: str, step: str | None = None) -> None:
        about = {} if step is None else {"step": step}
        event = f"[batchflow:{name}] {event_type}"
        log.info(event, eventType=event_type, time=now(), **about)

    return tell
