"""Claim, deliver, settle: the loop that keeps a bounded number of claims under way."""

import asyncio
from functools import partial
from typing import Any, NamedTuple

from batchflow.core import settlement
from batchflow.core.interrupts import STOP, TIMEOUT
from batchflow.core.message import LOSS_LIMIT, Claim, Claimed
from batchflow.core.observe import Observers
from batchflow.core.settlement import Settled, Settlement
from batchflow.core.store import Store
from batchflow.engine.courier import Courier
from batchflow.engine.outage import BACKOFF_S, Outage
from batchflow.engine.storetime import StoresClock
from batchflow.engine.watchers import Watchers
from batchflow.errors import StoreError
from batchflow.logs import spelled

FARTHEST_S = 60.0
GATHER_S = 0.005
PAUSE_S = 0.02
LEFT_BEHIND_S = 2.0
LIGHT = 1_000
HUNG_GRACE_S = 30.0


class Delivery(NamedTuple):
    """A claim that is being carried out since `begun`, by the event loop's clock in seconds; `light` takes no place."""

    claim: Claim
    begun: float
    task: "asyncio.Task[None]"
    light: bool


class Dispatcher:
    """Keeps up to `concurrency` claims of one worker under way; `watchers` are woken by what it ends."""

    def __init__(
        self,
        store: Store,
        courier: Courier,
        *,
        worker: str,
        concurrency: int,
        clock: StoresClock,
        watchers: Watchers,
        observers: Observers,
        outage: Outage | None = None,
    ) -> None:
        self._store = store
        self._courier = courier
        self._interrupts = courier.interrupts
        self._worker = worker
        self._concurrency = concurrency
        self._clock = clock
        self.watchers = watchers
        # By fence too: what was lost may be claimed again while its stale claim is still carried out.
        self._running: dict[tuple[str, int], Delivery] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._places = asyncio.Event()
        self._hurry = asyncio.Event()
        self._given_up: frozenset[tuple[str, int]] = frozenset()
        self._light = 0
        self._ample = concurrency - concurrency * 3 // 4
        self.observers = observers
        """Are told what happens."""
        self.outage = outage or Outage(observers)
        self._stopping = False
        self._claiming: asyncio.Task[Any] | None = None
        self._loop = asyncio.get_running_loop()

    def wake(self) -> None:
        """There may be something to claim, or room for it."""
        self._wake.set()
        if self._given_up:
            self._places.set()

    @property
    def destinations(self) -> tuple[str, ...]:
        """What it claims for."""
        return self._courier.destinations

    @property
    def under_way(self) -> int:
        """How many claims are being carried out."""
        return len(self._running)

    # Claiming

    async def run(self) -> None:
        """Claim and start, until cancelled."""
        self._claiming = asyncio.current_task()
        while True:
            await self._make_room()
            self._wake.clear()
            limit = self._room
            claimed = await self._claim_patiently(limit)
            if len(claimed.claims) < limit:
                await self._rest(claimed.next_due)

    async def _make_room(self) -> None:
        """Wait for a place, and a moment longer for more of them, so that claims are made for many at once."""
        places = self._places
        while not self._room:
            places.clear()
            await places.wait()
        if self._room < self._ample:
            places.clear()
            await self._wait(places, GATHER_S)

    async def claim_once(self) -> Claimed:
        """Claim what there is room for, and start it."""
        return self._start(await self._store.claim(self._worker, self._courier.destinations, self._room))

    @property
    def _is_stopping(self) -> bool:
        # An event loop that ends cancels all tasks first, and this one among them.
        return self._stopping or (self._claiming is not None and self._claiming.cancelling() > 0)

    @property
    def _room(self) -> int:
        # Calls that wait for their answer take no place, up to a number.
        taken = len(self._running)
        if self._given_up:
            taken -= sum(key in self._running for key in self._given_up)
        return self._concurrency - taken + min(self._light, LIGHT)

    async def _claim_patiently(self, limit: int) -> Claimed:
        """Claim; of a store that has failed one at a time, and nothing before it is known to take what is written."""
        outage = self.outage
        while True:
            if outage.is_on:
                await outage.pause()
                if outage.holds_claims:
                    continue
                limit = 1 if outage.is_on else limit
            try:
                claimed = await self._store.claim(self._worker, self._courier.destinations, limit)
            except StoreError as error:
                outage.failed(error)
                continue
            if claimed.claims or not outage.is_waited_for:
                outage.works()
            return self._start(claimed)

    def _start(self, claimed: Claimed) -> Claimed:
        if claimed.now:
            self._clock.follow(claimed.now)
        begun = self._loop.time()
        tell = self.observers.claimed
        for claim in claimed.claims:
            if tell is not None:
                tell(claim)
            task = self._loop.create_task(self._deliver(claim))
            self._tasks.add(task)
            light = self._courier.is_light(claim.destination)
            self._running[claim.id, claim.fence] = Delivery(claim, begun, task, light)
            self._light += light
        return claimed

    async def _rest(self, next_due: int | None) -> None:
        """Until something wakes us, or until a message is due by time alone."""
        delay = FARTHEST_S if next_due is None else (next_due - self._clock.now()) / 1000
        if delay <= 0:
            # Due and yet not to be had, such as what is left of a cancelled batch: no reason to ask all the time.
            delay = PAUSE_S
        await self._wait(self._wake, min(delay, FARTHEST_S))

    async def _wait(self, event: asyncio.Event, seconds: float) -> None:
        timer = self._loop.call_later(seconds, event.set)
        try:
            await event.wait()
        finally:
            timer.cancel()

    # Delivering and settling

    async def _deliver(self, claim: Claim) -> None:
        """One claim from its start to its settlement, in the one task that is made for it."""
        begun = self._loop.time()
        try:
            ending = await self._courier.deliver(claim) or settlement.released(claim)
        except BaseException as error:
            ending = self._unanswered(claim, error)
        task = self._leave(claim)
        if claim.number >= 0:
            ending = settlement.timed(ending, (self._loop.time() - begun) * 1000)
        try:
            answer = await self._store.settle(ending)
        except StoreError as error:
            answer, ending = await self._settle_patiently(ending, claim, error)
        finally:
            self._tasks.discard(task)
        if answer is not None:
            self._settled(answer, ending, claim)

    def _leave(self, claim: Claim) -> "asyncio.Task[None]":
        """The claim is carried out, in whatever way; the task that has done it."""
        # The place is free before the settlement is durable, so that the next claim goes along with it.
        _, _, task, light = self._running.pop((claim.id, claim.fence))
        self._interrupts.ended(claim)
        self._light -= light
        room = self._room
        if room == 1 or room >= self._ample:
            self._places.set()
        # What this settlement publishes or makes room for is claimed in the transaction that settles.
        self._wake.set()
        return task

    def _unanswered(self, claim: Claim, error: BaseException) -> Settlement:
        """How a claim ends whose endpoint has raised: no exception leaves it open.

        Raises:
            KeyboardInterrupt, GeneratorExit: the program ends, or its event loop has thrown the task away.
        """
        if isinstance(error, asyncio.CancelledError) and self._is_stopping:
            return settlement.released(claim)
        task = self._running[claim.id, claim.fence].task
        thrown_away = isinstance(error, GeneratorExit) and asyncio.current_task(self._loop) is not task
        # Endpoints let out the interrupt of Ctrl-C alone.
        if thrown_away or isinstance(error, KeyboardInterrupt):
            # The claim comes back when the lease has ended.
            self._leave(claim)
            self._tasks.discard(task)
            raise error
        # A cancellation that is not ours came out of the user's code: given back, it would come again for ever.
        return self._mishap(claim, error)

    def _mishap(self, claim: Claim, error: BaseException) -> Settlement:
        """What the endpoint did not answer for: tried again, but not for ever."""
        if (tell := self.observers.attempt_failed) is not None:
            tell(claim, error, "delivery", None)
        if claim.failures + 1 >= LOSS_LIMIT:
            return settlement.dead(claim, spelled(error))
        return settlement.retry(claim, self._clock.now() + 1000, spelled(error))

    async def _settle_patiently(
        self, ending: Settlement, claim: Claim, error: StoreError
    ) -> tuple[Settled | None, Settlement]:
        """Settle until the store can, since nothing is known of a settlement that failed; and what was settled.

        None in place of an answer: the worker has stopped before the store could; the claim ends with its lease.
        """
        refused = 0
        while True:
            try:
                if error.retryable:
                    return await self.outage.insist(partial(self._store.settle, ending), error), ending
                if not refused:
                    # It will never take this one, whatever is in it; what it is told instead names the reason.
                    if (tell := self.observers.attempt_failed) is not None:
                        tell(claim, error, "settlement", None)
                    ending = settlement.dead(claim, f"{type(error).__name__}: {error}")
                await asyncio.sleep(BACKOFF_S[min(refused, len(BACKOFF_S) - 1)])
                refused += 1
                return await self._store.settle(ending), ending
            except StoreError as again:
                if again.retryable and self._stopping:
                    return None, ending
                error = again

    def _settled(self, answer: Settled, ending: Settlement, claim: Claim) -> None:
        if answer.stale:
            if (tell := self.observers.lost) is not None:
                tell(claim)
            return
        if (tell := self.observers.settled) is not None:
            tell(claim, ending)
        ended = answer.ended_batch
        if ended is not None and (tell := self.observers.batch_ended) is not None:
            tell(ended)
        if self.watchers.by_id:
            self.watchers.settled(claim, ending, ended)

    # Time limits and the end

    def _not_its_own(self, delivery: Delivery, now: float) -> float:
        """Seconds of a delivery that its time limit leaves out: the store was away, or threads were waited for."""
        return self.outage.overlap(delivery.begun, now) + self._interrupts.waited_s(delivery.claim, now)

    def sweep(self) -> None:
        """Cancel attempts that have taken too long, the time in which the store was away left out."""
        now = self._loop.time()
        for delivery in self._running.values():
            timeout = self._courier.timeout_ms(delivery.claim.destination)
            if (
                timeout is not None
                and now >= delivery.begun + timeout / 1000
                and now >= delivery.begun + timeout / 1000 + self._not_its_own(delivery, now)
                and self._interrupts.why(delivery.claim) is None
            ):
                self._interrupt(delivery, TIMEOUT)

    def _interrupt(self, delivery: Delivery, why: str) -> None:
        # Said first: what the function does as it unwinds is no step of the run any more.
        self._interrupts.request(delivery.claim, why)
        delivery.task.cancel(why)

    def hung(self, now: float) -> list[tuple[str, int]]:
        """Claims long past their time limit, which cancelling has not ended. Safe to call from another thread."""
        found: list[tuple[str, int]] = []
        for delivery in list(self._running.values()):
            timeout = self._courier.timeout_ms(delivery.claim.destination)
            if timeout is None or now <= delivery.begun + timeout / 1000 + HUNG_GRACE_S:
                continue
            if now > delivery.begun + timeout / 1000 + HUNG_GRACE_S + self._not_its_own(delivery, now):
                found.append((delivery.claim.id, delivery.claim.fence))
        # Whoever gets the claim next needs a place, and so does everybody else.
        self._given_up = frozenset(found)
        return found

    async def join(self) -> None:
        """Wait until nothing is under way and all is settled."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def stop(self, grace_s: float) -> int:
        """Let what is under way end within `grace_s`, then give the rest back; how many were given back."""
        await self._wait_for_end(grace_s)
        self._stopping = True
        left = list(self._running.values())
        for delivery in left:
            self._interrupt(delivery, STOP)
        if self._tasks:
            # What swallows its cancellation or holds on to a thread is left behind; its claim is taken back later.
            await asyncio.wait(self._tasks, timeout=LEFT_BEHIND_S)
        self.outage.give_up()
        return len(left)

    def hurry(self) -> None:
        """End the grace of a stop that is under way."""
        self._hurry.set()

    async def _wait_for_end(self, grace_s: float) -> None:
        executing = [delivery.task for delivery in self._running.values()]
        if not executing:
            return
        timer = self._loop.call_later(grace_s, self._hurry.set)
        all_ended = self._loop.create_task(asyncio.wait(executing))
        hurried = self._loop.create_task(self._hurry.wait())
        await asyncio.wait([all_ended, hurried], return_when=asyncio.FIRST_COMPLETED)
        for waiting in (timer, all_ended, hurried):
            waiting.cancel()
