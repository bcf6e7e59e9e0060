"""A wall clock that is set while a worker runs: found by the clock that only goes on, and said."""

from collections.abc import Callable

from batchflow.core.clock import Clock
from batchflow.core.duration import show
from batchflow.logs import logger

STEP_MS = 1_500
"""By how much two clocks may come apart between two looks before it is called a step: corrections are much smaller."""


class WallClock:
    """Says each step of `wall` once, forward or back, as against `monotonic`, in seconds."""

    def __init__(self, wall: Clock, monotonic: Callable[[], float]) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._apart = self._now_apart()

    def look(self) -> None:
        """To be called every second or so."""
        before, self._apart = self._apart, self._now_apart()
        step = self._apart - before
        if abs(step) < STEP_MS:
            return
        if step < 0:
            logger().warning(
                "[batchflow] The clock of this machine was set back; retries and sleeps that wait come later",
                by=show(-step),
            )
        else:
            logger().warning(
                "[batchflow] The clock of this machine was set forward, or it was asleep; what waits comes sooner",
                by=show(step),
            )

    def _now_apart(self) -> int:
        return self._wall.now() - int(self._monotonic() * 1000)
