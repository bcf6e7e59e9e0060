"""The engine: the client port for those who publish and ask, and the worker that does the work."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from batchflow.core import ids
from batchflow.core.batch import NewBatch
from batchflow.core.clock import Clock, Entropy
from batchflow.core.flow import FlowControl
from batchflow.core.limit import DEFAULT, Limit
from batchflow.core.message import Message
from batchflow.core.observe import Observers
from batchflow.core.ports import Handler, Runtime, StandIn
from batchflow.core.store import Ledger, Store
from batchflow.engine.clock import ClockJumpDetector, ServerClock, SystemClock
from batchflow.engine.delivery import Courier, HttpCaller
from batchflow.engine.dispatcher import Dispatcher
from batchflow.engine.observers import with_engine_log
from batchflow.engine.outage import Outage, wait_for_store
from batchflow.engine.threads import AbandonedCall, ThreadPool
from batchflow.engine.watchers import Watchers
from batchflow.engine.worker import LEASE_MS, Heartbeat, Maintenance, WorkerLease
from batchflow.errors import ConfigurationError, StoreError
from batchflow.logs import logger

T = TypeVar("T")

DEREGISTER_TIMEOUT_S = 2.0
"""For so long a store that does not answer holds up the end of a worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How an engine works.

    `concurrency` bounds the claims under way, `grace_s` the time a stop waits for them, `threads` those that sync user
    functions run in; finished things are removed after `retention_ms`. `always_replay` suspends runs after every step.
    `name` is what the name of a worker begins with, by default the machine's; `limit` is how large a value may be.
    """

    concurrency: int
    grace_s: float
    retention_ms: int
    threads: int
    always_replay: bool = False
    name: str | None = None
    limit: Limit = DEFAULT


class Engine:
    """One process's access to the store (`batchflow.core.ports.Client`), and its worker while one is started."""

    def __init__(
        self,
        store: Store,
        endpoints: Mapping[str, Handler],
        limits: Sequence[FlowControl],
        *,
        clock: Clock,
        entropy: Entropy,
        options: EngineOptions,
    ) -> None:
        self.store = store
        self.ledger: Ledger | None = None
        """See the port."""
        self.observers: Observers = with_engine_log()
        """Are told what happens."""
        self.limit: Limit = options.limit
        """See the port."""
        self._clock: Clock = clock
        self._entropy: Entropy = entropy
        self.watchers = Watchers(lambda: self.threads is not None)
        """Those who wait here for runs and batches."""
        self._endpoints = endpoints
        self._limits = limits
        self._options: EngineOptions = options
        self.loop: asyncio.AbstractEventLoop | None = None
        """The event loop on which it is open."""
        self.stand_in: StandIn | None = None
        """Is asked what to execute in place of a step, where a test wants that."""
        self.caller: Handler | None = None
        """Makes the calls in place of HTTP, where a test wants that."""
        self.report_progress: Callable[[], Awaitable[None]] | None = None
        """Is called every 30 s while a worker works; what it raises is a `StoreError`."""
        self._threads: ThreadPool | None = None
        self._end_subscription = lambda: None
        self._caller = HttpCaller(options.limit)
        self._worker: _Worker | None = None
        self._stopping: _Worker | None = None

    # The client port

    @property
    def marks(self) -> Ledger:
        """See the port."""
        return self.ledger or self.store

    def now(self) -> int:
        """See the port."""
        return self._clock.now()

    def new_id(self, kind: Literal["run", "batch"]) -> str:
        """See the port."""
        if kind == "batch":
            return ids.batch_id(self.now(), self._entropy.bytes(ids.BATCH_ENTROPY))
        return ids.run_id(self.now(), self._entropy.bytes(ids.RUN_ENTROPY))

    async def publish(self, messages: Sequence[Message]) -> Sequence[bool]:
        """See the port."""
        # Woken first, the worker claims in the very transaction that publishes.
        self._wake()
        new = await self.store.publish(messages)
        if (tell := self.observers.published) is not None:
            for message, is_new in zip(messages, new, strict=True):
                if is_new:
                    tell(message)
        return new

    async def open_batch(self, batch: NewBatch, messages: Sequence[Message]) -> bool:
        """See the port."""
        self._wake()
        is_new = await self.store.open_batch(batch, messages)
        if is_new and (tell := self.observers.published) is not None:
            for message in messages:
                tell(message)
        return is_new

    async def notify(self, event: str, data: str, run: str | None = None) -> Sequence[str]:
        """See the port."""
        self._wake()
        return await self.store.notify(event, data, run)

    async def cancel_run(self, id: str) -> bool:
        """See the port."""
        found = await self.store.cancel_run(id)
        self.watchers.check_all()
        return found

    async def cancel_runs(self, *, destination: str | None = None, label: str | None = None) -> int:
        """See the port."""
        found = await self.store.cancel_runs(destination=destination, label=label)
        self.watchers.check_all()
        return found

    async def cancel_batch(self, id: str) -> bool:
        """See the port."""
        found = await self.store.cancel_batch(id)
        self.watchers.check_all()
        return found

    @property
    def threads(self) -> ThreadPool | None:
        """See the port."""
        return self._threads

    async def ended(self, id: str, look: Callable[[], Awaitable[T | None]], limit: float | None) -> T | None:
        """See the port."""
        return await self.watchers.wait_for_end(id, look, limit)

    # Life

    async def open(self, *, wait: bool = False) -> None:
        """Open the store and tell it the code's limits; `patient` waits for a store that is away, and says so once.

        Raises:
            StoreUnavailable: the store is away, and it is not waited for.
            StoreIncompatible: it is none for this program; nobody waits for that.
        """
        if self._threads is not None:
            return
        places = [self.store, *([self.ledger] if self.ledger else [])]
        try:
            for place in places:
                await (wait_for_store(place.open, self.observers) if wait else place.open())
        except BaseException:
            # One that was refused may hold connections.
            for place in places:
                with contextlib.suppress(StoreError):
                    await place.close()
            raise
        self.loop = asyncio.get_running_loop()
        self.watchers.reset()
        self._threads = ThreadPool(self._options.threads, self._log_abandoned)
        self.watchers.check_all()
        await (wait_for_store(self.declare, self.observers) if wait else self.declare())
        self._end_subscription = self.store.on_change(self._on_store_change)

    async def declare(self) -> None:
        """Tell the store the code's limits."""
        await self.store.declare(self._limits)

    async def close(self) -> None:
        """Stop the worker, if there is one, and close the store."""
        await self.stop()
        threads, self._threads = self._threads, None
        self.loop = None
        if threads is not None:
            self._end_subscription()
            await self._caller.close()
            await self.store.close()
            if self.ledger is not None:
                await self.ledger.close()
            self._log_left_running(threads)
            # Who waits here for an end learns that this process does not get to know of it.
            self.watchers.check_all()

    @property
    def hanging_threads(self) -> int:
        """How many threads of this process run plain functions whose attempts were given up."""
        return 0 if self._threads is None else self._threads.hanging

    def _log_abandoned(self, given_up: AbandonedCall) -> None:
        # Who cancels a dry run knows of it, and `_let_run_on` tells of those that a stop leaves behind.
        if self._stopping is not None or not given_up.call.run:
            return
        about = {**given_up.call._asdict(), "hanging": given_up.hanging}
        if given_up.replaced:
            logger().warning("[batchflow] A plain function hangs; another thread takes the place of its own", **about)
        else:
            logger().error("[batchflow:error] A plain function hangs; too many do for another thread", **about)

    def _log_left_running(self, threads: ThreadPool) -> None:
        if left := [call for call in threads.close() if call.run]:
            functions = sorted({call.function for call in left})
            logger().warning(
                "[batchflow] Stopped while plain functions run; they end with the process at the latest",
                functions=functions,
                threads=len(left),
            )

    async def start(self) -> None:
        """Start a worker in this process; safe to repeat."""
        if self._worker is None:
            name, lease = self._worker_name(), WorkerLease(LEASE_MS)
            worker = _Worker(self, self.make_dispatcher(name, lease), name, self._options.concurrency, lease)
            await worker.start(self._options.retention_ms)
            self._worker = worker

    async def stop(self) -> None:
        """Stop claiming, wait the grace for what is under way, give the rest back without counting an attempt."""
        worker, self._worker = self._worker, None
        if worker is not None:
            self._stopping = worker
            await worker.stop(self._options.grace_s)
            self._stopping = None

    def skip_grace(self) -> None:
        """End the grace of a stop that is under way: what still runs is given back at once."""
        if self._stopping is not None:
            self._stopping.dispatcher.skip_grace()

    def make_dispatcher(self, worker: str, lease: WorkerLease | None = None) -> Dispatcher:
        """A dispatcher for `worker`, not started; the engine is open. `lease` is one that somebody renews."""
        assert self._threads is not None
        clock = ServerClock(self._clock)
        outage = Outage(self.observers)
        runtime = Runtime(
            journaling=self.store,
            clock=clock,
            entropy=self._entropy,
            threads=self._threads,
            home=self,
            lease=lease,
            always_replay=self._options.always_replay,
            stand_in=self.stand_in,
            insist=outage.retry_step,
            observers=self.observers,
        )
        return Dispatcher(
            self.store,
            Courier(self._endpoints, self.caller or self._caller, runtime),
            worker=worker,
            concurrency=self._options.concurrency,
            clock=clock,
            watchers=self.watchers,
            observers=self.observers,
            outage=outage,
        )

    def clock_jumps(self) -> ClockJumpDetector | None:
        """Who looks whether the machine's clock is set; a clock of a test goes as it likes."""
        return (
            ClockJumpDetector(self._clock, asyncio.get_running_loop().time)
            if isinstance(self._clock, SystemClock)
            else None
        )

    def _worker_name(self) -> str:
        # Never the name of an earlier one, whose claims would be taken for its own.
        return f"{self._options.name or socket.gethostname()}-{os.getpid()}-{self._entropy.bytes(3).hex()}"

    def _on_store_change(self, foreign: bool) -> None:
        self._wake()
        if foreign:
            self.watchers.check_soon()

    def _wake(self) -> None:
        if self._worker is not None:
            self._worker.dispatcher.wake()

    @contextlib.contextmanager
    def substituted(
        self, *, store: Store, clock: Clock, entropy: Entropy, always_replay: bool | None = None
    ) -> Generator[None]:
        """Meanwhile it works on another store and its ledger, in another time; at the end it is as it was, closed.

        Raises:
            ConfigurationError: it is open.
        """
        if self._threads is not None:
            raise ConfigurationError("the app is running already; end it first, or do not start it in this test")
        own = (self.store, self._clock, self._entropy, self._options, self.stand_in, self.caller)
        ledger, self.ledger = self.ledger, None
        self.store, self._clock, self._entropy = store, clock, entropy
        if always_replay is not None:
            self._options = replace(self._options, always_replay=always_replay)
        # Whoever waited for it has bound it to an event loop that may be gone.
        self.watchers.check_all()
        try:
            yield
        finally:
            if self._threads is not None:
                self._drop_loop(self._threads)
            self.store, self._clock, self._entropy, self._options, self.stand_in, self.caller = own
            self.ledger = ledger
            # It would hold on to the store, and that to its threads.
            self._end_subscription = lambda: None
            self.watchers.check_all()

    def _drop_loop(self, threads: ThreadPool) -> None:
        """Be closed without an event loop, which is gone; the store is left to its owner."""
        self._threads = None
        self.loop = None
        self._worker = None
        self._end_subscription()
        threads.close()


class _Worker:
    """What runs while a worker is started."""

    def __init__(self, engine: Engine, dispatcher: Dispatcher, name: str, concurrency: int, lease: WorkerLease) -> None:
        self.dispatcher = dispatcher
        self._store = engine.store
        self._declare = engine.declare
        self._observers = engine.observers
        self._report = engine.report_progress
        self._wall = engine.clock_jumps()
        self._name = name
        self._concurrency = concurrency
        self._tasks: list[asyncio.Task[None]] = []
        self._lease = lease
        self._heartbeat = Heartbeat(
            engine.store, dispatcher, name, self._on_lease_lost, lease=lease, hanging=lambda: engine.hanging_threads
        )

    async def start(self, retention_ms: int) -> None:
        await wait_for_store(self._register, self._observers)
        # What died with an earlier process of ours goes on at once.
        await wait_for_store(self._store.expire, self._observers)
        housekeeping = Maintenance(
            self._store, self.dispatcher, retention_ms, clock_jumps=self._wall, report=self._report
        )
        self._tasks = [
            asyncio.create_task(self.dispatcher.run(), name="batchflow-dispatch"),
            asyncio.create_task(housekeeping.run(), name="batchflow-housekeeping"),
        ]
        self._heartbeat.start()

    async def stop(self, grace_s: float) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        given_back = await self.dispatcher.stop(grace_s)
        await self._heartbeat.stop()
        try:
            async with asyncio.timeout(DEREGISTER_TIMEOUT_S):
                await self._store.dismiss(self._name)
        except (StoreError, TimeoutError) as error:
            logger().warning(
                "[batchflow] Stopped while the store is away; what was under way is taken back when the lease ends",
                error=str(error) or "no answer",
            )
            return
        if given_back:
            logger().info("[batchflow] Stopped; claims given back", claims=given_back)

    def _on_lease_lost(self) -> None:
        self._tasks.append(asyncio.create_task(self._register_again()))

    async def _register_again(self) -> None:
        if await wait_for_store(self._store.was_emptied, self._observers):
            logger().warning(
                "[batchflow] The server has lost what it held, as by FLUSHALL or a restart without its data: "
                "runs, batches and the ledger of before are gone; going on with what comes"
            )
            await wait_for_store(self._declare, self._observers)
        else:
            logger().warning("[batchflow] This worker's lease had ended (was the process suspended?); enlisting again")
        await wait_for_store(self._register, self._observers)

    async def _register(self) -> None:
        asked_at = self._lease.elapsed()
        await self._store.enlist(self._name, LEASE_MS, self._concurrency)
        self._lease.mark_renewed(asked_at)
        # What is due now was not to be had before.
        self.dispatcher.wake()
