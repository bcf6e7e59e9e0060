"""A run on QStash that is cancelled takes the batches with it that it has invoked."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest

from batchflow import WorkflowContext
from batchflow.core.run import RunQuery
from batchflow.qstash import invoked_batches
from batchflow.qstash.invoked_batches import LOOK_MS
from batchflow.serve.runs import RunHandle
from tests.qstash.batch_programs import Params
from tests.qstash.invoking_programs import Sleepers, Wire, engine_of, opened, parent_of
from tests.qstash.stage import APP_URL, WireStage
from tests.stores.kinds import left


@pytest.fixture(params=["sqlite", "fakeredis"])
async def stage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WireStage]:
    monkeypatch.setenv("APP_URL", f"{APP_URL}/")
    stage = WireStage(request.param, batches=True)
    async with stage:
        yield stage
        assert await left(stage.flow.engine.store) == {}  # type: ignore[arg-type]


async def cancel_by_handle(stage: WireStage, run: RunHandle[str]) -> None:
    assert await run.cancel()


async def cancel_by_label(stage: WireStage, run: RunHandle[str]) -> None:
    assert await stage.flow.cancel(label="nightly") == 1


async def cancel_by_function(stage: WireStage, run: RunHandle[str]) -> None:
    assert await stage.flow.engine.cancel_runs(destination="/parent") == 2


async def cancel_in_the_console(stage: WireStage, run: RunHandle[str]) -> None:
    """By somebody of whom the app does not know: it looks each hour."""
    async with stage.console() as console:
        answer = await console.delete("/v2/workflows/runs", params={"workflowRunIds": f"wfr_{run.id}"})
    assert answer.json() == {"cancelled": 1}
    await stage.drive(ms=LOOK_MS)


@pytest.mark.parametrize("how", [cancel_by_handle, cancel_by_label, cancel_by_function, cancel_in_the_console])
async def test_a_run_that_is_cancelled_takes_its_batch_with_it(
    stage: WireStage, how: Callable[[WireStage, RunHandle[str]], Awaitable[None]]
) -> None:
    parent = parent_of(stage, Sleepers())
    await opened(stage)
    run = await parent.trigger(None, label="nightly")
    other = await parent.trigger(None)
    await stage.drive(ms=60_000)
    await how(stage, run)
    await stage.drive(ms=1_000)
    assert (await run.status()).state == "cancelled"
    states = Counter([it.state for it in await stage.flow.engine.store.batches()])
    assert states == ({"cancelled": 2} if how is cancel_by_function else {"cancelled": 1, "sealed": 1})
    await other.cancel()
    await stage.drive(ms=1_000)
    assert {it.state for it in await stage.flow.engine.store.batches()} == {"cancelled"}


async def test_a_cancellation_by_label_looks_at_many_runs_at_once_but_not_at_all(
    stage: WireStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invoked_batches, "LOOKS_AT_ONCE", 2)
    under_way, most = 0, 0

    class Counting(Wire):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            try:
                await asyncio.sleep(0)
                return await super().handle_async_request(request)
            finally:
                under_way -= 1

    wire = Counting(stage)
    parent = parent_of(stage, Sleepers())
    await opened(stage)
    runs = [await parent.trigger(None, label=label, run_id=f"run-{n}") for n, label in enumerate("aaabb")]
    await stage.drive(ms=60_000)
    wire.requests.clear()
    under_way, most = 0, 0
    assert await stage.flow.cancel(label="a") == 3
    assert most == 2
    assert wire.requests.count("GET /v2/workflows/events") == 5
    await stage.drive(ms=1_000)
    assert Counter([it.state for it in await stage.flow.engine.store.batches()]) == {"cancelled": 3, "sealed": 2}
    for run in runs:
        await run.cancel()
    await stage.drive(ms=1_000)


async def test_a_run_that_cancels_itself_takes_its_batch_with_it(stage: WireStage) -> None:
    batch = stage.flow.add(Sleepers())

    @stage.flow.serve("/gives-up")
    async def gives_up(ctx: WorkflowContext[None]) -> None:
        async def last() -> None:
            await ctx.sleep("a moment", "10s")
            ctx.cancel()

        await ctx.first(last(), ctx.invoke("batch", batch, Params()))

    await opened(stage)
    run = await gives_up.trigger(None)
    await stage.drive(ms=60_000)
    assert (await run.status()).state == "cancelled"
    assert [it.state for it in await stage.flow.engine.store.batches()] == ["cancelled"]


async def test_a_run_that_is_cancelled_before_its_batch_is_opened_opens_none(stage: WireStage) -> None:
    parent = parent_of(stage, Sleepers())
    await opened(stage)
    engine = engine_of(stage)
    give, engine.give_due = engine.give_due, no_gift  # type: ignore[method-assign]
    run = await parent.trigger(None)
    await stage.drive(ms=10_000)
    async with stage.console() as console:
        await console.delete("/v2/workflows/runs", params={"workflowRunIds": f"wfr_{run.id}"})
    engine.give_due = give  # type: ignore[method-assign]
    await give()
    await stage.drive(ms=60_000)
    assert await stage.flow.engine.store.batches() == []
    assert [it.state for it in await stage.flow.engine.store.runs(RunQuery(), 10)] == ["cancelled"]


async def no_gift() -> None:
    """Give QStash nothing."""
