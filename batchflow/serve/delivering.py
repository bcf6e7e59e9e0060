"""What code sees of the delivery it runs in: in which app, in which step, and how long it waits for threads."""

from contextvars import ContextVar
from typing import TypeAlias

from batchflow.core.ports import Runtime, Threads

Inside: TypeAlias = tuple[str, int, str]
"""A step under way: the run's id, its number and its name."""

INSIDE: ContextVar[Inside | None] = ContextVar("batchflow_step", default=None)


class Surrounding:
    """What one delivery, or one dry run, lends to the code within it."""

    __slots__ = ("_key", "_runtime", "_since", "_waited", "_waiting", "threads")

    def __init__(self, threads: Threads | None, runtime: Runtime | None = None, key: tuple[str, int] = ("", 0)) -> None:
        self.threads = threads
        """Where plain functions run; None: in the event loop's own."""
        self._runtime = runtime
        self._key = key
        self._waiting = 0
        self._since = 0.0
        self._waited = 0.0

    @property
    def home(self) -> object:
        """The app that delivers; None outside of a delivery."""
        return None if self._runtime is None else self._runtime.home

    def waits(self, is_waiting: bool, now: float) -> None:
        """A plain function waits for a thread, or does not any more; `now` is the event loop's time."""
        if is_waiting:
            if not self._waiting:
                self._since = now
                if self._runtime is not None:
                    self._runtime.queueing[self._key] = self.waited
            self._waiting += 1
            return
        self._waiting -= 1
        if not self._waiting:
            self._waited += now - self._since

    def waited(self, now: float) -> float:
        """For how many seconds plain functions of it have waited for threads up to `now`."""
        return self._waited + (now - self._since if self._waiting else 0)


SURROUNDING: ContextVar[Surrounding | None] = ContextVar("batchflow_delivery", default=None)
"""None outside of any delivery."""
