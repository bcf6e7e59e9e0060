"""An app asked from where it does not run: after its end, and from another event loop."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from batchflow import Batchflow, WorkflowContext
from batchflow.errors import StoreError, StoreUnavailable
from batchflow.serve.functions import ServedFunction
from tests.stores.redis_server import served
from tests.waiting import DEADLINE_S


def doubling(flow: Batchflow) -> ServedFunction[int, int]:
    """A function that waits for an event."""

    @flow.serve("/double")
    async def double(ctx: WorkflowContext[int]) -> int:
        await ctx.wait_for_event("go", f"go:{ctx.run_id}")
        return 2 * ctx.payload

    return double


async def test_who_waits_for_a_run_hears_that_the_app_stops(tmp_path: Path) -> None:
    """At once, and whoever waits afterwards; the run goes on with the next app."""
    flow = Batchflow(f"sqlite:///{tmp_path / 'runs.db'}")
    double = doubling(flow)
    async with flow:
        run = await double.trigger(4)
        waiting = asyncio.create_task(run.wait())
        with pytest.raises(TimeoutError, match=rf"^run '{run.id}' has not ended within 0.01 s; it goes on$"):
            await run.wait(timeout=0.01)
    with pytest.raises(StoreUnavailable, match="the app has stopped"):
        await asyncio.wait_for(waiting, DEADLINE_S)
    with pytest.raises(StoreUnavailable, match="the app has stopped"):
        await asyncio.wait_for(run.wait(), DEADLINE_S)
    async with flow:
        await flow.notify(f"go:{run.id}", run_id=run.id)
        assert await run.wait(timeout=DEADLINE_S) == 8


async def test_who_waits_for_a_batch_hears_that_the_app_stops(tmp_path: Path) -> None:
    """As of a run."""
    flow = Batchflow(f"sqlite:///{tmp_path / 'runs.db'}", worker=False)

    @flow.batch(ids=["a"])
    async def greet(user_id: str) -> str:
        return user_id

    async with flow:
        batch = await greet.trigger()
        waiting = asyncio.create_task(batch.wait())
        await asyncio.sleep(0)
    with pytest.raises(StoreUnavailable, match="the app has stopped"):
        await asyncio.wait_for(waiting, DEADLINE_S)


async def test_a_call_on_another_event_loop_is_refused_before_anything_is_done() -> None:
    """It would be carried out, and its answer would come to the wrong loop."""
    await _refuses_other_loops(Batchflow("sqlite://", worker=False))


async def test_a_call_on_another_event_loop_is_refused_on_redis_too(tmp_path: Path) -> None:
    """For a store whose reads are bound to the loop too."""
    with served(tmp_path) as server:
        await _refuses_other_loops(Batchflow(server.url, worker=False), reads=True)


async def _refuses_other_loops(flow: Batchflow, *, reads: bool = False) -> None:
    double = doubling(flow)

    def refused(call: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        with pytest.raises(StoreError, match=r"runs on another event loop .* write flow\.trigger_sync\(…\)"):
            asyncio.run(call())

    async with flow:
        await asyncio.to_thread(refused, lambda: double.trigger(4))
        if reads:
            await asyncio.to_thread(refused, flow.runs)
        assert (await flow.runs()).runs == []
        run = await asyncio.to_thread(flow.trigger_sync, double, 4)
        assert (await run.status()).state == "waiting"
