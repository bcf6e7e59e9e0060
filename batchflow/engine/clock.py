"""The machine's own time and chance."""

import builtins
import functools
import os
import random
import time
from collections.abc import Callable

from batchflow.core.clock import Clock
from batchflow.core.duration import show
from batchflow.logs import logger

elapsed_s: Callable[[], float] = (
    functools.partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)
"""Seconds since some moment, those in which the machine was suspended among them where the system counts them."""


class SystemClock:
    """The wall clock."""

    def now(self) -> int:
        """Milliseconds since the epoch."""
        return int(time.time() * 1000)


class SystemEntropy:
    """What the operating system gives."""

    def bytes(self, n: int, /) -> builtins.bytes:
        """`n` random bytes."""
        return os.urandom(n)

    def chance(self) -> float:
        """A number in [0, 1)."""
        return random.random()


class ServerClock:
    """`own`, but never behind the store: what is due there is due here.

    A worker whose clock is behind would take up what is due, find that it is not, and give it back, again and again.
    """

    def __init__(self, own: Clock) -> None:
        self._own = own
        self._ahead = 0

    def now(self) -> int:
        """See the protocol."""
        return self._own.now() + self._ahead

    def sync_to(self, now: int) -> None:
        """The store's time was `now` a moment ago."""
        self._ahead = max(0, now - self._own.now())


JUMP_MS = 1_500
"""By how much two clocks may come apart between two looks before it is called a step: corrections are much smaller."""


class ClockJumpDetector:
    """Says each step of `wall` once, forward or back, as against `monotonic`, in seconds."""

    def __init__(self, wall: Clock, monotonic: Callable[[], float]) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._apart = self._now_apart()

    def check(self) -> None:
        """To be called every second or so."""
        before, self._apart = self._apart, self._now_apart()
        step = self._apart - before
        if abs(step) < JUMP_MS:
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
