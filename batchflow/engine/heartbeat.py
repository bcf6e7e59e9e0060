"""Renews a worker's lease from a thread of its own, which a blocked event loop does not stop."""

import asyncio
import contextlib
import threading
from collections.abc import Callable

from batchflow.core.store import Renew, Store
from batchflow.engine.dispatch import Dispatcher
from batchflow.engine.lease import Lease
from batchflow.errors import StoreError

LEASE_MS = 30_000
BEATS = 3
"""How often a lease is renewed before it would end."""
SOONER = 10
"""By how much sooner than the next beat one that failed is repeated: it may have waited long for its answer."""

PATIENCE_S = 5.0
"""How long a stop waits for a beat that is under way and cannot be cancelled."""


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
        self._own: asyncio.AbstractEventLoop | None = None
        """The event loop of the thread."""
        self._beating: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._ended = asyncio.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin renewing."""
        own = self._own = asyncio.new_event_loop()
        self._lease.ask = lambda: self._ask(self._wake.set)
        self._thread = threading.Thread(target=self._run, args=(own,), name="batchflow-heartbeat", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """End the thread. A store that does not answer it is not waited for longer than `PATIENCE_S`."""
        self._stopping = True
        self._ask(self._cancel)
        # Not by a thread of the event loop's pool, which may be full of what user code has put there.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                await self._ended.wait()
            # It has nothing left to do.
            if self._thread is not None:
                self._thread.join(PATIENCE_S)

    def _ask(self, act: Callable[[], object]) -> None:
        """Have something done by the thread, as long as there is one."""
        if self._own is not None:
            with contextlib.suppress(RuntimeError):
                self._own.call_soon_threadsafe(act)

    def _cancel(self) -> None:
        self._wake.set()
        if self._beating is not None:
            self._beating.cancel()

    def _run(self, own: asyncio.AbstractEventLoop) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: own) as runner, contextlib.suppress(asyncio.CancelledError):
                runner.run(self._beat())
        finally:
            # An event loop that has ended waits for nothing.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._ended.set)

    async def _beat(self) -> None:
        self._beating = asyncio.current_task()
        async with self._store.renewing() as renew:
            pause = beat = self._lease_ms / 1000 / BEATS
            while True:
                await woken(self._wake, pause)
                if self._stopping or self._loop.is_closed():
                    return
                self._wake.clear()
                pause = beat if await self._renew(renew) else beat / SOONER

    async def _renew(self, renew: Renew) -> bool:
        """Whether the store has answered."""
        asked_at = self._lease.elapsed()
        try:
            hung = self._dispatcher.hung(self._loop.time())
            held = await renew(self._worker, self._lease_ms, hung, self._hanging())
        except StoreError:
            self._tell(False)
            return False  # the dispatcher reports a store that fails
        if held:
            self._lease.renewed(asked_at)
        else:
            self._lease.lost()
        self._tell(held)
        if not held and not self._stopping:
            self._loop.call_soon_threadsafe(self._on_lost)
        return True

    def _tell(self, holds: bool) -> None:
        # An event loop that has just ended asks no more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._lease.told, holds)


async def woken(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, but no longer than so."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
