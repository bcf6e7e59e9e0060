"""Children of children: their results, failures and cancellations, and how deep they go."""

import pytest
from pydantic import BaseModel

from batchflow import WorkflowContext
from batchflow.core.retry import RetryPolicy
from batchflow.errors import ChildCancelled, ChildFailed, NonRetryable
from tests.scenarios.scenario_app import HOUR, Nothing, Scene


class Number(BaseModel):
    value: int
    ends: str = "returns"


@pytest.mark.parametrize(
    ("ends", "error"),
    [
        ("returns", None),
        ("fails", "ChildFailed: step 'invoke': 'grandchild' failed: NonRetryable: no"),
        ("cancels", "ChildCancelled: step 'invoke': 'grandchild' was cancelled"),
    ],
)
async def test_child_of_a_child_tells_result_failure_and_cancellation_apart(
    both: Scene, ends: str, error: str | None
) -> None:
    """The ending of the grandchild propagates step by step; each runs once."""

    @both.flow.serve("/grandchild")
    async def grandchild(ctx: WorkflowContext[Number]) -> int:
        if ctx.payload.ends == "cancels":
            ctx.cancel()
        error = NonRetryable("no") if ctx.payload.ends == "fails" else None
        if error is not None:
            await ctx.run("note", both.step("note"))
            raise error
        return await ctx.run("double", both.step("double", does=lambda value: value * 2), ctx.payload.value)

    @both.flow.serve("/child")
    async def child(ctx: WorkflowContext[Number]) -> str:
        payload = ctx.payload.model_copy(update={"value": ctx.payload.value + 1})
        return f"child {await ctx.invoke('invoke', grandchild, payload)}"

    @both.flow.serve("/parent")
    async def parent(ctx: WorkflowContext[Number]) -> str:
        try:
            return await ctx.invoke("invoke", child, ctx.payload)
        except ChildFailed as failed:
            return str(failed)

    ended = await both.to_the_end(parent.trigger(Number(value=5, ends=ends)))
    result = "child 12" if error is None else f"step 'invoke': 'child' failed: {both.reason(error)}"
    assert (ended.state, ended.result) == ("completed", f'"{result}"')
    assert both.executed == {"returns": {"double": 1}, "fails": {"note": 1}, "cancels": {}}[ends]
    ids = [run.id for run in (await both.flow.runs()).runs]
    assert sorted(ids) == [ended.id, f"{ended.id}.1", f"{ended.id}.1.1"]


async def test_child_that_is_cancelled_from_outside_is_told_to_its_parent(scene: Scene) -> None:
    """As what it is: neither a result nor a failure."""

    @scene.flow.serve("/child")
    async def child(ctx: WorkflowContext[Nothing]) -> None:
        await ctx.wait_for_event("for ever", "never")

    @scene.flow.serve("/parent")
    async def parent(ctx: WorkflowContext[Nothing]) -> str:
        result = "returned"
        try:
            await ctx.invoke("child", child, Nothing())
        except ChildCancelled as cancelled:
            result = cancelled.child
        return await ctx.run("note", scene.step("note", result))

    run = await scene.start(parent.trigger(Nothing()))
    await scene.drive(ms=HOUR)
    assert await scene.flow.cancel(f"{run.id}.1") == 1
    await scene.drive()
    assert (await run.status()).result == '"child"'
    assert scene.executed == {"note": 1}


async def test_children_go_a_hundred_deep_and_no_deeper(scene: Scene) -> None:
    """One that invokes itself for ever is found out, and its error goes all the way up."""
    depths: list[int] = []

    @scene.flow.serve("/deeper", retry=RetryPolicy.none())
    async def deeper(ctx: WorkflowContext[int]) -> int:
        await ctx.run("note", scene.step("note", does=depths.append), ctx.payload)
        return await ctx.invoke("deeper", deeper, ctx.payload + 1)

    ended = await scene.to_the_end(deeper.trigger(0))
    assert depths == list(range(101))
    assert ended.state == "failed"
    assert ended.error is not None
    deepest = await scene.flow.run(ended.id + ".2" * 100).status()
    assert deepest.error is not None
    assert deepest.error.startswith(
        "ConfigurationError: step 'deeper' would invoke 'deeper' 101 runs deep, and 100 are the most; "
        "does it invoke itself?"
    )
