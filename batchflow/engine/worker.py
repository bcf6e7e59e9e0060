"""A worker: its lease, the heartbeat that renews it, the periodic maintenance, and the start and stop of them all."""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable

from batchflow.core.store import Renew, Store
from batchflow.engine.clock import ClockJumpDetector, elapsed_s
from batchflow.engine.cron import CronScheduler
from batchflow.engine.dispatcher import Dispatcher
from batchflow.engine.loop_monitor import LoopMonitor
from batchflow.engine.notices import warn_of_expiring_dead_letters, warn_of_unserved_work
from batchflow.engine.outage import wait_for_store
from batchflow.errors import StoreError
from batchflow.logs import logger

LEASE_MS = 30_000
BEATS_PER_LEASE = 3
"""Renewals in the duration of a lease."""
RETRIES_PER_BEAT = 10
"""A failed renewal is repeated after this fraction of a beat, since it may have waited long for its answer."""

STOP_TIMEOUT_S = 5.0
"""The time for which a stop waits for a renewal that cannot be cancelled."""

TICK_S = 1.0
EXPIRE_EVERY = 5
REPORT_EVERY = 30
PRUNE_EVERY = 60
"""The intervals of maintenance are multiples of its tick."""
UNSERVED_FIRST = 3
"""The tick after which unserved work is looked for first: other workers may be starting."""
EXPIRY_EVERY = 3_600
EXPIRY_FIRST = 5
"""The tick after which dead letters that retention is about to remove are looked for first."""
MAX_PRUNE_SLICES = 1_000

DEREGISTER_TIMEOUT_S = 2.0
"""The time for which a store that does not answer delays the end of a worker."""


class WorkerLease:
    """Implements `batchflow.core.ports.Lease`: the end of a worker's lease, by a clock that counts suspended time.

    It is shared by the event loop and the thread that renews.
    """

    def __init__(self, lease_ms: int, elapsed: Callable[[], float] = elapsed_s) -> None:
        self.lease_ms = lease_ms
        self._lease_s = lease_ms / 1000
        self.elapsed = elapsed
        """Seconds since some fixed moment."""
        self._until = self.elapsed() + self._lease_s
        self.losses = 0
        """See the port."""
        self._waiting: list[asyncio.Future[bool]] = []
        self.request_renewal: Callable[[], None] = _no_renewer
        """Requests a renewal soon, after which `set_answer` is called."""

    def may_have_expired(self, losses: int) -> bool:
        """See the port."""
        return losses != self.losses or self.elapsed() > self._until

    async def holds(self, losses: int) -> bool:
        """See the port."""
        while self.may_have_expired(losses):
            if losses != self.losses:
                return False
            future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            self.request_renewal()
            if not await future:
                return False
        return True

    def mark_renewed(self, asked_at: float) -> None:
        """Record a renewal whose request was sent at `asked_at`. Safe to call from another thread."""
        self._until = asked_at + self._lease_s

    def mark_lost(self) -> None:
        """Record that the lease ended and its claims were reclaimed. Safe to call from another thread."""
        self.losses += 1

    def set_answer(self, holds: bool) -> None:
        """Answer those who wait in `holds`; False also if the store could not answer."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(holds)


def _no_renewer() -> None:
    """Do nothing: the heartbeat has not started."""


class Heartbeat:
    """Renews a worker's lease from a thread of its own, which a blocked event loop does not stop.

    It calls `on_lost` on the event loop if the lease had ended. `hanging` counts the hanging threads of the process.
    `monitor` watches the event loop from the same thread.
    """

    def __init__(
        self,
        store: Store,
        dispatcher: Dispatcher,
        worker: str,
        on_lost: Callable[[], None],
        lease_ms: int = LEASE_MS,
        lease: WorkerLease | None = None,
        hanging: Callable[[], int] = lambda: 0,
        monitor: LoopMonitor | None = None,
    ) -> None:
        self._store = store
        self._monitor = monitor
        self._dispatcher = dispatcher
        self._worker = worker
        self._on_lost = on_lost
        self._lease_ms = lease_ms
        self._loop = asyncio.get_running_loop()
        self._lease = lease or WorkerLease(lease_ms)
        self._hanging = hanging
        self._stopping = False
        self._thread_loop: asyncio.AbstractEventLoop | None = None
        """The event loop of the heartbeat's own thread."""
        self._beat_task: asyncio.Task[None] | None = None
        self._monitoring: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._ended = asyncio.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        own = self._thread_loop = asyncio.new_event_loop()
        self._lease.request_renewal = lambda: self._call_in_thread(self._wake.set)
        self._thread = threading.Thread(target=self._run, args=(own,), name="batchflow-heartbeat", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """End the thread; waits at most `STOP_TIMEOUT_S` for a store that does not answer."""
        self._stopping = True
        self._call_in_thread(self._cancel)
        # Not `asyncio.to_thread`: user code may have filled the pool of the event loop.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._ended.wait()
            # The thread has nothing left to do.
            if self._thread is not None:
                self._thread.join(STOP_TIMEOUT_S)

    def _call_in_thread(self, act: Callable[[], object]) -> None:
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
            # The worker's event loop may be closed.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._ended.set)

    async def _beat(self) -> None:
        self._beat_task = asyncio.current_task()
        if self._monitor is not None:
            # The runner of the thread cancels it at the end.
            self._monitoring = asyncio.create_task(self._monitor.run())
        async with self._store.renewing() as renew:
            pause = beat = self._lease_ms / 1000 / BEATS_PER_LEASE
            while True:
                await wait_at_most(self._wake, pause)
                if self._stopping or self._loop.is_closed():
                    return
                self._wake.clear()
                pause = beat if await self._renew(renew) else beat / RETRIES_PER_BEAT

    async def _renew(self, renew: Renew) -> bool:
        """Renew the lease once, and return whether the store answered."""
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
        # The worker's event loop may be closed.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._lease.set_answer, holds)


async def wait_at_most(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, for at most `seconds`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


class Maintenance:
    """Enforces time limits, reclaims the claims of dead workers, reports progress and prunes, until cancelled."""

    def __init__(
        self,
        store: Store,
        dispatcher: Dispatcher,
        worker: str,
        retention_ms: int,
        *,
        now: Callable[[], int],
        clock_jumps: ClockJumpDetector | None = None,
        report: Callable[[], Awaitable[None]] | None = None,
        tick: Callable[[], None] | None = None,
    ) -> None:
        self._tick = tick
        self._now = now
        self._register: Callable[[], Awaitable[None]] | None = None
        self._registered = dispatcher.destinations
        self._clock_jumps = clock_jumps
        self._report = report
        self._outages = 0
        self._store = store
        self._dispatcher = dispatcher
        self._worker = worker
        self._retention_ms = retention_ms

    def on_new_destinations(self, register: Callable[[], Awaitable[None]]) -> None:
        """Call `register` once more destinations are served than at the start."""
        self._register = register

    async def run(self) -> None:
        """Check time limits and call `tick` each second, check dead workers every few, report progress twice a minute.

        Soon after the start and each hour, warn of dead letters that retention is about to remove. Soon after the start
        and each minute, warn of work that no worker serves. Each minute, reconcile the store and
        prune it in slices. Reconcile also after an outage, since the store may have stopped in the middle of a verb.
        """
        beat = spared = 0
        while True:
            await asyncio.sleep(TICK_S)
            beat += 1
            self._dispatcher.cancel_overdue()
            if self._clock_jumps is not None:
                self._clock_jumps.check()
            if self._tick is not None:
                self._tick()
            try:
                if self._outages != (ended := self._dispatcher.outage.ended_count):
                    # No worker could renew its lease during the outage: the living ones do so first.
                    spared = beat + EXPIRE_EVERY
                    await self._reconcile(deep=True)
                    self._outages = ended
                if self._registered is not (now := self._dispatcher.destinations) and self._register is not None:
                    await self._register()
                    self._registered = now
                if beat % EXPIRE_EVERY == 0 and beat > spared and not self._dispatcher.outage.is_active:
                    await self._expire()
                if beat % PRUNE_EVERY == 0 or beat == UNSERVED_FIRST:
                    await warn_of_unserved_work(self._store, self._worker)
                if beat % EXPIRY_EVERY == EXPIRY_FIRST:
                    await warn_of_expiring_dead_letters(self._store, self._worker, self._retention_ms, self._now())
                if beat % REPORT_EVERY == 0 and self._report is not None:
                    await self._report()
                if beat % PRUNE_EVERY == 0:
                    await self._reconcile(deep=False)
                    await self._prune()
            except StoreError:
                continue  # the dispatcher reports it; the next round tries again

    async def _expire(self) -> None:
        reclaimed = await self._store.expire()
        if reclaimed:
            # A run that was lost too often has ended by that.
            self._dispatcher.watchers.check_soon()
            logger().warning("[batchflow] Reclaimed claims of dead workers", claims=reclaimed)

    async def _reconcile(self, *, deep: bool) -> None:
        if count := await self._store.reconcile(self._dispatcher.destinations, deep=deep):
            logger().warning("[batchflow] Repaired what the store had left half done", places_and_messages=count)

    async def _prune(self) -> None:
        for _ in range(MAX_PRUNE_SLICES):
            if not await self._store.prune(self._retention_ms):
                return


class EngineWorker:
    """A worker while it is started: its dispatcher, its heartbeat and its maintenance."""

    def __init__(
        self,
        store: Store,
        dispatcher: Dispatcher,
        maintenance: Maintenance,
        name: str,
        *,
        concurrency: int,
        lease: WorkerLease,
        declare: Callable[[], Awaitable[None]],
        hanging: Callable[[], int],
    ) -> None:
        self.dispatcher = dispatcher
        self._cron: CronScheduler | None = None
        self._store = store
        self._maintenance = maintenance
        self._name = name
        self._concurrency = concurrency
        self._lease = lease
        self._declare = declare
        self._observers = dispatcher.observers
        maintenance.on_new_destinations(self.register)
        self._tasks: list[asyncio.Task[None]] = []
        self.monitor = LoopMonitor(dispatcher.log_prefix_of)
        self._heartbeat = Heartbeat(
            store, dispatcher, name, self._on_lease_lost, lease=lease, hanging=hanging, monitor=self.monitor
        )

    async def start(self, cron: CronScheduler | None = None) -> None:
        """Register with the store, which is waited for, and start claiming, and firing schedules."""
        self._cron = cron
        await wait_for_store(self.register, self._observers)
        # The work of an earlier process of this machine that died continues at once.
        await wait_for_store(self._store.expire, self._observers)
        if self._cron is not None:
            await wait_for_store(self._cron.declare, self._observers)
            self._tasks.append(asyncio.create_task(self._cron.run(), name="batchflow-cron"))
        self._tasks += [
            asyncio.create_task(self.dispatcher.run(), name="batchflow-dispatch"),
            asyncio.create_task(self._maintenance.run(), name="batchflow-maintenance"),
        ]
        self._heartbeat.start()

    async def stop(self, grace_s: float) -> None:
        """Stop claiming, wait up to `grace_s` for the active claims, release the rest, and deregister."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        released = await self.dispatcher.stop(grace_s)
        await self._heartbeat.stop()
        try:
            async with asyncio.timeout(DEREGISTER_TIMEOUT_S):
                await self._store.deregister(self._name)
        except (StoreError, TimeoutError) as error:
            logger().warning(
                "[batchflow] Stopped while the store is away; active claims are reclaimed when the lease ends",
                error=str(error) or "no answer",
            )
            return
        if released:
            logger().info("[batchflow] Stopped; claims released", claims=released)

    def _on_lease_lost(self) -> None:
        self._tasks.append(asyncio.create_task(self._register_again()))

    async def _register_again(self) -> None:
        if await wait_for_store(self._store.was_emptied, self._observers):
            logger().warning(
                "[batchflow] The server has lost its data, as by FLUSHALL or a restart without persistence: "
                "earlier runs, batches and the ledger are gone; continuing with new work"
            )
            await wait_for_store(self._declare, self._observers)
            if self._cron is not None:
                await wait_for_store(self._cron.declare, self._observers)
        else:
            logger().warning(
                "[batchflow] This worker's lease had ended (was the process suspended?); registering again"
            )
        await wait_for_store(self.register, self._observers)

    async def register(self) -> None:
        """Register with the store, or again with the destinations that have been added since."""
        asked_at = self._lease.elapsed()
        destinations = self.dispatcher.destinations
        await self._store.register(self._name, self._lease.lease_ms, self._concurrency, destinations)
        self._lease.mark_renewed(asked_at)
        # Messages that are due could not be claimed before.
        self.dispatcher.wake()
