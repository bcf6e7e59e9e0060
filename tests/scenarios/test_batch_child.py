"""A batch that a run waits for."""

from collections.abc import Sequence

from pydantic import BaseModel

from batchflow import BatchWorkflow, Page, WorkflowContext
from batchflow.errors import NonRetryable
from tests.scenarios.scenario_app import Nothing, Scene


class Which(BaseModel):
    names: list[str]


class Greetings(BatchWorkflow[Which, str, str]):
    """Greets; "bad" cannot be greeted."""

    name = "greetings"
    page_size, chunk_size = 3, 2

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    async def fetch(self, params: Which, cursor: str | None, limit: int) -> Page:
        start = int(cursor or 0)
        more = start + limit < len(params.names)
        return Page(params.names[start : start + limit], str(start + limit) if more else None)

    async def filter(self, params: Which, ids: Sequence[str]) -> Sequence[str]:
        return ids

    async def execute(self, item: str) -> str:
        self.scene.executed[item] += 1
        if item == "bad":
            raise NonRetryable("no greeting")
        return f"hello {item}"


async def test_invoked_batch_gives_its_summary(scene: Scene) -> None:
    """With every ending of its items, each runs once, and the run continues after the last one."""
    greetings = scene.flow.add(Greetings(scene))

    @scene.flow.serve("/parent")
    async def parent(ctx: WorkflowContext[Nothing]) -> str:
        ids = ["a", "b", "bad", "c", "d", "e", "f"]
        summary = await ctx.invoke("greet all", greetings, Which(names=ids), label="all")
        await ctx.run("note", scene.step("note"))
        return f"{summary.state} {summary.label} {summary.counts.succeeded} {summary.counts.failed} {summary.pages}"

    ended = await scene.to_the_end(parent.trigger(Nothing()))
    assert ended.result == '"completed all 6 1 3"'
    assert scene.executed == {**dict.fromkeys(["a", "b", "bad", "c", "d", "e", "f"], 1), "note": 1}


async def test_invoked_batch_without_items_ends_at_once(scene: Scene) -> None:
    """Nothing to do is done."""
    greetings = scene.flow.add(Greetings(scene))

    @scene.flow.serve("/parent")
    async def parent(ctx: WorkflowContext[Nothing]) -> str:
        return (await ctx.invoke("greet nobody", greetings, Which(names=[]))).state

    assert (await scene.to_the_end(parent.trigger(Nothing()))).result == '"completed"'
    assert scene.executed == {}
