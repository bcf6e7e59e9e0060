"""Driving an app to idle: all of it happens, in virtual time."""

from datetime import timedelta
from typing import Any

import pytest

from batchflow.app import Batchflow
from batchflow.batch.bound import Workflow
from batchflow.batch.workflow import NoParams
from batchflow.core.flow import FlowControl
from batchflow.core.store import Store
from batchflow.serve.context import WorkflowContext
from batchflow.stores.sqlite import SqliteStore
from batchflow.testing import FaultyStore, FixedEntropy, ManualClock, ProcessCrashed, StillWaiting, drive


async def test_an_app_without_work_is_at_rest(clock: ManualClock) -> None:
    """At once, and no time passes."""
    app = Batchflow("sqlite://", worker=False, clock=clock, entropy=FixedEntropy())
    driven = await drive(app, clock)
    assert driven == (0, {}, 0, {})
    await app.stop()


async def test_a_rate_takes_virtual_time_only(clock: ManualClock) -> None:
    """A hundred items at one a minute are done in the time they take to be counted."""
    app = Batchflow("sqlite://", worker=False, clock=clock, entropy=FixedEntropy())
    seen: list[str] = []

    async def greet(user_id: str) -> str:
        seen.append(user_id)
        return f"hello {user_id}"

    limited = app.batch(flow=FlowControl(rate=1, period="1m"))(greet)
    await app.start()
    batch = await limited.trigger(ids=[f"u{number}" for number in range(100)])
    driven = await drive(app, clock)
    assert sorted(seen) == sorted(f"u{number}" for number in range(100))
    assert 98 * 60_000 <= driven.elapsed_ms <= 100 * 60_000
    stored = await app.engine.store.batch(batch.id)
    assert stored is not None
    assert (stored.state, stored.counts.succeeded) == ("completed", 100)
    await app.stop()


async def test_a_durable_sleep_takes_virtual_time_only(clock: ManualClock) -> None:
    """A month is over in no time."""
    app = Batchflow("sqlite://", worker=False, clock=clock, entropy=FixedEntropy())
    woken: list[int] = []

    @app.serve("/patient")
    async def patient(ctx: WorkflowContext[str]) -> None:
        await ctx.sleep("a month", timedelta(days=30))
        woken.append(clock.now())

    await app.start()
    begun = clock.now()
    await patient.trigger("hello")
    driven = await drive(app, clock)
    assert woken == [begun + 30 * 86_400_000]
    assert driven.endings == {"suspended": 1, "done": 1}
    await app.stop()


async def test_what_time_does_not_start_is_told(clock: ManualClock) -> None:
    """A paused key is at rest with what waits under it."""
    app = Batchflow("sqlite://", worker=False, clock=clock, entropy=FixedEntropy())

    async def greet(user_id: str) -> None:
        pass

    held = app.batch(flow=FlowControl(key="held"))(greet)
    await app.start()
    await app.engine.store.pause("held")
    await held.trigger(ids=["u1", "u2"])
    assert (await drive(app, clock)).waiting == {"held": 2}
    await app.stop()


async def test_what_never_comes_to_rest_is_told(clock: ManualClock) -> None:
    """With what is still waiting, instead of a test that hangs."""
    app = Batchflow("sqlite://", worker=False, clock=clock, entropy=FixedEntropy())

    @app.serve("/restless")
    async def restless(ctx: WorkflowContext[str]) -> None:
        for number in range(1_000):
            await ctx.sleep(f"nap {number}", timedelta(seconds=1))

    await app.start()
    await restless.trigger("hello")
    with pytest.raises(StillWaiting, match=r"^not at rest after 10 rounds and \d+ ms: 1 waiting and 0 running under"):
        await drive(app, clock, rounds=10)
    await app.stop()


def greeting(store: Store, clock: ManualClock) -> tuple[Batchflow, Workflow[NoParams, str]]:
    app = Batchflow(store, worker=False, clock=clock, entropy=FixedEntropy())

    async def greet(user_id: str) -> str:
        return user_id

    return app, app.batch(greet)


@pytest.mark.parametrize("fault", ["die_before", "die_after"])
@pytest.mark.parametrize("verb", ["claim", "settle"])
async def test_a_dead_workers_claims_come_back(clock: ManualClock, fault: str, verb: str) -> None:
    """The next worker finds each item once, when the lease of the dead one has ended."""
    inner = SqliteStore(":memory:", clock=clock)
    options: dict[str, Any] = {fault: verb}
    app, greet = greeting(FaultyStore(inner, nth=3, **options), clock)
    await app.engine.open()
    batch = await greet.trigger(ids=["u1", "u2", "u3"])
    with pytest.raises(ProcessCrashed):
        await drive(app, clock)
    app, _ = greeting(inner, clock)
    await drive(app, clock)
    stored = await app.engine.store.batch(batch.id)
    assert stored is not None
    assert (stored.state, stored.counts.succeeded, stored.counts.eligible) == ("completed", 3, 3)
    await inner.close()
