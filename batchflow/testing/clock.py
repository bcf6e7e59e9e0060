"""A clock that tests move, and repeatable randomness."""

import builtins
import random

from batchflow.core.duration import Duration, to_ms

DEFAULT_START = 1_700_000_000_000
"""The default start of a clock: 2023-11-14 22:13:20 UTC."""


class ManualClock:
    """A clock that stands still until a test moves it; `start` is in milliseconds since the epoch."""

    def __init__(self, start: int = DEFAULT_START) -> None:
        self._now = start

    def now(self) -> int:
        """Return the time in milliseconds since the epoch."""
        return self._now

    def advance(self, duration: Duration) -> int:
        """Let time pass, such as `10` seconds or "2h30m", and return the new time."""
        self._now += to_ms(duration, option="duration")
        return self._now

    def move_to(self, ms: int) -> int:
        """Set the time, even backwards, as happens to real clocks."""
        self._now = ms
        return ms


class FixedEntropy:
    """Random bytes and numbers that are the same in every run with the same `seed`."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)

    def bytes(self, n: int, /) -> builtins.bytes:
        """Return `n` random bytes."""
        return self._random.randbytes(n)

    def chance(self) -> float:
        """Return a random number in [0, 1)."""
        return self._random.random()
