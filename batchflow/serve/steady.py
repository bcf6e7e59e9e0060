"""Chance that is the same on every replay."""

from hashlib import blake2b
from uuid import UUID


class Steady:
    """Numbers drawn from a run's id, one after the other: as even as chance, and the same on every attempt.

    Whoever knows the id can draw them too: they are no secrets.
    """

    __slots__ = ("_drawn", "_run")

    def __init__(self, run: str) -> None:
        self._run = run
        self._drawn = 0

    def random(self) -> float:
        """A number from 0 up to 1, 1 excluded."""
        return (int.from_bytes(self._draw(7)) >> 3) / (1 << 53)

    def uuid(self) -> UUID:
        """A UUID of version 4."""
        return UUID(bytes=self._draw(16), version=4)

    def _draw(self, size: int) -> bytes:
        self._drawn += 1
        return blake2b(f"{self._run}\n{self._drawn}".encode(), digest_size=size).digest()
