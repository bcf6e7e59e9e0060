"""The engine of an app on QStash: runs of served functions live there, batches in the app's store."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

from batchflow.core.batch import NewBatch
from batchflow.core.dead_letters import DeadLetter
from batchflow.core.flow import FlowControl
from batchflow.core.ids import is_of_batch
from batchflow.core.message import Message
from batchflow.core.ports import Handler, Runtime
from batchflow.core.retry import RetryPolicy
from batchflow.core.schedule import Cron, NewSchedule
from batchflow.core.store import RunReads
from batchflow.engine.cron import CronScheduler
from batchflow.engine.engine import Engine
from batchflow.engine.stored_letters import StoredDeadLetters
from batchflow.engine.worker import LEASE_MS, WorkerLease
from batchflow.errors import BatchflowError, ConfigurationError, InputError, StoreUnavailable
from batchflow.logs import logger
from batchflow.qstash.account import QStashAccount
from batchflow.qstash.account_reads import RunsOfAccounts
from batchflow.qstash.batches import QStashBatches
from batchflow.qstash.directory import Directory
from batchflow.qstash.endpoint import ObserveRecorder
from batchflow.qstash.flow_keys import BatchFlowKeys, QStashFlowKeys
from batchflow.qstash.invoked_batches import INVOKED, INVOKED_LOG_NAMES, InvokedBatches
from batchflow.qstash.letters import QStashDeadLetters
from batchflow.qstash.reads import QStashRuns
from batchflow.qstash.relay import Relay, RelaySchedule
from batchflow.qstash.rest import TokenRefused
from batchflow.qstash.run_commands import QStashRunCommands
from batchflow.qstash.run_options import check_run_options
from batchflow.qstash.schedules import QStashSchedules, check_schedule
from batchflow.qstash.worker import RequestWorker
from batchflow.wire.submissions import Address

T = TypeVar("T")

FIRST_POLL_S = 0.5
"""The first pause between two looks at a run that somebody waits for; each is twice as long as the one before."""

LONGEST_POLL_S = 10.0
"""The longest of these pauses."""


class QStashEngine(Engine):
    """An engine whose runs of served functions live in a QStash: it starts, notifies, cancels and reads them there.

    Batches live in its store, whose messages QStash delivers to the app. `connect` has to be called before anything
    else.
    """

    executes: bool = False
    directory: Directory
    """The functions of the app, with their accounts and URLs."""
    told: dict[str, DeadLetter]
    """See the port of endpoints."""
    has_store: bool = False
    """There is a store for batches."""
    relay_schedule: RelaySchedule
    """When QStash calls the app, and whether this process has told it."""
    batches: QStashBatches | None = None
    """Executes batches while the engine is open, if there is a store."""
    run_commands: QStashRunCommands
    """Start, notify and cancel runs."""
    observe: ObserveRecorder | None = None
    """Replaces the recorders of deliveries in a test."""
    _invoked: InvokedBatches
    _has_declared: bool = False
    _is_away: bool = False

    def connect(self, directory: Directory) -> None:
        """Use the accounts of these functions."""
        self.directory = directory
        self.told = {}
        self.run_commands = QStashRunCommands(directory)
        self._invoked = InvokedBatches(directory, lambda: self.run_store)
        self.log_names[INVOKED] = INVOKED_LOG_NAMES

    @contextmanager
    def played(self, account: QStashAccount, url: str, relay_cron: Cron, observe: ObserveRecorder) -> Generator[None]:
        """Use the QStash of a test in the body, which calls the app at this URL; the test fires schedules of batches.

        `observe` replaces the recorders of deliveries.
        """
        own = self.relay_schedule, self._has_declared
        self.relay_schedule, self._has_declared, self.observe = RelaySchedule(relay_cron), False, observe
        try:
            with self.directory.replaced(account, url):
                yield
        finally:
            self.relay_schedule, self._has_declared = own
            self.observe = None

    async def restart_batches(self) -> None:
        """Execute batches as another process does, after the one of a test has crashed."""
        if self.batches is not None:
            await self.batches.close(0)
            self.relay_schedule = RelaySchedule(self.relay_schedule.cron)
            self.batches = self._make_batches()

    # The client of served functions

    @property
    def run_store(self) -> RunReads:
        """See the port."""
        reads = [
            QStashRuns(it, self.directory, self.told, QStashFlowKeys(it, self._limits)) for it in self.directory.rests
        ]
        return RunsOfAccounts(reads, self.store if self.has_store else None)

    @property
    def dead_letter_store(self) -> QStashDeadLetters:
        """See the port: those of the app's account, and of its store."""
        return QStashDeadLetters(self.directory, self.run_store, StoredDeadLetters(self.store), self.give_due)

    @property
    def schedule_store(self) -> QStashSchedules:
        """See the engine: those of all accounts, and of the store."""
        return QStashSchedules(self, self.store, self.directory)

    @property
    def flow_keys(self) -> BatchFlowKeys:
        """See the port: those of the app's account."""
        return BatchFlowKeys(self.directory.app.rest, self._limits, self.store, self.give_due)

    @property
    def replaces_ended_runs(self) -> bool:
        """See the port: QStash knows the id of a run until the run has ended."""
        return True

    @property
    def is_durable(self) -> bool:
        """See the engine: runs live in QStash, batches in the store."""
        return not self.has_store or self.store.is_durable

    def check_run(
        self, flow: FlowControl, retry: RetryPolicy | None, label: str | None, headers: Mapping[str, str]
    ) -> None:
        """See the port."""
        check_run_options(flow, retry, label, headers)

    # The client of batches

    async def declare(self) -> None:
        """Declare the keys of the code without limits: QStash keeps these."""
        limits = [FlowControl.of_ms(it.key, None, None, it.period_ms) for it in self._limits]
        await self.store.declare(limits)

    async def open_batch(self, batch: NewBatch, messages: Sequence[Message]) -> bool:
        """See the port.

        Raises:
            ConfigurationError: the public URL of the app is not known, and nobody could execute the batch.
        """
        self.directory.deliveries_url()
        return await self._then_give(super().open_batch(batch, messages))

    async def cancel_batch(self, id: str) -> bool:
        """See the port."""
        return await self._then_give(super().cancel_batch(id))

    async def resume_batch(self, id: str) -> bool:
        """See the port."""
        return await self._then_give(super().resume_batch(id))

    async def approve_batch(self, id: str) -> bool:
        """See the port."""
        return await self._then_give(super().approve_batch(id))

    async def _then_give(self, command: Awaitable[T]) -> T:
        found = await command
        await self.give_due()
        return found

    async def give_due(self) -> None:
        """Give QStash the messages of batches that are due."""
        if self.batches is not None:
            await self.batches.give_due()

    def make_callers(self) -> dict[str, Handler]:
        """See the engine; the batches that runs in QStash invoke belong to it too."""
        return {**super().make_callers(), INVOKED: self._invoked}

    def _make_batches(self) -> QStashBatches:
        name, lease = self._worker_name(), WorkerLease(LEASE_MS)
        worker = RequestWorker(
            self.store,
            self.make_dispatcher(name, lease),
            name,
            lease,
            concurrency=self._options.concurrency,
            hanging=lambda: self.hanging_threads,
        )
        relay = Relay(
            self.store,
            self.directory,
            name,
            lambda: worker.destinations,
            now=self.now,
            schedule=self.relay_schedule,
        )
        cron = self.make_cron() if self.observe is None else CronScheduler(self.store, {})
        return QStashBatches(self.store, worker, relay, cron, retention_ms=self._options.retention_ms)

    # The client of served functions

    async def publish(self, messages: Sequence[Message]) -> Sequence[bool]:
        """See the port. Runs of served functions are started in QStash, all or none; messages of batches are stored."""
        if any(it.batch is not None for it in messages):
            new = await super().publish(messages)
            await self.give_due()
            return new
        new = await self.run_commands.start(messages)
        if (tell := self.observers.published) is not None:
            for message, is_new in zip(messages, new, strict=True):
                if is_new:
                    tell(message)
        return new

    async def notify(self, event: str, data: str, run: str | None = None) -> Sequence[str]:
        """See the port; items of batches wait for events in the store."""
        items: Sequence[str] = ()
        if self.has_store:
            items = await super().notify(event, data, run)
            await self.give_due()
        if run is not None and is_of_batch(run):
            return items
        return [*items, *await self.run_commands.notify(event, data, run)]

    async def cancel_run(self, id: str) -> bool:
        """See the port."""
        if is_of_batch(id):
            return await self._then_give(super().cancel_run(id))
        return await self.cancel_runs(ids=[id]) > 0

    async def cancel_runs(
        self, *, destination: str | None = None, label: str | None = None, ids: Sequence[str] = ()
    ) -> int:
        """See the port."""
        found = await self.run_commands.cancel(destination, label, ids)
        if self.has_store:
            await self._invoked.cancel(self.store, ids, all_were=found > 0 and found == len(ids))
            await self.give_due()
        return found

    async def ended(self, id: str, look: Callable[[], Awaitable[T | None]], limit: float | None) -> T | None:
        """See the port. A run is looked at again and again, with growing pauses.

        Raises:
            StoreUnavailable: QStash does not accept the token of the app.
        """
        if (found := await self._look(look)) is not None:
            return found
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                pause = FIRST_POLL_S
                while True:
                    await asyncio.sleep(pause)
                    if (found := await self._look(look)) is not None:
                        return found
                    pause = min(2 * pause, LONGEST_POLL_S)
        return None

    async def _look(self, look: Callable[[], Awaitable[T | None]]) -> T | None:
        try:
            found = await look()
        except TokenRefused:
            # Nothing changes that in this process.
            raise
        except StoreUnavailable as error:
            # It may answer again, and whoever waits without a limit waits for that too.
            if self.loop is None:
                raise
            if not self._is_away:
                self._is_away = True
                logger().warning("[batchflow] QStash cannot be asked for what somebody waits for", error=str(error))
            return None
        self._is_away = False
        return found

    async def start(self, *, schedules: bool = True) -> None:
        """See the engine: there is no worker.

        Raises:
            ConfigurationError: always.
        """
        raise ConfigurationError("QStash calls the endpoints of this app: serve its router, and start no worker")

    async def open(self, *, wait: bool = False) -> None:
        """See the engine. The schedules that the code declares are put into QStash."""
        if self.loop is None:
            try:
                await super().open(wait=wait)
                self.batches = self._make_batches() if self.has_store else None
                await self._declare_schedules()
            except BaseException:
                # The next start would take it for one that is open.
                await self.close()
                raise
            if not self.is_durable and self.observe is None:
                logger().warning(
                    "[batchflow] The store of batches is in memory: no other process can execute them, and they are "
                    "lost with this one; write BATCHFLOW_STORE=redis://HOST:PORT, or sqlite:///PATH on one machine"
                )
        if not self.directory.endpoints:
            return
        if self.directory.app.receiver is None:
            logger().warning(
                "[batchflow] Requests are not verified (verify=False): anybody who can reach this app may run its steps"
            )
        elif unverified := self.directory.unverified:
            logger().warning(
                "[batchflow] Requests to some functions are not verified (receiver=None): anybody who can reach them "
                "may run their steps",
                functions=unverified,
            )

    def make_cron(self) -> CronScheduler:
        """See the engine: the schedules of functions are in QStash."""
        batches = {route: it for route, it in self.schedule_targets.items() if it.schedule_starts == "batch"}
        return CronScheduler(self.store, batches, self.report_start)

    def check_schedule(self, schedule: NewSchedule) -> None:
        """See the engine."""
        try:
            check_schedule(schedule)
        except InputError as error:
            raise ConfigurationError(f"the schedule of '{schedule.destination}': {error}") from error

    async def _declare_schedules(self) -> None:
        try:
            if not self._has_declared:
                await self.schedule_store.declare()
            self._has_declared = True
        except (BatchflowError, ValueError) as error:
            # Everything else works; the next start tries again.
            logger().error("[batchflow:error] Schedules could not be put into QStash", error=str(error))

    async def close(self) -> None:
        """See the engine; the connections to QStash are closed too."""
        batches, self.batches = self.batches, None
        async with contextlib.AsyncExitStack() as stack:
            # Each is closed, also when another one cannot be.
            for rest in self.directory.rests:
                stack.push_async_callback(rest.close)
            stack.push_async_callback(super().close)
            if batches is not None:
                await batches.close(self._options.grace_s)

    # The part that endpoints use, through `batchflow.qstash.account_engine`

    @property
    def runtime(self) -> Runtime:
        """The parts of the app that deliveries use."""
        return self.make_runtime(self._clock)

    async def cancel_invoked_by(self, run: Address) -> None:
        """Cancel the batches that a run has invoked which has ended."""
        if self.has_store:
            await self._invoked.cancel_of(self.store, run)
            await self.give_due()

    async def open_invoked(self, message: Message) -> None:
        """Store the message that opens the batch of a run (`invoked_message`). Safe to repeat."""
        await super().publish([message])
        await self.give_due()
