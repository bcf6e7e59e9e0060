"""A worker that was suspended past its lease: it is known again, and is given the same messages again."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest
from structlog.testing import capture_logs

from batchflow import Batchflow, NoParams, WorkflowContext
from batchflow.core import settlement
from batchflow.core.message import Claim
from batchflow.core.settlement import Settlement
from batchflow.engine.dispatch import Dispatcher
from batchflow.engine.heartbeat import Heartbeat
from batchflow.stores.sqlite import SqliteStore
from batchflow.testing.clock import ManualClock
from batchflow.testing.conformance.scene import message
from tests.engine.couriers import LEASE_MS, FakeCourier, dispatcher, memory_store, running
from tests.waiting import wait_until

BEAT_MS = 300  # a beat each 100 ms of real time


class GatedCourier(FakeCourier):
    """Each delivery ends when its fence is let through."""

    def __init__(self) -> None:
        super().__init__()
        self.gates: dict[int, asyncio.Event] = {1: asyncio.Event(), 2: asyncio.Event()}

    async def deliver(self, claim: Claim) -> Settlement | None:
        self.begun.append(claim)
        await self.gates[claim.fence].wait()
        return settlement.done(claim, f'"{claim.fence}"')


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(clock: ManualClock) -> AsyncIterator[SqliteStore]:
    opened = await memory_store(clock)
    yield opened
    await opened.close()


def ended_of(dispatching: Dispatcher) -> int:
    return dispatching.tally.settled + dispatching.tally.stale


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
async def test_a_message_claimed_again_beside_its_stale_claim_is_settled(
    store: SqliteStore, clock: ManualClock, order: tuple[int, int]
) -> None:
    """Whichever of the two ends first: a worker that was suspended past its lease takes what it had once more."""
    courier = GatedCourier()
    dispatching = dispatcher(store, courier, clock)
    await store.publish([message("a", keep=True)])
    with capture_logs() as logs:
        async with running(dispatching, store):
            try:
                await wait_until(lambda: len(courier.begun) == 1, description="it is claimed")
                clock.advance(f"{LEASE_MS}ms")
                assert await store.expire() == 1
                await store.enlist("w1", LEASE_MS)
                dispatching.wake()
                await wait_until(lambda: len(courier.begun) == 2, description="it is claimed again")
                assert dispatching.under_way == 2
                for ended, fence in enumerate(order, 1):
                    courier.gates[fence].set()
                    await wait_until(lambda ended=ended: ended_of(dispatching) == ended, description="one has ended")
            finally:
                for gate in courier.gates.values():
                    gate.set()
                await dispatching.join()
    run = await store.run("a")
    assert run is not None
    assert (run.state, run.result) == ("completed", '"2"')
    assert (dispatching.tally.settled, dispatching.tally.stale, dispatching.under_way) == (1, 1, 0)
    assert [line["event"] for line in logs] == ["[batchflow] Claim was lost before it could be settled"]


async def test_a_worker_that_is_known_again_looks_at_once(
    store: SqliteStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was published while it was unknown does not wait for the next change."""
    monkeypatch.setattr("batchflow.engine.engine.Heartbeat", partial(Heartbeat, lease_ms=BEAT_MS))
    # Which would make it look as well, now and then.
    monkeypatch.setattr("batchflow.engine.housekeeping.EXPIRE_EVERY", 1_000)
    flow = Batchflow(store, clock=clock)
    executed = asyncio.Event()

    @flow.serve("/say")
    async def say(ctx: WorkflowContext[NoParams]) -> None:
        executed.set()

    async with flow:
        (worker,) = [it for it in await store.workers() if it.name != "w1"]
        with capture_logs() as logs:
            await store.dismiss(worker.name)
            await say.trigger(NoParams())
            async with asyncio.timeout(30):
                await executed.wait()
    assert [line["event"] for line in logs if line["log_level"] == "warning"] == [
        "[batchflow] This worker's lease had ended (was the process suspended?); enlisting again"
    ]
