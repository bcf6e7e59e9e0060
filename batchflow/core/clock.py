"""Where time and chance come from. The core takes both as arguments; who calls it gets them from these two."""

import builtins
from typing import Protocol


class Clock(Protocol):
    """Tells the time. Tests move it."""

    def now(self) -> int:
        """Milliseconds since the epoch."""
        ...


class Entropy(Protocol):
    """Gives what cannot be guessed. Tests repeat it."""

    def bytes(self, n: int, /) -> builtins.bytes:
        """`n` random bytes, for ids."""
        ...

    def chance(self) -> float:
        """A number in [0, 1), every one as likely, for jitter."""
        ...
