"""The engine: one process's access to the store, and the life of its worker."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeVar

from batchflow.core import ids
from batchflow.core.batch import NewBatch
from batchflow.core.codec import SizeLimit
from batchflow.core.expected_data import ExpectedData
from batchflow.core.failure_budget import FailureBudget
from batchflow.core.flow import FlowControl
from batchflow.core.message import Message
from batchflow.core.ports import (
    Clock,
    DeadLetterStore,
    Entropy,
    Handler,
    LogNames,
    Observers,
    Runtime,
    ScheduleTarget,
    StepOverride,
)
from batchflow.core.posts import PUSH_SCHEDULE_DESTINATION
from batchflow.core.retry import RetryPolicy
from batchflow.core.schedule import NewSchedule, ScheduledStart
from batchflow.core.settlement import Notice
from batchflow.core.store import FlowKeyAdmin, Ledger, RunReads, ScheduleStore, Store
from batchflow.engine.backlog import WriteBacklog
from batchflow.engine.callbacks import CallbackSettings
from batchflow.engine.caller import HttpCaller
from batchflow.engine.clock import ClockJumpDetector, ServerClock, SystemClock
from batchflow.engine.cron import CronScheduler
from batchflow.engine.delivery import Courier
from batchflow.engine.dispatcher import Dispatcher
from batchflow.engine.http_messages import HTTP_LOG_NAMES, http_callers
from batchflow.engine.loop_monitor import BlockedLoop
from batchflow.engine.observers import EngineLog, with_engine_log
from batchflow.engine.options import EngineOptions
from batchflow.engine.outage import Outage, wait_for_store
from batchflow.engine.push_client import HttpPushClient, PushClient
from batchflow.engine.push_messages import PUSH_LOG_NAMES, push_handlers
from batchflow.engine.push_schedules import PushSchedules
from batchflow.engine.push_settings import PushSettings
from batchflow.engine.stored_letters import StoredDeadLetters
from batchflow.engine.threads import AbandonedCall, ThreadPool
from batchflow.engine.watchers import Watchers
from batchflow.engine.worker import LEASE_MS, EngineWorker, Maintenance, WorkerLease
from batchflow.errors import ConfigurationError, StoreError
from batchflow.logs import logger

T = TypeVar("T")


class Engine:
    """One process's access to the store (`batchflow.core.ports.Client`), and its worker while one is started."""

    executes: bool = True
    """See the port."""

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
        self.log_names: dict[str, LogNames] = dict(HTTP_LOG_NAMES)
        """The words of the log lines about destinations."""
        self._log = EngineLog(self.log_names, self.now)
        self.observers: Observers = with_engine_log(log=self._log)
        """Receive the events of the engine."""
        self.limit: SizeLimit = options.limit
        """See the port."""
        self._clock: Clock = clock
        self._entropy: Entropy = entropy
        self.expected_data = ExpectedData()
        """See the port."""
        self.watchers = Watchers(lambda: self.threads is not None)
        """Wait in this process for runs and batches to end."""
        self._endpoints = endpoints
        self._limits = limits
        self._options: EngineOptions = options
        self.loop: asyncio.AbstractEventLoop | None = None
        """The event loop on which the engine is open."""
        self.step_override: StepOverride | None = None
        """Replaces the execution of steps in a test."""
        self.callbacks = CallbackSettings()
        """The failure URLs of this process's functions, the body of notifications, and the key that signs both."""
        self.caller = HttpCaller(options.limit)
        """Makes the HTTP calls; a test replaces it."""
        self.push_client: PushClient | None = None
        """Pushes posts, once `enable_push` was called; a test replaces it."""
        self.schedule_targets: dict[str, ScheduleTarget] = {}
        """The workflows and functions that schedules start, by the destination of their work."""
        self._cron: CronScheduler | None = None
        self.report_progress: Callable[[], Awaitable[None]] | None = None
        """Called every 30 s while a worker runs; may only raise `StoreError`."""
        self.finish_log: Callable[[], Awaitable[None]] | None = None
        """Called before the store is closed: writes what is left to log."""
        self._threads: ThreadPool | None = None
        self._end_subscriptions: Callable[[], object] = lambda: None
        self._worker: EngineWorker | None = None
        self._stopping: EngineWorker | None = None

    # The client port

    @property
    def run_store(self) -> RunReads:
        """See the port."""
        return self.store

    @property
    def replaces_ended_runs(self) -> bool:
        """See the port."""
        return False

    def check_run(
        self, flow: FlowControl, retry: RetryPolicy | None, label: str | None, headers: Mapping[str, str]
    ) -> None:
        """See the port: it keeps all of them."""

    @property
    def dead_letter_store(self) -> DeadLetterStore:
        """See the port; the store tells the engine of a change."""
        return StoredDeadLetters(self.store)

    @property
    def schedule_store(self) -> ScheduleStore:
        """The schedules, as operators see and change them."""
        return self.store

    @property
    def flow_keys(self) -> FlowKeyAdmin:
        """See the port."""
        return self.store

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
        # Woken first, so that the worker claims in the same transaction that publishes.
        self.wake()
        new = await self.store.publish(messages)
        if (notify := self.observers.published) is not None:
            for message, is_new in zip(messages, new, strict=True):
                if is_new:
                    notify(message)
        return new

    async def open_batch(self, batch: NewBatch, messages: Sequence[Message]) -> bool:
        """See the port."""
        self.wake()
        is_new = await self.store.open_batch(batch, messages)
        if is_new and (notify := self.observers.published) is not None:
            for message in messages:
                notify(message)
        return is_new

    async def notify(self, event: str, data: str, run: str | None = None) -> Sequence[str]:
        """See the port."""
        self.wake()
        return await self.store.notify(event, data, run)

    async def cancel_run(self, id: str) -> bool:
        """See the port."""
        found = await self.store.cancel_run(id)
        self.watchers.check_all()
        return found

    async def cancel_runs(
        self, *, destination: str | None = None, label: str | None = None, ids: Sequence[str] = ()
    ) -> int:
        """See the port."""
        found = await self.store.cancel_runs(destination=destination, label=label, ids=ids)
        self.watchers.check_all()
        return found

    async def cancel_batch(self, id: str) -> bool:
        """See the port."""
        found = await self.store.cancel_batch(id)
        self.watchers.check_all()
        return found

    async def pause_batch(self, id: str) -> bool:
        """See the port."""
        return await self.store.pause_batch(id)

    async def resume_batch(self, id: str) -> bool:
        """See the port."""
        self.wake()
        return await self.store.resume_batch(id)

    async def set_failure_budget(self, id: str, budget: FailureBudget | None) -> bool:
        """See the port."""
        return await self.store.set_failure_budget(id, budget)

    async def set_batch_priority(self, id: str, priority: int) -> bool:
        """See the port."""
        return await self.store.set_batch_priority(id, priority)

    async def approve_batch(self, id: str) -> bool:
        """See the port."""
        self.wake()
        return await self.store.approve_batch(id)

    def _on_notice(self, notice: Notice) -> None:
        if (notify := getattr(self.observers, notice.event)) is not None:
            notify(notice.id)

    @property
    def entropy(self) -> Entropy:
        """The source of randomness, for keys and tokens."""
        return self._entropy

    @property
    def threads(self) -> ThreadPool | None:
        """See the port."""
        return self._threads

    @property
    def concurrency(self) -> int | None:
        """See the port."""
        return None if self._worker is None else self._options.concurrency

    async def ended(self, id: str, look: Callable[[], Awaitable[T | None]], limit: float | None) -> T | None:
        """See the port."""
        return await self.watchers.wait_for_end(id, look, limit)

    # Life

    async def open(self, *, wait: bool = False) -> None:
        """Open the store and declare the code's limits; with `wait`, wait for a store that is away and log it once.

        Raises:
            StoreUnavailable: the store is away, and `wait` is false.
            StoreIncompatible: the store cannot be used by this version or user.
        """
        if self._threads is not None:
            return
        places = [self.store, *([self.ledger] if self.ledger else [])]
        try:
            for place in places:
                await (wait_for_store(place.open, self.observers) if wait else place.open())
        except BaseException:
            # A store that was refused may hold connections.
            for place in places:
                with contextlib.suppress(StoreError):
                    await place.close()
            raise
        self.loop = asyncio.get_running_loop()
        self.watchers.reset()
        self._threads = ThreadPool(self._options.threads, self._log_abandoned)
        self.watchers.check_all()
        subscriptions = self.store.on_change(self._on_store_change), self.store.on_notice(self._on_notice)
        self._end_subscriptions = lambda: [end() for end in subscriptions]
        try:
            await (wait_for_store(self.declare, self.observers) if wait else self.declare())
        except BaseException:
            # The next start would take it for one that is open.
            await self.close()
            raise

    @property
    def is_open(self) -> bool:
        """True if it is open, and its event loop has not ended."""
        return self.loop is not None and not self.loop.is_closed()

    @property
    def is_durable(self) -> bool:
        """True if the runs that it starts outlive this process."""
        return self.store.is_durable

    async def declare(self) -> None:
        """Declare the code's limits."""
        await self.store.declare(self._limits)

    async def close(self) -> None:
        """Stop the worker, if there is one, and close the store."""
        await self.stop()
        if self._threads is not None and self.finish_log is not None:
            await self.finish_log()
        threads, self._threads = self._threads, None
        self.loop = None
        if threads is not None:
            self._end_subscriptions()
            await self.caller.close()
            if self.push_client is not None:
                await self.push_client.close()
            await self.store.close()
            if self.ledger is not None:
                await self.ledger.close()
            self._log_left_running(threads)
            # Those who wait in this process get an error.
            self.watchers.check_all()

    @property
    def blocked_loop(self) -> BlockedLoop | None:
        """The block of the worker's event loop that lasts, or that ended some seconds ago. Safe in other threads."""
        return None if self._worker is None else self._worker.monitor.blocked

    @property
    def hanging_threads(self) -> int:
        """The number of threads that run plain functions of abandoned attempts."""
        return 0 if self._threads is None else self._threads.hanging

    def _log_abandoned(self, given_up: AbandonedCall) -> None:
        # Whoever cancels a dry run knows of it; `_log_left_running` reports the calls that a stop leaves behind.
        if self._stopping is not None or not given_up.call.run:
            return
        about = {**given_up.call._asdict(), "hanging": given_up.hanging}
        if given_up.replaced:
            logger().warning("[batchflow] A plain function hangs; its thread is replaced", **about)
        else:
            logger().error("[batchflow:error] A plain function hangs; too many hang to replace its thread", **about)

    def _log_left_running(self, threads: ThreadPool) -> None:
        if left := [call for call in threads.close() if call.run]:
            logger().warning(
                "[batchflow] Stopped while plain functions still run; they end with the process at the latest",
                functions=sorted({call.function for call in left}),
                threads=len(left),
            )

    def enable_push(self, settings: PushSettings) -> None:
        """Let the workers of this process deliver posts and fire their schedules. Before `start`; safe to repeat."""
        self.push_client = self.push_client or HttpPushClient(settings)
        self.schedule_targets[PUSH_SCHEDULE_DESTINATION] = PushSchedules()
        self.log_names.update(PUSH_LOG_NAMES)

    def make_cron(self) -> CronScheduler:
        """The schedules of this process, which nothing fires yet."""
        return CronScheduler(self.store, self.schedule_targets, self.report_start)

    def check_schedule(self, schedule: NewSchedule) -> None:
        """Raise `ConfigurationError` for a schedule that code declares, and that could not be fired."""

    def new_schedule_id(self) -> str:
        """An id for a schedule that is made without one."""
        return f"sch_{self.new_id('run').removeprefix('run_')}"

    def report_start(self, start: ScheduledStart) -> None:
        """A fire has started this work."""
        self.wake()
        if (notify := self.observers.published) is not None:
            for message in start.messages:
                notify(message)

    def wake_schedules(self) -> None:
        """A schedule has changed."""
        if self._cron is not None:
            self._cron.wake()

    async def start(self, *, schedules: bool = True) -> None:
        """Start a worker in this process; safe to repeat. Without `schedules` it fires none."""
        if self._worker is None:
            self._cron = self.make_cron() if schedules else None
            name, lease = self._worker_name(), WorkerLease(LEASE_MS)
            dispatcher = self.make_dispatcher(name, lease)
            maintenance = Maintenance(
                self.store,
                dispatcher,
                name,
                self._options.retention_ms,
                now=self.now,
                clock_jumps=self._clock_jumps(),
                tick=self.write_log,
                report=self.report_progress,
            )
            worker = EngineWorker(
                self.store,
                dispatcher,
                maintenance,
                name,
                concurrency=self._options.concurrency,
                lease=lease,
                declare=self.declare,
                hanging=lambda: self.hanging_threads,
            )
            await worker.start(self._cron)
            self._worker = worker

    async def stop(self) -> None:
        """Stop claiming, wait the grace for active claims, and release the rest without counting an attempt."""
        worker, self._worker = self._worker, None
        self._cron = None
        if worker is not None:
            self._stopping = worker
            await worker.stop(self._options.grace_s)
            self._stopping = None
        self.write_log(due_only=False)

    def write_log(self, *, due_only: bool = True) -> None:
        """Log the failed attempts that were summed; with `due_only` if they were summed for long enough."""
        (self._log.failures.write_due if due_only else self._log.failures.write)()

    def skip_grace(self) -> None:
        """End the grace of a stop: active claims are released at once."""
        if self._stopping is not None:
            self._stopping.dispatcher.skip_grace()

    def make_dispatcher(self, worker: str, lease: WorkerLease | None = None) -> Dispatcher:
        """A dispatcher for `worker`, not started. The engine is open; the caller renews `lease`."""
        clock = ServerClock(self._clock)
        outage = Outage(self.observers)
        runtime = replace(
            self.make_runtime(clock),
            lease=lease,
            backlog=WriteBacklog(),
            always_replay=self._options.always_replay,
            retry_record=outage.retry_step,
        )
        return Dispatcher(
            self.store,
            Courier(self._endpoints, self.make_callers(), runtime, self.log_names),
            worker=worker,
            concurrency=self._options.concurrency,
            clock=clock,
            watchers=self.watchers,
            observers=self.observers,
            outage=outage,
        )

    def make_callers(self) -> dict[str, Handler]:
        """The handlers of what any worker sends, by destination."""
        callers = dict(http_callers(self.caller, self.store, self.callbacks))
        if self.push_client is not None:
            callers.update(push_handlers(self.push_client, self.store, self._entropy, self.now))
        return callers

    def make_runtime(self, clock: Clock) -> Runtime:
        """The parts of this engine that deliveries use, without those of a worker. The engine is open."""
        assert self._threads is not None
        return Runtime(
            journaling=self.store,
            clock=clock,
            entropy=self._entropy,
            threads=self._threads,
            client=self,
            step_override=self.step_override,
            expected_data=self.expected_data,
            observers=self.observers,
        )

    def _clock_jumps(self) -> ClockJumpDetector | None:
        # Only for the system clock: a test sets its clock on purpose.
        if not isinstance(self._clock, SystemClock):
            return None
        return ClockJumpDetector(self._clock, asyncio.get_running_loop().time)

    def _worker_name(self) -> str:
        # Never the name of an earlier worker, whose claims would count as its own.
        return f"{self._options.name or socket.gethostname()}-{os.getpid()}-{self._entropy.bytes(3).hex()}"

    def _on_store_change(self, foreign: bool) -> None:
        self.wake()
        if foreign:
            self.watchers.check_soon()

    def wake(self) -> None:
        """Have the worker of this process, if it has one, claim with the write that comes next."""
        if self._worker is not None:
            self._worker.dispatcher.wake()

    @contextlib.contextmanager
    def substituted(
        self, *, store: Store, clock: Clock, entropy: Entropy, always_replay: bool | None = None
    ) -> Generator[None]:
        """Use another store, its ledger and another clock in the body; afterwards the engine is as before, closed.

        Raises:
            ConfigurationError: the engine is open.
        """
        if self._threads is not None:
            raise ConfigurationError("the app is running already; end it first, or do not start it in this test")
        own = (self.store, self._clock, self._entropy, self._options, self.step_override, self.caller)
        ledger, self.ledger = self.ledger, None
        self.store, self._clock, self._entropy = store, clock, entropy
        if always_replay is not None:
            self._options = self._options._replace(always_replay=always_replay)
        # Those who waited before may be bound to an event loop that is gone.
        self.watchers.check_all()
        try:
            yield
        finally:
            if self._threads is not None:
                self._drop_loop(self._threads)
            self.store, self._clock, self._entropy, self._options, self.step_override, self.caller = own
            self.ledger = ledger
            # The subscriptions would keep the store alive, and with it the store's threads.
            self._end_subscriptions = lambda: None
            self.watchers.check_all()

    def _drop_loop(self, threads: ThreadPool) -> None:
        """Close without the event loop, which is gone; the owner of the store closes it."""
        self._threads = None
        self.loop = None
        self._worker = self._cron = None
        self._end_subscriptions()
        threads.close()
