"""The machine's own time and chance."""

import builtins
import os
import random
import time


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
