"""A worker that was suspended past its lease: it is known again, and is given the same messages again."""

import asyncio
from functools import partial

import pytest
from structlog.testing import capture_logs

from batchflow import Batchflow, NoParams, WorkflowContext
from batchflow.core import settlement
from batchflow.core.call import CALL_DESTINATION
from batchflow.core.flow import FlowControl
from batchflow.core.message import Claim
from batchflow.core.ports import Runtime
from batchflow.core.settlement import Settlement
from batchflow.engine.delivery import Courier
from batchflow.engine.threads import ThreadPool
from batchflow.engine.worker import Heartbeat, WorkerLease
from batchflow.serve.endpoint import Endpoint
from batchflow.stores.sqlite import SqliteStore
from batchflow.testing import FixedEntropy
from batchflow.testing.clock import ManualClock
from tests.conformance.scene import message
from tests.engine.handlers import LEASE_MS, FakeHandler, TalliedDispatcher, dispatcher, running
from tests.waiting import wait_until

BEAT_MS = 300  # a beat each 100 ms of real time


class GatedHandler(FakeHandler):
    """Each delivery ends when its fence is let through."""

    def __init__(self) -> None:
        super().__init__()
        self.gates: dict[int, asyncio.Event] = {1: asyncio.Event(), 2: asyncio.Event()}

    async def deliver(self, claim: Claim, runtime: Runtime) -> Settlement | None:
        self.begun.append(claim)
        await self.gates[claim.fence].wait()
        return settlement.done(claim, f'"{claim.fence}"')


def ended_of(dispatching: TalliedDispatcher) -> int:
    return dispatching.tally.settlements + dispatching.tally.stale


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
async def test_a_message_claimed_again_beside_its_stale_claim_is_settled(
    store: SqliteStore, clock: ManualClock, order: tuple[int, int]
) -> None:
    """Whichever of the two ends first: a worker that was suspended past its lease takes what it had once more."""
    handler = GatedHandler()
    dispatching = dispatcher(store, handler, clock)
    await store.publish([message("a", keep=True)])
    with capture_logs() as logs:
        async with running(dispatching, store):
            try:
                await wait_until(lambda: len(handler.begun) == 1, description="it is claimed")
                clock.advance(f"{LEASE_MS}ms")
                assert await store.expire() == 1
                await store.register("w1", LEASE_MS)
                dispatching.wake()
                await wait_until(lambda: len(handler.begun) == 2, description="it is claimed again")
                assert dispatching.active_count == 2
                for ended, fence in enumerate(order, 1):
                    handler.gates[fence].set()
                    await wait_until(lambda ended=ended: ended_of(dispatching) == ended, description="one has ended")
            finally:
                for gate in handler.gates.values():
                    gate.set()
                await dispatching.join()
    run = await store.run("a")
    assert run is not None
    assert (run.state, run.result) == ("completed", '"2"')
    assert (dispatching.tally.settlements, dispatching.tally.stale, dispatching.active_count) == (1, 1, 0)
    assert [line["event"] for line in logs] == ["[batchflow] Claim was lost before it could be settled"]


async def test_a_worker_that_is_known_again_looks_at_once(
    store: SqliteStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages published while it was unknown do not wait for the next change."""
    monkeypatch.setattr("batchflow.engine.worker.Heartbeat", partial(Heartbeat, lease_ms=BEAT_MS))
    # Which would make it look as well, now and then.
    monkeypatch.setattr("batchflow.engine.worker.EXPIRE_EVERY", 1_000)
    flow = Batchflow(store, clock=clock)
    executed = asyncio.Event()

    @flow.serve("/say")
    async def say(ctx: WorkflowContext[NoParams]) -> None:
        executed.set()

    async with flow:
        (worker,) = [it for it in await store.workers() if it.name != "w1"]
        with capture_logs() as logs:
            await store.deregister(worker.name)
            await say.trigger(NoParams())
            async with asyncio.timeout(30):
                await executed.wait()
    assert [line["event"] for line in logs if line["log_level"] == "warning"] == [
        "[batchflow] This worker's lease had ended (was the process suspended?); registering again"
    ]


async def test_a_lease_is_doubtful_once_it_is_older_than_it_lasts() -> None:
    """By a clock that a suspended process does not stop; then the store is asked, until it has answered."""
    now = 100.0
    lease = WorkerLease(LEASE_MS, elapsed=lambda: now)
    asked: list[float] = []
    lease.request_renewal = lambda: asked.append(now)
    assert not lease.may_have_expired(0)
    now += LEASE_MS / 1000
    assert not lease.may_have_expired(0)
    now += 0.001
    assert lease.may_have_expired(0)
    several = asyncio.gather(*(lease.holds(0) for _ in range(3)))
    await asyncio.sleep(0)
    assert len(asked) == 3
    # A request that began before is no answer, as when the process was suspended while it was under way.
    lease.mark_renewed(now - 60)
    lease.set_answer(True)
    await asyncio.sleep(0)
    assert not several.done()
    lease.mark_renewed(now)
    lease.set_answer(True)
    assert await several == [True] * 3
    assert not lease.may_have_expired(0)


@pytest.mark.parametrize("answers", [True, False])
async def test_what_was_claimed_before_a_loss_may_be_anothers(answers: bool) -> None:
    """Also after the worker is known again; and where the store does not answer, nothing is known."""
    now = 100.0
    lease = WorkerLease(LEASE_MS, elapsed=lambda: now)
    now += 31
    asking = asyncio.ensure_future(lease.holds(0))
    await asyncio.sleep(0)
    if answers:
        lease.mark_lost()
        lease.mark_renewed(now)
    lease.set_answer(False)
    assert not await asking
    assert lease.may_have_expired(0)
    if answers:
        assert not await lease.holds(0)
        assert await lease.holds(lease.losses)


@pytest.mark.parametrize("taken", [True, False])
async def test_a_worker_whose_lease_is_over_starts_nothing_before_it_has_asked(
    store: SqliteStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    """Claims that others may have are left to them; all other claims continue."""
    monkeypatch.setattr("batchflow.engine.engine.WorkerLease", partial(WorkerLease, elapsed=lambda: clock.now() / 1000))
    monkeypatch.setattr("batchflow.engine.worker.EXPIRE_EVERY", 1_000)
    flow = Batchflow(store, clock=clock)
    suspended = [True]
    executed: list[str] = []

    @flow.serve("/work")
    async def work(ctx: WorkflowContext[NoParams]) -> int:
        await ctx.run("first", step, "first")
        if suspended.pop(0):
            suspended.append(False)
            clock.advance("31s")
            if taken:
                await store.expire()  # batchflow: ok
        executed.append(f"attempt {ctx.attempt}")
        await ctx.run("second", step, "second")
        return len(executed)

    async def step(name: str) -> None:
        executed.append(name)

    async with flow:
        run = await work.trigger(NoParams())
        with capture_logs() as logs:
            await run.wait(30)
    attempts = [it for it in executed if it.startswith("attempt")]
    assert [it for it in executed if it not in attempts] == ["first", "second"]
    assert len(attempts) == (2 if taken else 1)
    assert any("lease had ended" in line["event"] for line in logs) is taken


class OverLease:
    """A lease that is over, and of which the store says whether it holds."""

    losses = 0

    def __init__(self, *, holds: bool) -> None:
        self._holds = holds

    def may_have_expired(self, losses: int) -> bool:
        return True

    async def holds(self, losses: int) -> bool:
        return self._holds


@pytest.mark.parametrize("holds", [True, False])
async def test_a_claim_is_not_delivered_while_the_lease_is_in_doubt(
    store: SqliteStore, clock: ManualClock, holds: bool
) -> None:
    """It is given back, as far as it is still ours."""
    served = Endpoint(
        route="work", name="work", function=_answer, payload=lambda claim: None, flow=FlowControl(key="work")
    )
    runtime = Runtime(
        journaling=store,
        clock=clock,
        entropy=FixedEntropy(),
        threads=ThreadPool(1, lambda given_up: None),
        lease=OverLease(holds=holds),
    )
    courier = Courier({"work": served}, {CALL_DESTINATION: served}, runtime)
    await store.publish([message("a", keep=True)])
    (claim,) = (await store.claim("w1", ["work"], 1)).claims
    ending = await courier.deliver(claim)
    assert (ending is not None and ending.ending == "done") is holds


async def _answer(ctx: WorkflowContext[None]) -> str:
    return "1"
