"""What is done now and then: time limits, dead workers' claims, retention."""

import asyncio

from batchflow.engine.dispatch import Dispatcher
from batchflow.errors import StoreError
from batchflow.logs import logger
from batchflow.stores.protocol import Store

SWEEP_S = 1.0
EXPIRE_EVERY = 5
PRUNE_EVERY = 60
SLICES = 1_000


class Housekeeping:
    """Runs until cancelled."""

    def __init__(self, store: Store, dispatcher: Dispatcher, retention_ms: int) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._retention_ms = retention_ms

    async def run(self) -> None:
        """Once a second: time limits; every few: dead workers; every minute: retention, in slices."""
        beat = 0
        while True:
            await asyncio.sleep(SWEEP_S)
            beat += 1
            self._dispatcher.sweep()
            try:
                if beat % EXPIRE_EVERY == 0:
                    await self._expire()
                if beat % PRUNE_EVERY == 0:
                    await self._prune()
            except StoreError:
                continue  # the dispatcher says it; the next round tries again

    async def _expire(self) -> None:
        taken_back = await self._store.expire()
        if taken_back:
            logger().warning("[batchflow] Took back claims of dead workers", claims=taken_back)

    async def _prune(self) -> None:
        for _ in range(SLICES):
            if not await self._store.prune(self._retention_ms):
                return
