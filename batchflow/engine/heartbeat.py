"""Renews a worker's lease from a thread of its own, which a blocked event loop does not stop."""

import asyncio
import threading
from collections.abc import Callable

from batchflow.engine.dispatch import Dispatcher
from batchflow.errors import StoreError
from batchflow.stores.protocol import Store

LEASE_MS = 30_000
BEATS = 3
"""How often a lease is renewed before it would end."""
SOONER = 10
"""By how much sooner than the next beat one that failed is repeated: it may have waited long for its answer."""


class Heartbeat:
    """Renews until stopped; calls `on_lost` on the event loop when the lease had ended meanwhile."""

    def __init__(
        self, store: Store, dispatcher: Dispatcher, worker: str, on_lost: Callable[[], None], lease_ms: int = LEASE_MS
    ) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._worker = worker
        self._on_lost = on_lost
        self._lease_ms = lease_ms
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="batchflow-heartbeat", daemon=True)

    def start(self) -> None:
        """Begin renewing."""
        self._thread.start()

    async def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)

    def _beat(self) -> None:
        beat = pause = self._lease_ms / 1000 / BEATS
        while not self._stop.wait(pause):
            try:
                held = self._store.renew(self._worker, self._lease_ms, self._dispatcher.hung(self._loop.time()))
            except StoreError:
                pause = beat / SOONER
                continue  # the dispatcher reports a store that fails
            pause = beat
            if not held and not self._stop.is_set():
                self._loop.call_soon_threadsafe(self._on_lost)
