"""Unwinding from a failed group, also two tasks deep, is the same on every replay."""

import asyncio

import pytest

from batchflow import RetryPolicy, WorkflowContext
from batchflow.errors import NonRetryable, StepFailed
from tests.scenarios.scenario_app import Nothing, Scene


@pytest.mark.parametrize("how", ["sleeps", "tries again", "at once"])
async def test_a_group_that_breaks_off_waits_for_the_cleanup_of_its_tasks(scene: Scene, how: str) -> None:
    """A cleanup that has to wait suspends the run, though the group keeps cancellations to itself."""
    tries = 0

    async def release() -> None:
        nonlocal tries
        tries += 1
        if how == "tries again" and tries == 1:
            raise ConnectionError("not now")

    @scene.flow.serve("/group", retry=RetryPolicy(retries=2, first="1m"))
    async def group(ctx: WorkflowContext[Nothing]) -> str:
        async def held() -> None:
            try:
                await ctx.wait_for_event("never", "never")
            finally:
                if how == "sleeps":
                    await ctx.sleep("patience", "1h")
                await ctx.run("release", release)

        async def fails() -> None:
            await ctx.run("fails", scene.step("fails", error=NonRetryable("for good")))

        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(held())
                tasks.create_task(fails())
        except* StepFailed:
            pass
        await ctx.run("after", scene.step("after"))
        return "group failed"

    ended = await scene.to_the_end(group.trigger(Nothing()))
    assert ended.result == '"group failed"'
    assert (scene.executed, tries) == ({"fails": 1, "after": 1}, 2 if how == "tries again" else 1)


async def test_a_task_that_was_just_made_begins_before_the_next_outcome_is_handed_out(scene: Scene) -> None:
    """So that what is two tasks deep draws its key at the same place on every replay."""
    keys: list[str] = []

    @scene.flow.serve("/deep", retry=RetryPolicy(retries=2, first="1s"))
    async def deep(ctx: WorkflowContext[Nothing]) -> str:
        async def leaf() -> str:
            key = str(ctx.uuid())
            keys.append(key)
            return str(await ctx.run("pay", scene.step("pay", key)))

        async def branch() -> str:
            (paid,) = await asyncio.gather(leaf())
            return paid

        await ctx.run("setup", scene.step("setup"))
        paying = asyncio.create_task(branch())
        await ctx.run("order", scene.step("order"))
        ctx.uuid()
        await ctx.sleep("a while", "1h")
        return await paying

    ended = await scene.to_the_end(deep.trigger(Nothing()))
    assert ended.state == "completed"
    assert len(keys) > 1
    assert set(keys) == {keys[0]}
