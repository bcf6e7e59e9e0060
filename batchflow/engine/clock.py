"""Clocks: the machine's, the store's as a worker follows it, and a check for jumps of the wall clock."""

import builtins
import functools
import os
import random
import time
from collections.abc import Callable

from batchflow.core.duration import humanize_duration
from batchflow.core.ports import Clock
from batchflow.logs import logger

elapsed_s: Callable[[], float] = (
    functools.partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)
"""Seconds since some fixed moment, including suspended time if the system counts it."""


class SystemClock:
    """The wall clock."""

    def now(self) -> int:
        """Milliseconds since the epoch."""
        return int(time.time() * 1000)


class SystemEntropy:
    """Random values of the operating system."""

    def bytes(self, n: int, /) -> builtins.bytes:
        """`n` random bytes."""
        return os.urandom(n)

    def chance(self) -> float:
        """A number in [0, 1)."""
        return random.random()


class ServerClock:
    """The clock `own`, moved ahead so that it is never behind the store's.

    A worker whose clock is behind would claim a due run, find that its timer is not due, and release it, again and
    again.
    """

    def __init__(self, own: Clock) -> None:
        self._own_now = own.now
        self._offset_ms = 0

    def now(self) -> int:
        """See the protocol."""
        return self._own_now() + self._offset_ms

    def sync_to(self, now: int) -> None:
        """Follow the store, whose time was `now` a moment ago."""
        self._offset_ms = max(0, now - self._own_now())


JUMP_MS = 1_500
"""A difference between two checks that counts as a jump; ordinary corrections are much smaller."""


class ClockJumpDetector:
    """Logs each jump of the clock `wall` once, compared with `monotonic`, which is in seconds."""

    def __init__(self, wall: Clock, monotonic: Callable[[], float]) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._offset = self._current_offset()

    def check(self) -> None:
        """Compare the clocks. To be called about every second."""
        before, self._offset = self._offset, self._current_offset()
        jump = self._offset - before
        if abs(jump) < JUMP_MS:
            return
        if jump < 0:
            logger().warning(
                "[batchflow] The clock of this machine was set back; waiting retries and sleeps are delayed",
                by=humanize_duration(-jump),
            )
        else:
            logger().warning(
                "[batchflow] The clock of this machine was set forward, or it was asleep; waiting work starts sooner",
                by=humanize_duration(jump),
            )

    def _current_offset(self) -> int:
        return self._wall.now() - int(self._monotonic() * 1000)
