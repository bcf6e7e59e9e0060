"""Pictures: of each some sizes at the same time, of many pictures at the same time."""

import asyncio

import pytest
from pydantic import BaseModel

from batchflow import WorkflowContext
from batchflow.errors import ChildFailed, NonRetryable
from tests.scenarios.scenario_app import Scene

SIZES = (64, 128, 256)


class Picture(BaseModel):
    name: str


class Album(BaseModel):
    names: list[str]


async def test_images_are_resized_and_gathered_in_their_order(both: Scene) -> None:
    """One child for each picture, one step for each size; nothing is done twice and nothing is mixed up."""

    @both.flow.serve("/picture")
    async def picture(ctx: WorkflowContext[Picture]) -> list[str]:
        name = ctx.payload.name
        sizes = [ctx.run(f"{size}", both.step(f"{name}/{size}", f"{name}-{size}")) for size in SIZES]
        return list(await asyncio.gather(*sizes))

    @both.flow.serve("/album")
    async def album(ctx: WorkflowContext[Album]) -> list[list[str]]:
        names = ctx.payload.names
        done = await asyncio.gather(*[ctx.invoke(name, picture, Picture(name=name)) for name in names])
        await ctx.run("index", both.step("index"))
        return list(done)

    ended = await both.to_the_end(album.trigger(Album(names=["a", "b", "c"])))
    assert ended.result == '[["a-64","a-128","a-256"],["b-64","b-128","b-256"],["c-64","c-128","c-256"]]'
    assert both.executed == {"index": 1, **{f"{name}/{size}": 1 for name in "abc" for size in SIZES}}


@pytest.mark.parametrize("how", ["gather", "group"])
async def test_images_of_which_one_is_broken_fail_as_the_code_wants_it(both: Scene, how: str) -> None:
    """A failed child is seen by gather among the others, and ends a group, whose other children are let go on."""

    @both.flow.serve("/picture")
    async def picture(ctx: WorkflowContext[Picture]) -> str:
        name = ctx.payload.name
        await ctx.sleep("queue", 0 if name == "broken" else 60)
        error = NonRetryable("no picture") if name == "broken" else None
        return await ctx.run("resize", both.step(f"{name}", name, error=error))

    @both.flow.serve("/album")
    async def album(ctx: WorkflowContext[Album]) -> list[str]:
        invoked = [ctx.invoke(name, picture, Picture(name=name)) for name in ctx.payload.names]
        if how == "gather":
            ends = await asyncio.gather(*invoked, return_exceptions=True)
            return [end.error if isinstance(end, ChildFailed) else str(end) for end in ends]
        result = ["all"]
        try:
            async with asyncio.TaskGroup() as group:
                for one in invoked:
                    group.create_task(one)
        except* ChildFailed as failed:
            result = [str(len(failed.exceptions))]
        return result

    ended = await both.to_the_end(album.trigger(Album(names=["a", "broken", "c"])))
    error = both.reason("StepFailed: step 'resize' failed after 1 attempt: NonRetryable: no picture")
    assert ended.result == (f'["a","{error}","c"]' if how == "gather" else '["1"]')
    assert both.executed == {"a": 1, "broken": 1, "c": 1}
