"""Renews a worker's lease from a thread of its own, which a blocked event loop does not stop."""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable

from batchflow.core.store import Renew, Store
from batchflow.engine.clock import ClockJumpDetector, elapsed_s
from batchflow.engine.dispatcher import Dispatcher
from batchflow.errors import StoreError
from batchflow.logs import logger


class WorkerLease:
    """`batchflow.core.ports.Lease`: how old the latest renewal is, by a clock that goes on while the machine sleeps."""

    def __init__(self, lease_ms: int, elapsed: Callable[[], float] = elapsed_s) -> None:
        self._lease_s = lease_ms / 1000
        self.elapsed = elapsed
        """Seconds since some moment."""
        self._until = self.elapsed() + self._lease_s
        self.losses = 0
        """See the port."""
        self._waiting: list[asyncio.Future[bool]] = []
        self.request_renewal: Callable[[], None] = _no_renewer
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
            self._waiting.append(future)
            self.request_renewal()
            if not await future:
                return False
        return True

    def mark_renewed(self, asked_at: float) -> None:
        """It was renewed, by a request that began at `asked_at`. Safe to call from another thread."""
        self._until = asked_at + self._lease_s

    def mark_lost(self) -> None:
        """It had ended, and claims were taken back. Safe to call from another thread."""
        self.losses += 1

    def set_answer(self, holds: bool) -> None:
        """The store has answered whether it holds; False too where it could not."""
        asking, self._waiting = self._waiting, []
        for future in asking:
            if not future.done():
                future.set_result(holds)


def _no_renewer() -> None:
    """Who renews is not there yet."""


LEASE_MS = 30_000
BEATS_PER_LEASE = 3
"""How often a lease is renewed before it would end."""
RETRIES_PER_BEAT = 10
"""By how much sooner than the next beat one that failed is repeated: it may have waited long for its answer."""

STOP_TIMEOUT_S = 5.0
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
        lease: WorkerLease | None = None,
        hanging: Callable[[], int] = lambda: 0,
    ) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._worker = worker
        self._on_lost = on_lost
        self._lease_ms = lease_ms
        self._loop = asyncio.get_running_loop()
        self._lease = lease or WorkerLease(lease_ms)
        self._hanging = hanging
        self._stopping = False
        self._thread_loop: asyncio.AbstractEventLoop | None = None
        """The event loop of the thread."""
        self._beat_task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._ended = asyncio.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin renewing."""
        own = self._thread_loop = asyncio.new_event_loop()
        self._lease.request_renewal = lambda: self._call_in_thread(self._wake.set)
        self._thread = threading.Thread(target=self._run, args=(own,), name="batchflow-heartbeat", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """End the thread. A store that does not answer it is not waited for longer than `PATIENCE_S`."""
        self._stopping = True
        self._call_in_thread(self._cancel)
        # Not by a thread of the event loop's pool, which may be full of what user code has put there.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._ended.wait()
            # It has nothing left to do.
            if self._thread is not None:
                self._thread.join(STOP_TIMEOUT_S)

    def _call_in_thread(self, act: Callable[[], object]) -> None:
        """Have something done by the thread, as long as there is one."""
        if self._thread_loop is not None:
            with contextlib.suppress(RuntimeError):
                self._thread_loop.call_soon_threadsafe(act)

    def _cancel(self) -> None:
        self._wake.set()
        if self._beat_task is not None:
            self._beat_task.cancel()

    def _run(self, own: asyncio.AbstractEventLoop) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: own) as runner, contextlib.suppress(asyncio.CancelledError):
                runner.run(self._beat())
        finally:
            # An event loop that has ended waits for nothing.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._ended.set)

    async def _beat(self) -> None:
        self._beat_task = asyncio.current_task()
        async with self._store.renewing() as renew:
            pause = beat = self._lease_ms / 1000 / BEATS_PER_LEASE
            while True:
                await wait_at_most(self._wake, pause)
                if self._stopping or self._loop.is_closed():
                    return
                self._wake.clear()
                pause = beat if await self._renew(renew) else beat / RETRIES_PER_BEAT

    async def _renew(self, renew: Renew) -> bool:
        """Whether the store has answered."""
        asked_at = self._lease.elapsed()
        try:
            hung = self._dispatcher.hung_claims(self._loop.time())
            held = await renew(self._worker, self._lease_ms, hung, self._hanging())
        except StoreError:
            self._report_answer(False)
            return False  # the dispatcher reports a store that fails
        if held:
            self._lease.mark_renewed(asked_at)
        else:
            self._lease.mark_lost()
        self._report_answer(held)
        if not held and not self._stopping:
            self._loop.call_soon_threadsafe(self._on_lost)
        return True

    def _report_answer(self, holds: bool) -> None:
        # An event loop that has just ended asks no more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._lease.set_answer, holds)


async def wait_at_most(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, but no longer than so."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


TICK_S = 1.0
EXPIRE_EVERY = 5
REPORT_EVERY = 30
PRUNE_EVERY = 60
MAX_PRUNE_SLICES = 1_000


class Maintenance:
    """Runs until cancelled."""

    def __init__(
        self,
        store: Store,
        dispatcher: Dispatcher,
        retention_ms: int,
        *,
        clock_jumps: ClockJumpDetector | None = None,
        report: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._wall = clock_jumps
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
            await asyncio.sleep(TICK_S)
            beat += 1
            self._dispatcher.cancel_overdue()
            if self._wall is not None:
                self._wall.check()
            try:
                if self._outages != (ended := self._dispatcher.outage.ended_count):
                    # Nobody could renew a lease meanwhile: whoever lives does so first.
                    spared = beat + EXPIRE_EVERY
                    await self._reconcile(deep=True)
                    self._outages = ended
                if beat % EXPIRE_EVERY == 0 and beat > spared and not self._dispatcher.outage.is_active:
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
            self._dispatcher.watchers.check_soon()
            logger().warning("[batchflow] Took back claims of dead workers", claims=taken_back)

    async def _reconcile(self, *, deep: bool) -> None:
        if count := await self._store.reconcile(self._dispatcher.destinations, deep=deep):
            logger().warning("[batchflow] Put right what the store had left half done", places_and_messages=count)

    async def _prune(self) -> None:
        for _ in range(MAX_PRUNE_SLICES):
            if not await self._store.prune(self._retention_ms):
                return
