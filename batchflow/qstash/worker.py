"""The worker of an app on QStash: it holds a lease only while a request is answered."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress

from batchflow.core.message import Claim, ClaimResult
from batchflow.core.settlement import suspended
from batchflow.core.store import Store
from batchflow.engine.dispatcher import Dispatcher
from batchflow.engine.worker import DEREGISTER_TIMEOUT_S, Heartbeat, WorkerLease
from batchflow.errors import StoreError
from batchflow.logs import logger

UNSERVED_MS = 60_000
"""The time after which a message that this app does not serve may be given to QStash again, by an app that does."""


class RequestWorker:
    """Executes messages that QStash names, each while its request lasts; no task of it runs between requests.

    It belongs to one event loop. `concurrency` is what the store shows of it, and `hanging` counts the hanging threads
    of the process.
    """

    def __init__(
        self,
        store: Store,
        dispatcher: Dispatcher,
        name: str,
        lease: WorkerLease,
        *,
        concurrency: int,
        hanging: Callable[[], int],
    ) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self.name = name
        """Its name in the store."""
        self._lease = lease
        self._concurrency = concurrency
        self._hanging = hanging
        self._active = 0
        self._is_closing = False
        self._changing = asyncio.Lock()
        self._heartbeat: Heartbeat | None = None
        self._registering: set[asyncio.Task[None]] = set()

    @property
    def destinations(self) -> tuple[str, ...]:
        """The destinations that it can deliver to."""
        return self._dispatcher.destinations

    @property
    def ended_outages(self) -> int:
        """The number of times that the store was away while it executed something."""
        return self._dispatcher.outage.ended_count

    @asynccontextmanager
    async def working(self) -> AsyncGenerator[None]:
        """Hold the lease in the body; requests that are answered at the same time share it.

        Raises:
            StoreUnavailable: the store is away.
        """
        self._active += 1
        try:
            async with self._changing:
                if self._heartbeat is None:
                    await self._register()
                    self._heartbeat = self._new_heartbeat()
                    self._heartbeat.start()
            yield
        finally:
            self._active -= 1
            async with self._changing:
                if not self._active and self._heartbeat is not None:
                    # `close` stops it if this is cancelled.
                    await self._heartbeat.stop()
                    self._heartbeat = None

    async def deliver(self, id: str, fence: int) -> Claim | None:
        """Execute the message with this fence and settle it; only one caller at a time may ask for it.

        Returns None if another process does it, if it may not start, or if this app does not serve it.
        """
        async with self.working():
            claimed = await self._store.claim_one(self.name, id, fence)
            if self._is_closing:
                # Leaving the store releases it.
                return None
            if any(it.destination not in self.destinations for it in claimed.claims):
                await self._put_back(claimed)
                return None
            claimed = self._dispatcher.start(claimed)
            await self._dispatcher.wait_until_settled(claimed.claims)
            return next(iter(claimed.claims), None)

    async def _put_back(self, claimed: ClaimResult) -> None:
        """Leave what this version of the app does not serve to one that does, as in a deploy."""
        for claim in claimed.claims:
            logger().warning(
                "[batchflow] QStash has delivered what this app does not serve; it waits for an app that does",
                destination=claim.destination,
                run=claim.id,
            )
            await self._store.settle(suspended(claim, claimed.now + UNSERVED_MS, ()))

    async def stop(self, grace_s: float) -> None:
        """Execute nothing more: wait up to `grace_s` for what is executed, and release the rest."""
        self._is_closing = True
        await self._dispatcher.stop(grace_s)

    async def close(self) -> None:
        """Leave the store, after `stop`."""
        heartbeat, self._heartbeat = self._heartbeat, None
        if heartbeat is not None:
            await heartbeat.stop()
        for task in self._registering:
            task.cancel()
        with suppress(StoreError, TimeoutError):
            async with asyncio.timeout(DEREGISTER_TIMEOUT_S):
                await self._store.deregister(self.name)

    async def _register(self) -> None:
        asked_at = self._lease.elapsed()
        await self._store.register(self.name, self._lease.lease_ms, self._concurrency, self.destinations)
        self._lease.mark_renewed(asked_at)

    def _new_heartbeat(self) -> Heartbeat:
        return Heartbeat(
            self._store,
            self._dispatcher,
            self.name,
            self._on_lease_lost,
            lease_ms=self._lease.lease_ms,
            lease=self._lease,
            hanging=self._hanging,
        )

    def _on_lease_lost(self) -> None:
        task = asyncio.ensure_future(self._register_again())
        self._registering.add(task)
        task.add_done_callback(self._registering.discard)

    async def _register_again(self) -> None:
        logger().warning("[batchflow] The lease of this process had ended (was it suspended?); registering again")
        with suppress(StoreError):
            await self._register()
