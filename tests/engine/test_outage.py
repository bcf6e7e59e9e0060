"""A store that fails under a worker: what was executed waits to be written, nothing new is executed, and it is told."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from batchflow import Batchflow, WorkflowContext
from batchflow.core.ports import Observers
from batchflow.engine.outage import WRITES_FIRST_S, Outage, wait_for_store
from batchflow.errors import StoreError, StoreIncompatible, StoreUnavailable
from batchflow.stores.sqlite import SqliteStore
from batchflow.testing.clock import ManualClock
from batchflow.testing.faults import FaultyStore
from tests.engine.handlers import FakeHandler, dispatcher, running
from tests.waiting import DEADLINE_S, wait_until

_GRACE = timedelta(milliseconds=200)
FAILS, WORKS = "[batchflow:error] The store fails; waiting for it", "[batchflow] The store works again"


class Counted:
    """A durable function of two steps, and how often each step and the function have begun."""

    def __init__(self, flow: Batchflow) -> None:
        self.steps: list[str] = []
        self.served = flow.serve("/counted")(self.run)

    async def run(self, ctx: WorkflowContext[int]) -> int:
        first = await ctx.run("first", self.step, f"first-{ctx.payload}")
        await ctx.run("second", self.step, f"second-{ctx.payload}")
        return len(first)

    async def step(self, name: str) -> str:
        self.steps.append(name)
        return name


@asynccontextmanager
async def at_work(faulty: Any) -> AsyncGenerator[Counted]:
    flow = Batchflow(faulty)
    counted = Counted(flow)
    async with flow:
        yield counted


# What was executed


@pytest.mark.parametrize("verb", ["record", "settle", "claim"])
async def test_a_step_is_executed_once_however_long_the_store_fails(verb: str) -> None:
    """Its result waits to be recorded, and the run to be settled; no attempt is counted."""
    faulty = FaultyStore(SqliteStore(":memory:", clock=ManualClock()), fail=verb, times=6)
    async with at_work(faulty) as counted:
        runs = [await counted.served.trigger(number) for number in range(5)]
        assert [await run.wait(timeout=30) for run in runs] == [7] * 5
        assert sorted(counted.steps) == sorted(f"{step}-{n}" for step in ("first", "second") for n in range(5))
        assert [(await run.status()).failures for run in runs] == [0] * 5


async def test_nothing_new_is_executed_before_a_write_has_worked() -> None:
    """While a result waits to be recorded nothing is claimed at all."""
    faulty = FaultyStore(SqliteStore(":memory:", clock=ManualClock()), fail="record", times=1_000)
    async with at_work(faulty) as counted:
        first = await counted.served.trigger(0)
        await wait_until(lambda: faulty.calls["record"] >= 3, description="the step could not be recorded")
        claims = faulty.calls["claim"]
        others = [await counted.served.trigger(number) for number in range(1, 4)]
        tries = faulty.calls["record"]
        await wait_until(lambda: faulty.calls["record"] >= tries + 2, description="it was tried again")
        assert counted.steps == ["first-0"]
        assert faulty.calls["claim"] <= claims + 1
        faulty.repair()
        assert [await run.wait(timeout=30) for run in (first, *others)] == [7] * 4


async def test_a_store_that_refuses_claims_is_asked_for_one_at_a_time(store: SqliteStore, clock: ManualClock) -> None:
    """Once the store works again, a claim fills all free slots."""
    asked: list[int] = []

    class Asked(FaultyStore):
        async def claim(self, worker: str, destinations: Any, limit: int) -> Any:
            asked.append(limit)
            return await self._call_verb("claim", lambda: store.claim(worker, destinations, limit))

    dispatching = dispatcher(Asked(store, fail="claim", times=3), FakeHandler(held=True), clock, concurrency=5)
    async with running(dispatching, store):
        await wait_until(lambda: len(asked) == 5, description="it works again")
    assert asked == [5, 1, 1, 1, 5] or asked == [5, 1, 1, 1, 4]


async def test_an_outage_is_told_by_one_line_each_way() -> None:
    """With the reason, however many tries it took."""
    faulty = FaultyStore(SqliteStore(":memory:", clock=ManualClock()), fail="record", times=4)
    async with at_work(faulty) as counted:
        with capture_logs() as logs:
            run = await counted.served.trigger(1)
            await run.wait(timeout=30)
    told = [(line["log_level"], line["event"]) for line in logs if line["log_level"] != "debug"]
    assert told == [("error", FAILS), ("info", WORKS)]
    assert logs[0]["error"] == "'record' fails, as the test wants it"


async def test_time_away_does_not_count_as_time_the_attempt_took(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of an attempt is moved by as long as the store was away."""
    outage = Outage(Observers())
    now = asyncio.get_running_loop().time()
    assert outage.overlap_s(now - 5, now) == 0
    outage.record_failure(StoreUnavailable("away"))
    begun = now - 5
    assert 0 <= outage.overlap_s(begun, now + 10) - 10 < 1 or 0 <= 10 - outage.overlap_s(begun, now + 10) < 1
    outage.record_success()
    assert outage.overlap_s(begun, now + 99) < 1
    assert not outage.is_active


async def test_what_is_never_taken_does_not_hold_up_what_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while the store is asked for work all the same."""
    outage = Outage(Observers())
    loop = asyncio.get_running_loop()
    outage.record_failure(StoreUnavailable("away"))
    waiting = asyncio.create_task(outage.retry_until_written(_fails, StoreUnavailable("away")))
    await asyncio.sleep(0)
    assert outage.blocks_claims
    begun = loop.time()
    monkeypatch.setattr(loop, "time", lambda: begun + WRITES_FIRST_S + 1)
    assert not outage.blocks_claims
    monkeypatch.undo()
    outage.stop_retrying()
    with pytest.raises(StoreUnavailable):
        await waiting


async def _fails() -> None:
    raise StoreUnavailable("away")


# Start and stop


async def test_a_start_with_a_worker_waits_for_its_store_and_says_so_once() -> None:
    """With the reason; a program that only asks fails at once."""

    class Coming(SqliteStore):
        away = 3

        async def open(self) -> None:
            if self.away:
                Coming.away -= 1
                raise StoreUnavailable("the place cannot be reached: no route; start the server, or correct the URL")
            await super().open()

    asking = Batchflow(Coming(":memory:", clock=ManualClock()), worker=False)
    with pytest.raises(StoreUnavailable):
        await asking.start()
    with capture_logs() as logs:
        async with Batchflow(Coming(":memory:", clock=ManualClock())):
            pass
    assert [(line["log_level"], line["event"]) for line in logs] == [
        ("warning", "[batchflow] The store is away; waiting for it, and starting when it is there"),
        ("info", "[batchflow] The store is there; starting"),
    ]
    assert logs[0]["error"] == "the place cannot be reached: no route"


async def test_a_start_that_fails_at_the_limits_leaves_nothing_open() -> None:
    """The next one starts whole."""
    faulty = FaultyStore(SqliteStore(":memory:", clock=ManualClock()), fail="declare", times=1)
    flow = Batchflow(faulty, worker=False)
    counted = Counted(flow)
    with pytest.raises(StoreUnavailable):
        await flow.start()
    assert not flow.engine.is_open
    async with flow:
        await counted.served.trigger(1)
        assert faulty.calls["declare"] == 2


async def test_a_place_that_is_none_is_refused_at_once() -> None:
    """Nobody waits for a configuration to become right."""

    async def open_() -> None:
        raise StoreIncompatible("made by a newer batchflow")

    with pytest.raises(StoreIncompatible):
        await wait_for_store(open_, Observers())


@pytest.mark.parametrize("verb", ["record", "settle", "deregister"])
async def test_a_stop_while_the_store_is_away_is_quiet(verb: str) -> None:
    """Nothing is raised, within the grace, and one line says what becomes of what was under way."""
    faulty = FaultyStore(SqliteStore(":memory:", clock=ManualClock()), fail=verb, times=100_000)
    flow = Batchflow(faulty, grace=_GRACE)
    counted = Counted(flow)
    await flow.start()
    await counted.served.trigger(1)
    if verb != "deregister":
        await wait_until(lambda: faulty.calls[verb] >= 2, description="the store fails")
    async with asyncio.timeout(DEADLINE_S):
        await flow.stop()
    assert counted.steps[:1] in ([], ["first-1"])


async def test_a_refusal_is_not_waited_for(store: SqliteStore) -> None:
    """An error that cannot be retried is raised at once, also during an outage."""
    outage = Outage(Observers())

    async def refuse() -> None:
        raise StoreError("too large")

    with pytest.raises(StoreError, match="too large"):
        await outage.retry_until_written(refuse, StoreUnavailable("away"))
