"""The large values that wait to be written: while there are many, nothing begins that could make more."""

import asyncio

MAX_CHARS = 16 * 1024 * 1024
"""From this many characters on the backlog is full."""


class WriteBacklog:
    """Implements `batchflow.core.ports.Backlog`."""

    def __init__(self, max_chars: int = MAX_CHARS) -> None:
        self._max_chars = max_chars
        self._chars = 0
        self._waiting: list[asyncio.Future[None]] = []
        self.is_full = False
        """See the port."""

    def add(self, chars: int) -> None:
        """See the port."""
        self._chars += chars
        self.is_full = self._chars >= self._max_chars

    def remove(self, chars: int) -> None:
        """See the port."""
        self.add(-chars)
        if not self.is_full and self._waiting:
            # They go on one after the other, and each looks again: the first of them may fill it.
            waiting, self._waiting = self._waiting, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    async def wait(self) -> None:
        """See the port."""
        while self.is_full:
            self._waiting.append(future := asyncio.get_running_loop().create_future())
            await future
