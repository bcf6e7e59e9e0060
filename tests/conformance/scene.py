"""What the cases are written with: a store, a clock, a worker, and short ways to publish, claim and settle."""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pytest

from batchflow.core import ids, settlement
from batchflow.core.batch import Batch, Counts, NewBatch
from batchflow.core.dead_letters import DeadLetter
from batchflow.core.flow import FlowControl, FlowStatus
from batchflow.core.message import LOSS_WAITS_MS, Claim, ClaimResult, Message
from batchflow.core.ports import Clock
from batchflow.core.run import NEVER, Run, Step, StepKind
from batchflow.core.settlement import (
    Effect,
    FinishEntry,
    Listen,
    OpenBatch,
    Publish,
    RecordPage,
    SettleResult,
    StartItems,
)
from batchflow.core.store import Renew, Store
from batchflow.testing.clock import ManualClock

T = TypeVar("T")

LEASE_MS = 30_000
FREE = FlowControl(key="free")
DESTINATIONS = ("work", "other", "entry", "execute", "complete")


def message(id: str, **changes: Any) -> Message:
    """A message to `work` under a key without limits, unless said otherwise."""
    return replace(Message(id=id, destination="work", flow=FREE, body=f'"{id}"'), **changes)


def new_batch(id: str = "bat_a", **changes: Any) -> NewBatch:
    """A batch of the workflow `welcome` whose items are executed without limits."""
    made = NewBatch(
        id=id,
        workflow="welcome",
        execute="execute",
        flow=FREE,
        complete="complete",
        complete_flow=FREE,
        params='{"p":1}',
    )
    return replace(made, **changes)


def ran(number: int, name: str, **changes: Any) -> Step:
    """A step that was executed, recorded at the place of its number."""
    return Step(number, name, "run", "done", position=number, value=f'"{name}"')._replace(**changes)


def sleeping(number: int, name: str, due: int) -> Step:
    """A timer that goes on at `due`."""
    return Step(number, name, "sleep", "pending", due=due)


def waiting(number: int = 1, name: str = "wait", kind: StepKind = "wait", *, due: int = 0) -> Step:
    """A step that waits for something from outside, an event for one; `due` is when it times out."""
    return Step(number, name, kind, "pending", due=due)


def names(claims: Iterable[Claim]) -> list[str]:
    """The ids of claims, as they were leased."""
    return [claim.id for claim in claims]


@dataclass(slots=True)
class Scene:
    """A store that is open, with a worker registered."""

    store: Store
    clock: ManualClock
    worker: str = "w1"

    @property
    def now(self) -> int:
        """The time."""
        return self.clock.now()

    # Messages

    async def publish(self, *ids: str, **changes: Any) -> list[bool]:
        """Publish messages with these ids."""
        return list(await self.store.publish([message(id, **changes) for id in ids]))

    async def claim(
        self, limit: int = 100, *, worker: str | None = None, destinations: Sequence[str] = DESTINATIONS
    ) -> list[Claim]:
        """Claim for the scene's worker."""
        return list((await self.claimed(limit, worker=worker, destinations=destinations)).claims)

    async def claimed(
        self, limit: int = 100, *, worker: str | None = None, destinations: Sequence[str] = DESTINATIONS
    ) -> ClaimResult:
        """The whole answer of a claim."""
        return await self.store.claim(worker or self.worker, destinations, limit)

    async def next_due(self) -> int | None:
        """When there may be something to claim; now there is nothing."""
        claims, next_due, _ = await self.claimed()
        assert not claims, names(claims)
        return next_due

    async def claim_one(self, id: str | None = None, *, worker: str | None = None) -> Claim:
        """The one claim there is, of this id."""
        claims = await self.claim(worker=worker)
        assert len(claims) == 1, names(claims)
        assert id is None or claims[0].id == id
        return claims[0]

    async def leased(self, id: str, **changes: Any) -> Claim:
        """A message, published and claimed."""
        assert await self.publish(id, **changes) == [True]
        return await self.claim_one(id)

    async def done(self, claim: Claim, *effects: Effect, result: str = '"ok"') -> SettleResult:
        """Settle a claim as done."""
        return await self.store.settle(settlement.done(claim, result, effects))

    async def dead(self, claim: Claim, error: str = "Boom: no") -> SettleResult:
        """Settle a claim as dead."""
        return await self.store.settle(settlement.dead(claim, error))

    async def suspend(self, claim: Claim, *steps: Step, until: int = NEVER, effects: tuple[Effect, ...] = ()) -> None:
        """Suspend the run of a claim."""
        assert not (await self.store.settle(settlement.suspended(claim, until, steps, effects))).stale

    async def record(self, claim: Claim, step: Step, *effects: Effect) -> None:
        """Record a step with effects, while the claim is held."""
        assert await self.store.record(claim.id, claim.fence, step, effects) == "recorded"

    async def listen(self, claim: Claim, event: str = "paid", *, number: int = 1, until: int = 0) -> None:
        """A step of a claim begins to wait for an event."""
        await self.record(claim, waiting(number, due=until), Listen(number, event, until))

    async def waits(self, id: str, event: str = "paid", *, until: int = 0, **changes: Any) -> None:
        """A run that is suspended and waits for an event with its first step."""
        claim = await self.leased(id, **changes)
        await self.listen(claim, event, until=until)
        await self.suspend(claim, until=until or NEVER)

    async def invoke(self, claim: Claim, child: str, *, number: int = 1, **changes: Any) -> None:
        """A step of a claim starts a child and waits for its end."""
        changes = {"parent": (claim.id, number), "depth": claim.depth + 1, **changes}
        await self.record(claim, waiting(number, child, "invoke"), Publish((message(child, **changes),)))

    async def invoke_batch(self, claim: Claim, batch: str = "bat_a", *, number: int = 1, **changes: Any) -> None:
        """A step of a claim opens a batch and waits for its end."""
        opened = new_batch(batch, parent=(claim.id, number), depth=claim.depth + 1, **changes)
        first = message(ids.entry_id(batch), destination="entry", batch=batch)
        await self.record(claim, waiting(number, batch, "invoke"), OpenBatch(opened, (first,)))

    async def parent(self, *children: str, id: str = "p", **changes: Any) -> None:
        """A run that is suspended until these children of it have ended, which are yet to be claimed."""
        claim = await self.leased(id)
        for number, child in enumerate(children, 1):
            await self.invoke(claim, child, number=number, **changes)
        await self.suspend(claim)

    async def run(self, id: str) -> Run:
        """A run that is known."""
        found = await self.store.run(id)
        assert found is not None, id
        return found

    async def letter(self, id: str) -> DeadLetter:
        """A dead letter that is known."""
        found = await self.store.dead_letter(id)
        assert found is not None, id
        return found

    async def came(self, id: str) -> list[tuple[int, str, int, str | None]]:
        """The claim of the one run there is, by its steps: number, state, position, value."""
        return [(step.number, step.state, step.position, step.value) for step in (await self.claim_one(id)).journal]

    async def lose(self) -> int:
        """Let the lease of the scene's worker end and take its claims back; it is registered again.

        What was lost is due.
        """
        self.clock.advance(f"{LEASE_MS}ms")
        count = await self.store.expire()
        await self.store.register(self.worker, LEASE_MS)
        self.clock.advance(f"{LOSS_WAITS_MS[-1]}ms")
        return count

    async def flow(self, key: str = "free") -> FlowStatus:
        """A flow key as it stands."""
        (status,) = await self.store.flows([key])
        return status

    # Batches

    async def enter(self, id: str = "bat_a", **changes: Any) -> Claim:
        """A batch is opened; its one layer message, claimed."""
        first = message(ids.entry_id(id), destination="entry", batch=id)
        assert await self.store.open_batch(new_batch(id, **changes), [first])
        (claim,) = await self.claim(1, destinations=("entry",))
        return claim

    async def start(self, items: Sequence[str], id: str = "bat_a", **changes: Any) -> SettleResult:
        """A batch whose walk is over and whose items are these."""
        entry = await self.enter(id, **changes)
        page = RecordPage(id, eligible=len(items), chunks=1)
        return await self.done(entry, FinishEntry(id), page, StartItems(id, 0, tuple(items)))

    async def items(self, count: int = 100) -> list[Claim]:
        """Claims of items that are due."""
        return await self.claim(count, destinations=("execute",))

    async def batch(self, id: str = "bat_a") -> Batch:
        """A batch as it stands."""
        found = await self.store.batch(id)
        assert found is not None
        return found

    async def counts(self, id: str = "bat_a") -> Counts:
        """Where the items of a batch stand."""
        return (await self.batch(id)).counts

    async def states(self, id: str = "bat_a") -> list[tuple[str, str]]:
        """Id and state of each item of a batch."""
        return [(item.id, item.state) for item in await self.store.items(id)]

    async def completions(self, id: str = "bat_a") -> list[Claim]:
        """Claims of a batch's completion message."""
        return [claim for claim in await self.claim(destinations=("complete",)) if claim.batch == id]


class Cases:
    """What all cases have: how a store is made, and a scene with one that is open."""

    def make_store(self, clock: Clock) -> Store:
        """A store on the test's own place; called twice, two of them."""
        raise NotImplementedError("say in `make_store` how a store is made")

    @pytest.fixture
    def clock(self) -> ManualClock:
        """The clock of the test's stores."""
        return ManualClock()

    @pytest.fixture
    async def scene(self, clock: ManualClock) -> AsyncIterator[Scene]:
        """An open store with the worker `w1` registered."""
        store = self.make_store(clock)
        await store.open()
        await store.register("w1", LEASE_MS)
        yield Scene(store, clock)
        await store.close()


class TwoProcesses(Cases):
    """Cases in which two stores are open on one place, as two processes have them."""

    @pytest.fixture
    async def second(self, scene: Scene, clock: ManualClock) -> AsyncIterator[Scene]:
        """A second process on the place of `scene`, with the worker `w2`."""
        store = self.make_store(clock)
        await store.open()
        await store.register("w2", LEASE_MS)
        yield Scene(store, clock, worker="w2")
        await store.close()


@asynccontextmanager
async def renewals(store: Store) -> AsyncGenerator[Renew]:
    """What renews leases as the heartbeat does: on an event loop of another thread."""
    own = asyncio.new_event_loop()
    thread = threading.Thread(target=own.run_forever, name="renewals")
    thread.start()

    async def there(what: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(what, own))

    try:
        async with AsyncExitStack() as stack:
            renew = await there(stack.enter_async_context(store.renewing()))

            async def renewed_there(
                worker: str, lease_ms: int, hung: Sequence[tuple[str, int]] = (), hanging: int = 0
            ) -> bool:
                return await there(renew(worker, lease_ms, hung, hanging))

            try:
                yield renewed_there
            finally:
                await there(stack.aclose())
    finally:
        own.call_soon_threadsafe(own.stop)
        thread.join()
        own.close()


async def renewed(
    store: Store, worker: str = "w1", lease_ms: int = LEASE_MS, hung: Sequence[tuple[str, int]] = (), hanging: int = 0
) -> bool:
    """Renew a lease once; whether it still held."""
    async with renewals(store) as renew:
        return await renew(worker, lease_ms, hung, hanging)
