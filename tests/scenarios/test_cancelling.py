"""A run is cancelled in every state it can be in; nothing of it is left, and what it waits for goes with it."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pydantic import BaseModel

from batchflow import BatchWorkflow, Page, WorkflowContext
from batchflow.core.flow import FlowControl
from batchflow.serve.functions import ServedFunction
from tests.scenarios.scenario_app import Nothing, Scene

HELD = FlowControl(key="held", parallelism=1)
Waits = Callable[[WorkflowContext[Nothing]], Awaitable[Any]]


class Some(BaseModel):
    pass


class Sleepers(BatchWorkflow[Some]):
    """A batch whose items take a day."""

    name = "sleepers"

    async def fetch(self, params: Some, cursor: str | None, limit: int) -> Page:
        return Page(["a", "b"])

    async def process(self, ctx: WorkflowContext[Any], item: str) -> None:
        await ctx.sleep("a day", "1d")
        raise AssertionError("it is cancelled before")

    async def execute(self, item: str) -> None:
        raise AssertionError("it is not asked for")


def waits(scene: Scene, what: str) -> Waits:
    """Something that a run can wait for, by name; each of them waits itself."""
    if what == "batch":
        batch = scene.flow.add(Sleepers())
        return lambda ctx: ctx.invoke("batch", batch, Some())

    @scene.flow.serve("/grandchild")
    async def grandchild(ctx: WorkflowContext[Nothing]) -> None:
        await ctx.wait_for_event("for ever", "never")

    @scene.flow.serve("/child")
    async def child(ctx: WorkflowContext[Nothing]) -> None:
        await ctx.first(ctx.invoke("grandchild", grandchild, Nothing()), ctx.sleep("long", "9d"))

    kinds: dict[str, Waits] = {
        "sleep": lambda ctx: ctx.sleep("long", "9d"),
        "event": lambda ctx: ctx.wait_for_event("event", "never", timeout="9d"),
        "call": lambda ctx: ctx.call("call", "https://x.test", flow_control=HELD),
        "child": lambda ctx: ctx.invoke("child", child, Nothing()),
        "several": lambda ctx: ctx.first(
            ctx.sleep("long", "9d"), ctx.wait_for_event("event", "never"), ctx.invoke("child", child, Nothing())
        ),
    }
    return kinds[what]


def waiting(scene: Scene, wait: Waits) -> ServedFunction[Nothing, None]:
    @scene.flow.serve("/waiting", base_url="https://app.example.com")
    async def run(ctx: WorkflowContext[Nothing]) -> None:
        await ctx.create_webhook("webhook")
        await ctx.run("before", scene.step("before"))
        await wait(ctx)
        await ctx.run("after", scene.step("after"))

    return run


@pytest.mark.parametrize("what", ["sleep", "event", "call", "child", "batch", "several"])
async def test_cancelled_while_it_waits_a_run_ends_at_once_with_its_children(scene: Scene, what: str) -> None:
    """With every kind of wait, the run and its children end as cancelled."""
    run = await scene.start(waiting(scene, waits(scene, what)).trigger(Nothing()))
    await scene.hold("held")
    # An event for it that it does not wait for is kept, and goes with it.
    await scene.flow.notify("another event", run_id=run.id)
    await scene.drive(ms=3_600_000)
    assert (await run.status()).state == "waiting"
    assert await scene.flow.cancel(run.id) == 1
    assert (await run.status()).state == "cancelled"
    await scene.drive()
    assert scene.executed == {"before": 1}
    # The walk over the batch's items had ended.
    runs = [it for it in (await scene.flow.runs()).runs if it.batch is None]
    assert {it.state for it in runs} == {"cancelled"}
    assert {it.state for it in await scene.store.batches()} <= {"cancelled"}
    assert scene.calls.requests == []


async def test_cancelled_before_it_starts_a_run_does_nothing(scene: Scene) -> None:
    """Its delay is not waited for."""
    run = await scene.start(waiting(scene, waits(scene, "sleep")).trigger(Nothing(), delay="1h"))
    assert await run.cancel()
    assert (await run.status()).state == "cancelled"
    assert scene.executed == {}


async def test_cancelled_while_it_works_a_run_ends_at_its_next_step(both: Scene) -> None:
    """The step that executes is let go on; the child of a branch is cancelled as well."""
    handles: list[Any] = []

    @both.flow.serve("/child")
    async def child(ctx: WorkflowContext[Nothing]) -> None:
        await ctx.sleep("long", "9d")

    async def cancel() -> bool:
        both.executed["cancel"] += 1
        return await handles[0].cancel()

    @both.flow.serve("/working")
    async def working(ctx: WorkflowContext[Nothing]) -> None:
        async def last() -> None:
            await ctx.sleep("a moment", "1h")
            await ctx.run("cancel", cancel)
            await ctx.run("after", both.step("after"))

        await ctx.first(last(), ctx.invoke("child", child, Nothing()))

    handles.append(await both.start(working.trigger(Nothing())))
    await both.drive()
    assert [it.state for it in (await both.flow.runs()).runs] == ["cancelled", "cancelled"]
    assert both.executed["cancel"] == 1
    assert both.executed["after"] <= 1


async def test_a_run_that_has_ended_cannot_be_cancelled(scene: Scene) -> None:
    """And stays as it is."""

    @scene.flow.serve("/ends")
    async def ends(ctx: WorkflowContext[Nothing]) -> None:
        await ctx.run("only", scene.step("only"))

    run = await scene.start(ends.trigger(Nothing()))
    await scene.drive()
    assert not await run.cancel()
    assert await scene.flow.cancel(run.id) == 0
    assert (await run.status()).state == "completed"
    assert scene.executed == {"only": 1}
