"""The machine's own time and chance."""

import builtins
import functools
import os
import random
import time
from collections.abc import Callable

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
