"""Waiting for runs and batches: how long, from where, and where it is refused."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from batchflow import Batchflow, BatchWorkflow, NoParams, Page, WorkflowContext
from batchflow.core.duration import Duration
from batchflow.core.retry import RetryPolicy
from batchflow.errors import ConfigurationError, RunFailed, StoreUnavailable
from batchflow.serve.functions import ServedFunction
from tests.waiting import DEADLINE_S

REFUSED = (
    r"cannot wait for {what} of the same app: it would keep the place that this may need; "
    r"write 'await ctx\.invoke\(name, function, payload\)' in the function, which waits without holding anything$"
)


def sleeping(flow: Batchflow) -> ServedFunction[str, str]:
    @flow.serve("/sleep", retries=0)
    async def sleep(ctx: WorkflowContext[str]) -> str:
        await ctx.sleep("z", ctx.payload)
        return "slept"

    return sleep


# How long


async def test_what_has_ended_is_found_however_short_one_waits() -> None:
    """It is looked at before, and once more when the time is over."""
    flow = Batchflow("sqlite://")
    sleep = sleeping(flow)

    @flow.batch(ids=["a"], flow=None)
    async def greet(id: str) -> str:
        return id

    async with flow:
        run, batch = await sleep.trigger("0s"), await greet.trigger()
        await run.wait(timedelta(seconds=30))
        await batch.wait("30s")
        for limit in (0, 0.0, -1, -0.001, 1e-9, "0s", timedelta(0), timedelta(seconds=-3)):
            assert await run.wait(limit) == "slept"
            assert (await batch.wait(limit)).succeeded


async def test_what_has_not_ended_goes_on() -> None:
    """And the error says how long was waited."""
    flow = Batchflow("sqlite://")
    sleep = sleeping(flow)
    async with flow:
        run = await sleep.trigger("1h")
        told: dict[Duration, str] = {0: "0", -1: "0", "20ms": "0.02", timedelta(milliseconds=20): "0.02", 1e-9: "0.001"}
        for limit, seconds in told.items():
            with pytest.raises(
                TimeoutError, match=f"^run '{run.id}' has not ended within {seconds} s; it (goes on|waits until .*)$"
            ):
                await run.wait(limit)
        assert (await run.status()).state == "waiting"


@pytest.mark.parametrize("limit", [float("nan"), float("inf"), float("-inf"), 1e12, "5", "soon", True, [], object()])
async def test_what_is_no_duration_is_refused_where_one_waits(limit: Any) -> None:
    """In one sentence, before anything is looked at."""
    flow = Batchflow("sqlite://", worker=False)
    sleep = sleeping(flow)
    async with flow:
        with pytest.raises(
            ConfigurationError, match=r"^'timeout' cannot be .*; write seconds such as 10, text such as"
        ):
            await (await sleep.trigger("1h")).wait(limit)


async def test_a_progress_takes_every_duration() -> None:
    """And rejects an invalid one."""
    flow = Batchflow("sqlite://")

    @flow.batch(ids=["a"], flow=None)
    async def greet(id: str) -> str:
        return id

    intervals: list[Duration] = [0.01, "10ms", timedelta(milliseconds=10)]
    async with flow:
        batch = await greet.trigger()
        for interval in intervals:
            assert [status.state async for status in batch.progress(interval)][-1] == "completed"
        with pytest.raises(ConfigurationError, match="^'interval' cannot be 'soon'"):
            await anext(batch.progress("soon"))


async def test_waiting_for_an_app_that_has_stopped_says_so() -> None:
    """Also where the time is over at once."""
    flow = Batchflow("sqlite://")
    sleep = sleeping(flow)
    async with flow:
        run = await sleep.trigger("1h")
    with pytest.raises(StoreUnavailable, match="^the app has stopped"):
        await run.wait(0)


async def test_an_end_is_heard_of_on_another_event_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Soon, though nothing can wake it there."""
    monkeypatch.setattr("batchflow.engine.watchers.CHECK_INTERVAL_S", 3_600)
    flow = Batchflow(f"sqlite:///{tmp_path}/b.db")
    go = asyncio.Event()

    @flow.serve("/f")
    async def f(ctx: WorkflowContext[None]) -> str:
        await go.wait()  # batchflow: ok
        return "heard"

    async with flow:
        run = await f.trigger(None)
        waiting = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(run.wait(DEADLINE_S))))
        await asyncio.sleep(0)
        go.set()
        async with asyncio.timeout(DEADLINE_S):
            assert await waiting == "heard"


# Where it is refused


class Chain:
    """`/parent` waits for `/child` of the same app, as `how` says, in a step where `in_step`."""

    def __init__(self, how: Callable[["Chain"], Any], *, in_step: bool = True) -> None:
        self.flow = Batchflow("sqlite://", concurrency=1)

        @self.flow.serve("/child")
        async def child(ctx: WorkflowContext[int]) -> int:
            return ctx.payload

        @self.flow.serve("/parent", retry=RetryPolicy(retries=3, first="1h"))
        async def parent(ctx: WorkflowContext[int]) -> Any:
            if in_step:
                return await ctx.run("inner", how, self)
            return await how(self)  # batchflow: ok

        self.child, self.parent = child, parent
        self.loop = asyncio.get_running_loop()


async def waits(chain: Chain) -> int:
    return await (await chain.child.trigger(7)).wait(20)


async def polls(chain: Chain) -> None:
    run = await chain.child.trigger(7)
    while (await run.status()).state != "completed":  # noqa: ASYNC110 - as somebody might
        await asyncio.sleep(0)


def waits_plainly(chain: Chain) -> int:
    run = chain.flow.trigger_sync(chain.child, 7)
    return asyncio.run_coroutine_threadsafe(run.wait(20), chain.loop).result()


def waits_on_a_loop_of_its_own(chain: Chain) -> int:
    run = chain.flow.trigger_sync(chain.child, 7)
    return asyncio.run(run.wait(20))


@pytest.mark.parametrize("how", [waits, polls, waits_plainly, waits_on_a_loop_of_its_own])
async def test_a_step_that_waits_for_a_run_of_its_app_is_refused(how: Callable[[Chain], Any]) -> None:
    """At once, with a sentence that says what waits without holding a place; no other attempt is made."""
    chain = Chain(how)
    async with chain.flow:
        run = await chain.parent.trigger(1)
        with pytest.raises(RunFailed, match="step 'inner' " + REFUSED.format(what=r"run '\w+'")):
            await run.wait(20)


async def test_a_function_that_waits_outside_of_steps_is_refused() -> None:
    """It holds its place as well."""
    chain = Chain(waits, in_step=False)
    async with chain.flow:
        run = await chain.parent.trigger(1)
        with pytest.raises(RunFailed, match="a durable function " + REFUSED.format(what=r"run '\w+'")):
            await run.wait(20)


async def test_a_hook_that_waits_for_a_batch_of_its_app_is_refused() -> None:
    """For its end, or for each bit of progress."""
    flow = Batchflow("sqlite://")

    @flow.batch
    async def greet(id: str) -> str:
        return id

    async def progress(batch: Any) -> None:
        async for _ in batch.progress(0.01):
            pass

    class Waiting(BatchWorkflow[NoParams, str, str]):
        entity = "user"
        retry = RetryPolicy.none()

        async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
            return Page(ids=["wait", "progress"])

        async def execute(self, user_id: str) -> str:
            batch = await greet.trigger(ids=["a"])
            await (batch.wait() if user_id == "wait" else progress(batch))
            return "over"

    waiting = flow.add(Waiting())
    async with flow:
        batch = await waiting.trigger(NoParams())
        assert (await batch.wait(30)).counts.failed == 2
        for item in [item async for item in batch.items("failed")]:
            assert item.error is not None
            assert "step 'waiting:process-item' (execute) cannot wait for batch 'bat_" in item.error


async def test_a_step_may_look_at_a_run_now_and_then() -> None:
    """A durable loop that looks, and sleeps in between, holds nothing meanwhile."""
    flow = Batchflow("sqlite://")

    @flow.serve("/seen")
    async def seen(ctx: WorkflowContext[None]) -> None:
        await ctx.wait_for_event("three looks", "three looks")

    @flow.serve("/look")
    async def look(ctx: WorkflowContext[str]) -> int:
        async def state(number: int) -> str:
            run = flow.run(ctx.payload)
            await run.status()
            if number == 2:
                await flow.notify("three looks", run_id=run.id)
            return (await run.status()).state

        for number in range(200):
            if await ctx.run(f"look:{number}", state, number) == "completed":
                return number
            await ctx.sleep(f"pause:{number}", 0.05)
        raise AssertionError("it does not end")

    async with flow:
        run = await look.trigger((await seen.trigger(None)).id)
        assert await run.wait(DEADLINE_S) > 1


async def test_a_step_may_wait_for_a_run_of_another_app() -> None:
    """It has places of its own."""
    other = Batchflow("sqlite://")
    sleep = sleeping(other)
    flow = Batchflow("sqlite://")

    def served(wait: Callable[[], Awaitable[str]]) -> ServedFunction[None, str]:
        @flow.serve("/f", retries=0)
        async def f(ctx: WorkflowContext[None]) -> str:
            return await ctx.run("wait", wait)

        return f

    async def wait() -> str:
        return await (await sleep.trigger("0s")).wait(20)

    f = served(wait)
    async with other, flow:
        assert await (await f.trigger(None)).wait(30) == "slept"


async def test_the_progress_of_a_run_ends_with_its_end() -> None:
    """The run as it is now first, then about every interval."""
    flow = Batchflow("sqlite://")
    may_end = asyncio.Event()

    @flow.serve("/slow")
    async def slow(ctx: WorkflowContext[int]) -> int:
        await ctx.run("wait", may_end.wait)
        return ctx.payload

    seen: list[str] = []
    async with flow:
        handle = await slow.trigger(3)
        async for run in handle.progress(interval="10ms"):
            seen.append(run.state)
            if len(seen) == 3:
                may_end.set()
        assert await handle.wait() == 3
    assert seen[-1] == "completed"
    assert set(seen[:-1]) <= {"waiting", "running"}
