"""What a worker knows of its own lease, between one renewal and the next."""

import asyncio
from collections.abc import Callable

from batchflow.engine.system import elapsed_s


class Lease:
    """`batchflow.core.ports.Lease`: how old the latest renewal is, by a clock that goes on while the machine sleeps."""

    def __init__(self, lease_ms: int, elapsed: Callable[[], float] = elapsed_s) -> None:
        self._lease_s = lease_ms / 1000
        self.elapsed = elapsed
        """Seconds since some moment."""
        self._until = self.elapsed() + self._lease_s
        self.losses = 0
        """See the port."""
        self._asking: list[asyncio.Future[bool]] = []
        self.ask: Callable[[], None] = _nobody
        """Has the lease renewed soon; `told` is called then."""

    def is_doubtful(self, losses: int) -> bool:
        """See the port."""
        return losses != self.losses or self.elapsed() > self._until

    async def holds(self, losses: int) -> bool:
        """See the port."""
        while self.is_doubtful(losses):
            if losses != self.losses:
                return False
            future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            self._asking.append(future)
            self.ask()
            if not await future:
                return False
        return True

    def renewed(self, asked_at: float) -> None:
        """It was renewed, by a request that began at `asked_at`. Safe to call from another thread."""
        self._until = asked_at + self._lease_s

    def lost(self) -> None:
        """It had ended, and claims were taken back. Safe to call from another thread."""
        self.losses += 1

    def told(self, holds: bool) -> None:
        """The store has answered whether it holds; False too where it could not."""
        asking, self._asking = self._asking, []
        for future in asking:
            if not future.done():
                future.set_result(holds)


def _nobody() -> None:
    """Who renews is not there yet."""
