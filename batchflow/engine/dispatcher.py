"""The dispatcher: the loop that claims, delivers and settles, with a limited number of active claims."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from batchflow.core import settlement
from batchflow.core.message import LOSS_LIMIT, Claim, ClaimResult
from batchflow.core.ports import STOP_REASON, TIMEOUT_REASON, Observers
from batchflow.core.secrets import printable_error
from batchflow.core.settlement import Settlement, SettleResult
from batchflow.core.store import LARGE_TEXT, Store
from batchflow.engine.clock import ServerClock
from batchflow.engine.delivery import Courier, failed_attempt
from batchflow.engine.outage import BACKOFF_S, Outage
from batchflow.engine.watchers import Watchers
from batchflow.errors import StoreError
from batchflow.logs import safe_repr

MAX_IDLE_S = 60.0
GATHER_SLOTS_S = 0.005
MIN_IDLE_S = 0.02
CANCEL_WAIT_S = 2.0
MAX_LIGHT = 1_000
HUNG_GRACE_S = 30.0
OVERDUE_EVERY_S = 1.0


class ActiveClaim(NamedTuple):
    """A claim that is being executed since `started_at`, in seconds of the event loop. A light one takes up no slot."""

    claim: Claim
    started_at: float
    task: "asyncio.Task[None]"
    is_light: bool


class Dispatcher:
    """Keeps up to `concurrency` claims of one worker active; notifies `watchers` of the ends."""

    def __init__(
        self,
        store: Store,
        courier: Courier,
        *,
        worker: str,
        concurrency: int,
        clock: ServerClock,
        watchers: Watchers,
        observers: Observers,
        outage: Outage | None = None,
    ) -> None:
        self._store = store
        self._courier = courier
        self._interrupts, self._backlog = courier.interrupts, courier.backlog
        self.groups = courier.groups
        """The groups in which its claims wait to be executed together."""
        self.groups.on_waiting = self._check_groups
        self.groups.capacity = concurrency
        self._all_wait = asyncio.Event()
        self._worker = worker
        self._concurrency = concurrency
        self._clock = clock
        self.watchers = watchers
        # By fence too: a lost message may be claimed again while its stale claim is still executed.
        self._running: dict[tuple[str, int], ActiveClaim] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._slots_freed = asyncio.Event()
        self._skip_grace = asyncio.Event()
        self._hung: frozenset[tuple[str, int]] = frozenset()
        self._light_count = 0
        self._ample_slots = concurrency - concurrency * 3 // 4
        self.observers = observers
        """Receive the events of the engine."""
        self.outage = outage or Outage(observers)
        self._stopping = False
        self._claiming: asyncio.Task[Any] | None = None
        self._loop = asyncio.get_running_loop()

    def wake(self) -> None:
        """There may be a message to claim, or a free slot."""
        self._wake.set()
        if self._hung:
            self._slots_freed.set()

    @property
    def destinations(self) -> tuple[str, ...]:
        """The destinations that it claims for."""
        return self._courier.destinations

    @property
    def active_count(self) -> int:
        """The number of active claims."""
        return len(self._running)

    def log_prefix_of(self, task: "asyncio.Task[Any] | None") -> str:
        """The prefix of the log lines about the claim that is delivered in a task. Safe to call from another thread."""
        found = (it.claim.destination for it in list(self._running.values()) if it.task is task)
        of_group = self.groups.calls.get(task)
        return self._courier.log_prefix(next(found, "") if of_group is None else of_group.destination)

    # Claiming

    async def run(self) -> None:
        """Claim and deliver until cancelled."""
        self._claiming = asyncio.current_task()
        while True:
            await self._wait_for_slots()
            self._wake.clear()
            limit = self._free_slots
            claimed = await self._claim_with_retries(limit)
            if len(claimed.claims) < limit:
                await self._wait_for_work(claimed.next_due)

    async def _wait_for_slots(self) -> None:
        """Wait for a free slot, and a moment longer for more of them, so that one claim leases many messages."""
        places = self._slots_freed
        while not self._free_slots:
            places.clear()
            await places.wait()
        if self._free_slots < self._ample_slots:
            places.clear()
            await self._wait(places, GATHER_SLOTS_S)

    async def claim_once(self) -> ClaimResult:
        """Claim for the free slots, and start the deliveries."""
        return self.start(await self._store.claim(self._worker, self._courier.destinations, self._free_slots))

    @property
    def _is_stopping(self) -> bool:
        # An event loop that ends cancels all tasks first, including this one.
        return self._stopping or (self._claiming is not None and self._claiming.cancelling() > 0)

    @property
    def _free_slots(self) -> int:
        # Calls only wait for an answer: up to a limit they take up no slot.
        taken = len(self._running)
        if self._hung:
            taken -= sum(key in self._running for key in self._hung)
        return self._concurrency - taken + min(self._light_count, MAX_LIGHT)

    async def _claim_with_retries(self, limit: int) -> ClaimResult:
        """Claim, after an outage one message at first, and nothing before pending writes show that the store works."""
        outage = self.outage
        while True:
            if outage.is_active:
                await outage.wait_for_retry()
                if outage.blocks_claims:
                    continue
                limit = 1 if outage.is_active else limit
            try:
                claimed = await self._store.claim(self._worker, self._courier.destinations, limit)
            except StoreError as error:
                outage.record_failure(error)
                continue
            if claimed.claims or not outage.has_pending_writes:
                outage.record_success()
            return self.start(claimed)

    def start(self, claimed: ClaimResult) -> ClaimResult:
        """Start the deliveries of these claims; the same result."""
        if claimed.now:
            self._clock.sync_to(claimed.now)
        begun = self._loop.time()
        notify = self.observers.claimed
        for claim in claimed.claims:
            if notify is not None:
                notify(claim)
            task = self._loop.create_task(self._deliver(claim))
            self._tasks.add(task)
            light = self._courier.is_light(claim.destination)
            self._running[claim.id, claim.fence] = ActiveClaim(claim, begun, task, light)
            self._light_count += light
        return claimed

    async def _wait_for_work(self, next_due: int | None) -> None:
        """Wait until `wake` is called or the next message is due."""
        delay = MAX_IDLE_S if next_due is None else (next_due - self._clock.now()) / 1000
        if delay <= 0:
            # A message can be due and not claimable, such as the rest of a cancelled batch: do not poll all the time.
            delay = MIN_IDLE_S
        await self._wait(self._wake, min(delay, MAX_IDLE_S))

    async def _wait(self, event: asyncio.Event, seconds: float) -> None:
        timer = self._loop.call_later(seconds, event.set)
        try:
            await event.wait()
        finally:
            timer.cancel()

    def _check_groups(self) -> None:
        """Call the groups that wait for more claims if none can come, since all that are active wait in groups."""
        if len(self._running) - self._light_count > self.groups.waiting:
            return
        if self._free_slots <= 0 or (self._claiming is not None and self._claiming.done()):
            self.groups.call_all()
        self._all_wait.set()

    # Delivering and settling

    async def wait_until_settled(self, claims: Sequence[Claim]) -> None:
        """Wait for the ends of these deliveries, and enforce their time limits meanwhile."""
        tasks = [it.task for claim in claims if (it := self._running.get((claim.id, claim.fence))) is not None]
        while any(not task.done() for task in tasks):
            await asyncio.wait(tasks, timeout=OVERDUE_EVERY_S)
            self.cancel_overdue()

    async def _deliver(self, claim: Claim) -> None:
        """Deliver and settle one claim, in the one task that is made for it."""
        begun = self._loop.time()
        try:
            ending = await self._courier.deliver(claim) or settlement.released(claim)
        except BaseException as error:
            ending = self._settlement_of_error(claim, error)
        task = self._stop_tracking(claim)
        if claim.number >= 0 or ending.error is not None or ending.failures:
            ending = settlement.with_duration(ending, (self._loop.time() - begun) * 1000)
        backlog = None
        if (
            (result := ending.result) is not None
            and len(result) > LARGE_TEXT
            and (backlog := self._backlog) is not None
        ):
            backlog.add(len(result))
        try:
            answer = await self._store.settle(ending)
        except StoreError as error:
            answer, ending = await self._settle_with_retries(ending, claim, error)
        finally:
            self._tasks.discard(task)
            if backlog is not None:
                backlog.remove(len(result or ""))
        if answer is not None:
            self._report_settled(answer, ending, claim)

    def _stop_tracking(self, claim: Claim) -> "asyncio.Task[None]":
        """Remove a claim whose delivery has ended, and return its task."""
        # The slot is free before the settlement is durable, so that the next claim shares its transaction.
        _, _, task, light = self._running.pop((claim.id, claim.fence))
        self._interrupts.discard(claim)
        self._light_count -= light
        room = self._free_slots
        if room == 1 or room >= self._ample_slots:
            self._slots_freed.set()
        # Messages that this settlement publishes or unblocks are claimed in the same transaction.
        self._wake.set()
        if self.groups.waiting:
            self._check_groups()
        return task

    def _settlement_of_error(self, claim: Claim, error: BaseException) -> Settlement:
        """The settlement of a claim whose handler has raised: no exception leaves it open.

        Raises:
            KeyboardInterrupt, GeneratorExit: the program ends, or its event loop has thrown the task away.
        """
        if isinstance(error, asyncio.CancelledError) and self._is_stopping:
            return settlement.released(claim)
        task = self._running[claim.id, claim.fence].task
        thrown_away = isinstance(error, GeneratorExit) and asyncio.current_task(self._loop) is not task
        # Handlers only let KeyboardInterrupt through.
        if thrown_away or isinstance(error, KeyboardInterrupt):
            # The claim is reclaimed when the lease has ended.
            self._stop_tracking(claim)
            self._tasks.discard(task)
            raise error
        # A cancellation that is not ours came from the user's code: a released message would be cancelled again for
        # ever.
        return self._settlement_of_failure(claim, error)

    def _settlement_of_failure(self, claim: Claim, error: BaseException) -> Settlement:
        """The settlement of a delivery that failed outside the handler: retried, but not for ever."""
        if (notify := self.observers.attempt_failed) is not None:
            notify(claim, failed_attempt(claim, error, "delivery"))
        if claim.failures + 1 >= LOSS_LIMIT:
            return settlement.dead(claim, printable_error(safe_repr(error)))
        return settlement.retry(claim, self._clock.now() + 1000, printable_error(safe_repr(error)))

    async def _settle_with_retries(
        self, ending: Settlement, claim: Claim, error: StoreError
    ) -> tuple[SettleResult | None, Settlement]:
        """Repeat a settlement until the store accepts it; return its answer and the settlement that was accepted.

        The answer is None if the worker has stopped before that: the claim ends with its lease.
        """
        refused = 0
        while True:
            try:
                if error.retryable:
                    return await self.outage.retry_until_written(partial(self._store.settle, ending), error), ending
                if not refused:
                    # The store will never accept this settlement; a dead letter names the reason instead.
                    if (notify := self.observers.attempt_failed) is not None:
                        notify(claim, failed_attempt(claim, error, "settlement"))
                    ending = settlement.dead(claim, printable_error(f"{type(error).__name__}: {error}"))
                await asyncio.sleep(BACKOFF_S[min(refused, len(BACKOFF_S) - 1)])
                refused += 1
                return await self._store.settle(ending), ending
            except StoreError as again:
                if again.retryable and self._stopping:
                    return None, ending
                error = again

    def _report_settled(self, answer: SettleResult, ending: Settlement, claim: Claim) -> None:
        if answer.stale:
            if (notify := self.observers.lost) is not None:
                notify(claim)
            return
        if (notify := self.observers.settled) is not None:
            notify(claim, ending)
        if answer.breaker is not None and (notify := self.observers.breaker_changed) is not None:
            notify(claim, answer.breaker)
        ended = answer.ended_batch
        if ended is not None and (notify := self.observers.batch_ended) is not None:
            notify(ended)
        if self.watchers.by_id:
            self.watchers.on_settled(claim, ending, ended)

    # Time limits and the end

    def _excluded_s(self, delivery: ActiveClaim, now: float) -> float:
        """Seconds of a delivery that its time limit excludes: outages of the store, and waiting for a thread."""
        return self.outage.overlap_s(delivery.started_at, now) + self._interrupts.thread_wait_s(delivery.claim, now)

    def cancel_overdue(self) -> None:
        """Cancel attempts that have exceeded their time limit."""
        now = self._loop.time()
        for delivery in self._running.values():
            timeout = self._courier.timeout_ms(delivery.claim.destination)
            if (
                timeout is not None
                and now >= delivery.started_at + timeout / 1000
                and now >= delivery.started_at + timeout / 1000 + self._excluded_s(delivery, now)
                and self._interrupts.reason(delivery.claim) is None
            ):
                self._interrupt(delivery, TIMEOUT_REASON)

    def _interrupt(self, delivery: ActiveClaim, why: str) -> None:
        # Before the cancellation: steps that the function begins while it unwinds are refused.
        self._interrupts.request(delivery.claim, why)
        delivery.task.cancel(why)

    def hung_claims(self, now: float) -> list[tuple[str, int]]:
        """Claims long past their time limit, which cancelling has not ended. Safe to call from another thread."""
        found: list[tuple[str, int]] = []
        for delivery in list(self._running.values()):
            timeout = self._courier.timeout_ms(delivery.claim.destination)
            if timeout is None or now <= delivery.started_at + timeout / 1000 + HUNG_GRACE_S:
                continue
            if now > delivery.started_at + timeout / 1000 + HUNG_GRACE_S + self._excluded_s(delivery, now):
                found.append((delivery.claim.id, delivery.claim.fence))
        # The next claim of the message needs a slot, as all others do.
        self._hung = frozenset(found)
        return found

    async def join(self) -> None:
        """Wait until all active claims are settled, but for those that wait in groups for claims to come."""
        while len(self._tasks) > self.groups.waiting:
            self._all_wait.clear()
            all_ended = asyncio.ensure_future(asyncio.wait(self._tasks))
            all_wait = asyncio.ensure_future(self._all_wait.wait())
            await asyncio.wait([all_ended, all_wait], return_when=asyncio.FIRST_COMPLETED)
            all_ended.cancel()
            all_wait.cancel()
            executing = {it.task for it in self._running.values()}
            if settling := self._tasks - executing:
                await asyncio.wait(settling)

    async def stop(self, grace_s: float) -> int:
        """Wait up to `grace_s` for the active claims, release the rest, and return how many were released."""
        self._check_groups()
        await self._wait_for_end(grace_s)
        self._stopping = True
        left = list(self._running.values())
        for delivery in left:
            self._interrupt(delivery, STOP_REASON)
        if ending := {*self._tasks, *self.groups.calls}:
            # A task that swallows its cancellation or blocks a thread is left behind; its claim is reclaimed later.
            await asyncio.wait(ending, timeout=CANCEL_WAIT_S)
        self.outage.stop_retrying()
        return len(left)

    def skip_grace(self) -> None:
        """End the grace of a stop at once."""
        self._skip_grace.set()

    async def _wait_for_end(self, grace_s: float) -> None:
        executing = [delivery.task for delivery in self._running.values()]
        if not executing:
            return
        timer = self._loop.call_later(grace_s, self._skip_grace.set)
        all_ended = self._loop.create_task(asyncio.wait(executing))
        grace_skipped = self._loop.create_task(self._skip_grace.wait())
        await asyncio.wait([all_ended, grace_skipped], return_when=asyncio.FIRST_COMPLETED)
        for waiting in (timer, all_ended, grace_skipped):
            waiting.cancel()
