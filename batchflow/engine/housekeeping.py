"""What is done now and then: time limits, dead workers' claims, the report of progress, retention."""

import asyncio
from collections.abc import Awaitable, Callable

from batchflow.core.store import Store
from batchflow.engine.dispatch import Dispatcher
from batchflow.engine.wallclock import WallClock
from batchflow.errors import StoreError
from batchflow.logs import logger

SWEEP_S = 1.0
EXPIRE_EVERY = 5
REPORT_EVERY = 30
PRUNE_EVERY = 60
SLICES = 1_000


class Housekeeping:
    """Runs until cancelled."""

    def __init__(
        self,
        store: Store,
        dispatcher: Dispatcher,
        retention_ms: int,
        *,
        wall: WallClock | None = None,
        report: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._wall = wall
        self._report = report
        self._outages = 0
        self._store = store
        self._dispatcher = dispatcher
        self._retention_ms = retention_ms

    async def run(self) -> None:
        """Once a second: time limits; every few: dead workers; twice a minute: the report of progress.

        Every minute: retention, in slices, and what is half done; that also after the store has failed, since a verb
        that it was in may have been stopped in its midst.
        """
        beat = spared = 0
        while True:
            await asyncio.sleep(SWEEP_S)
            beat += 1
            self._dispatcher.sweep()
            if self._wall is not None:
                self._wall.look()
            try:
                if self._outages != (ended := self._dispatcher.outage.ended):
                    # Nobody could renew a lease meanwhile: whoever lives does so first.
                    spared = beat + EXPIRE_EVERY
                    await self._reconcile(deep=True)
                    self._outages = ended
                if beat % EXPIRE_EVERY == 0 and beat > spared and not self._dispatcher.outage.is_on:
                    await self._expire()
                if beat % REPORT_EVERY == 0 and self._report is not None:
                    await self._report()
                if beat % PRUNE_EVERY == 0:
                    await self._reconcile(deep=False)
                    await self._prune()
            except StoreError:
                continue  # the dispatcher says it; the next round tries again

    async def _expire(self) -> None:
        taken_back = await self._store.expire()
        if taken_back:
            # One that was lost too often has ended with it.
            self._dispatcher.watchers.something()
            logger().warning("[batchflow] Took back claims of dead workers", claims=taken_back)

    async def _reconcile(self, *, deep: bool) -> None:
        if count := await self._store.reconcile(self._dispatcher.destinations, deep=deep):
            logger().warning("[batchflow] Put right what the store had left half done", places_and_messages=count)

    async def _prune(self) -> None:
        for _ in range(SLICES):
            if not await self._store.prune(self._retention_ms):
                return
