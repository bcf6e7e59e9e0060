"""Renews a worker's lease from a thread of its own, which a blocked event loop does not stop."""

import asyncio
import contextlib
import threading
from collections.abc import Callable

from batchflow.core.store import Store
from batchflow.engine.dispatch import Dispatcher
from batchflow.engine.lease import Lease
from batchflow.errors import StoreError

LEASE_MS = 30_000
BEATS = 3
"""How often a lease is renewed before it would end."""
SOONER = 10
"""By how much sooner than the next beat one that failed is repeated: it may have waited long for its answer."""

PATIENCE_S = 5.0
"""How long a stop waits for a beat that is under way."""


class Heartbeat:
    """Renews until stopped; calls `on_lost` on the event loop when the lease had ended meanwhile."""

    def __init__(
        self,
        store: Store,
        dispatcher: Dispatcher,
        worker: str,
        on_lost: Callable[[], None],
        lease_ms: int = LEASE_MS,
        lease: Lease | None = None,
        hanging: Callable[[], int] = lambda: 0,
    ) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._worker = worker
        self._on_lost = on_lost
        self._lease_ms = lease_ms
        self._loop = asyncio.get_running_loop()
        self._lease = lease or Lease(lease_ms)
        self._hanging = hanging
        self._stopping = False
        self._wake = threading.Event()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="batchflow-heartbeat", daemon=True)

    def start(self) -> None:
        """Begin renewing."""
        self._lease.ask = self._wake.set
        self._thread.start()

    async def stop(self) -> None:
        """End the thread. A store that does not answer it is not waited for longer than `PATIENCE_S`."""
        self._stopping = True
        self._wake.set()
        # Not by a thread of the event loop's pool, which may be full of what user code has put there.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                await self._ended.wait()
            # It has nothing left to do.
            self._thread.join(PATIENCE_S)

    def _run(self) -> None:
        try:
            self._beat()
        finally:
            # An event loop that has ended waits for nothing.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._ended.set)

    def _beat(self) -> None:
        beat = pause = self._lease_ms / 1000 / BEATS
        while True:
            self._wake.wait(pause)
            if self._stopping or self._loop.is_closed():
                return
            self._wake.clear()
            asked_at = self._lease.elapsed()
            try:
                hung = self._dispatcher.hung(self._loop.time())
                held = self._store.renew(self._worker, self._lease_ms, hung, self._hanging())
            except StoreError:
                pause = beat / SOONER
                self._tell(False)
                continue  # the dispatcher reports a store that fails
            pause = beat
            if held:
                self._lease.renewed(asked_at)
            else:
                self._lease.lost()
            self._tell(held)
            if not held and not self._stopping:
                self._loop.call_soon_threadsafe(self._on_lost)

    def _tell(self, holds: bool) -> None:
        # An event loop that has just ended asks no more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._lease.told, holds)
