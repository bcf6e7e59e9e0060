"""Waits that the code takes back, and those that an attempt leaves behind when it fails."""

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest

from batchflow import WorkflowContext
from tests.scenarios.scenario_app import DAY, Nothing, Scene


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    """An app in virtual time, at the end of which nothing may be left."""
    scene = Scene(always_replay=False)
    yield scene
    try:
        assert await scene.left() == {}
    finally:
        await scene.flow.stop()


@pytest.mark.parametrize("how", ["group", "gather"])
async def test_a_wait_outlives_an_attempt_that_fails_outside_of_steps(scene: Scene, how: str) -> None:
    """The group cancels it on the way out; the next attempt waits on, and is told of the event."""
    attempts: list[int] = []

    @scene.flow.serve("/tries-again")
    async def tries_again(ctx: WorkflowContext[Nothing]) -> str:
        attempts.append(len(attempts))

        async def stumbles() -> None:
            await ctx.run("step", scene.step("step"))
            if len(attempts) < 3:
                raise ConnectionError("outside of a step")

        wait = ctx.wait_for_event("event", "event", data=str)
        if how == "gather":
            return (await asyncio.gather(wait, stumbles()))[0].data
        async with asyncio.TaskGroup() as group:
            told = group.create_task(wait)
            group.create_task(stumbles())
        return told.result().data

    @scene.flow.serve("/teller")
    async def teller(ctx: WorkflowContext[Nothing]) -> None:
        await ctx.notify("tell", "event", "heard")

    run = await scene.start(tries_again.trigger(Nothing()))
    await scene.flow.trigger(teller, Nothing(), delay="1d")
    await scene.drive()
    assert (await run.status()).result == '"heard"'
    assert (len(attempts), scene.executed) == (4, {"step": 1})


async def test_a_wait_that_is_taken_back_is_not_told_any_more(scene: Scene) -> None:
    """Once the run is suspended again, an event for it finds nobody."""

    @scene.flow.serve("/impatient")
    async def impatient(ctx: WorkflowContext[Nothing]) -> int:
        place, _ = await ctx.first(ctx.wait_for_event("event", "event"), ctx.sleep("patience", "1h"))
        await ctx.sleep("afterwards", "1h")
        return await ctx.run("ask", lambda: place)

    run = await scene.start(impatient.trigger(Nothing()))
    await scene.drive()
    assert (await run.status()).result == "1"
    assert await scene.flow.notify("event") == []


async def test_the_runs_own_time_is_that_of_the_outcome_that_was_handed_out(scene: Scene) -> None:
    """Also where a sibling's, recorded later, is durable already: so it is the same on a replay."""
    seen: list[list[str]] = []
    begun = scene.clock.now()

    @scene.flow.serve("/siblings")
    async def siblings(ctx: WorkflowContext[Nothing]) -> None:
        seen.append([])

        async def takes(name: str, seconds: int) -> None:
            scene.clock.advance(seconds)

        async def branch(name: str, seconds: int) -> None:
            await ctx.run(name, takes, name, seconds)
            seen[-1].append(f"{name} {int(ctx.now().timestamp() * 1000) - begun}")

        await asyncio.gather(branch("a", 1), branch("b", 2), branch("c", 4))
        await ctx.sleep("a while", "1d")

    await scene.to_the_end(siblings.trigger(Nothing()))
    assert seen == [["a 1000", "b 3000", "c 7000"]] * 2


async def test_first_of_several_that_fail_together_complains_of_none(scene: Scene) -> None:
    """The error of the first wait is raised, and errors of the others in the same turn are retrieved."""

    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, about: complaints.append(about))

    @scene.flow.serve("/together", retries=0)
    async def together(ctx: WorkflowContext[Nothing]) -> None:
        async def fails(name: str) -> None:
            raise ValueError(name)

        await ctx.first(fails("one"), fails("two"))

    ended = await scene.to_the_end(together.trigger(Nothing()))
    assert ended.error is not None
    assert ended.error.startswith("ValueError: one")
    gc.collect()
    assert complaints == []


async def test_a_timeout_that_is_cancelled_as_it_begins_wakes_nobody(scene: Scene) -> None:
    """A group that fails in that very moment takes it along."""
    woken: list[int] = []

    @scene.flow.serve("/aborted")
    async def aborted(ctx: WorkflowContext[Nothing]) -> str:
        woken.append(scene.clock.now())

        async def limited() -> None:
            async with ctx.timeout("limit", "1h"):
                await ctx.wait_for_event("never", "never")

        async def fails() -> None:
            raise ValueError("at once")

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fails())
                group.create_task(limited())
        except* ValueError:
            pass
        await ctx.sleep("long", "1d")
        return "slept"

    ended = await scene.to_the_end(aborted.trigger(Nothing()))
    assert ended.result == '"slept"'
    assert [at - woken[0] for at in woken] == [0, DAY]
