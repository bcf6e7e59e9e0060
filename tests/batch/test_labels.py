"""Labels find batches, and end them."""

from typing import Any

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient

from batchflow import Batchflow, BatchWorkflow, FlowControl, NoParams, Page, WorkflowContext
from batchflow.errors import InputError
from batchflow.testing import Environment


class Job(BatchWorkflow[NoParams, str, str]):
    execute_flow = FlowControl(rate=1)

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page(ids=["a", "b", "c", "d"])

    async def execute(self, item_id: str) -> str:
        return item_id


class Other(Job):
    pass


@pytest.fixture
def flow() -> Batchflow:
    return Batchflow("sqlite://")


async def test_batches_are_found_by_label(flow: Batchflow) -> None:
    """Of one workflow, of the whole app, and over HTTP; together with what else narrows them."""
    job, other = flow.add(Job()), flow.add(Other())
    app = FastAPI()
    app.include_router(flow.router)
    async with Environment(flow) as env, AsyncClient(transport=ASGITransport(app), base_url="http://t") as http:
        first, second = await job.trigger(label="r1"), await other.trigger(label="r1")
        third = await job.trigger(label="r2")
        assert [it.id for it in await job.batches(label="r1")] == [first.id]
        assert [it.id for it in await flow.batches(label="r1")] == [second.id, first.id]
        assert [it.id for it in await flow.batches()] == [third.id, second.id, first.id]
        assert await flow.batches(label="r3") == []
        await second.cancel()
        await env.drive(until=env.clock.now())
        assert [it.id for it in await flow.batches(label="r1", open_only=True)] == [first.id]
        for query, ids in (
            ("label=r1", {first.id, second.id}),
            ("label=r1&workflow=job", {first.id}),
            ("label=x", set[str]()),
        ):
            answer = (await http.get(f"/batches?{query}")).json()
            assert {it["batchId"] for it in answer["batches"]} == ids
        wrong: Any = 7
        with pytest.raises(InputError, match="^'label' cannot be 7; write the label of a batch, as text$"):
            await flow.batches(label=wrong)


async def test_a_label_ends_batches_and_runs(flow: Batchflow) -> None:
    """All of that label, and what they wait for; how many there were."""
    job = flow.add(Job())

    @flow.serve("/wait")
    async def wait(ctx: WorkflowContext[None]) -> None:
        await ctx.sleep("long", "7d")

    async with Environment(flow) as env:
        mine = [await job.trigger(label="r1") for _ in range(2)]
        ended = await job.trigger(label="r1", ids=["x"])
        await env.advance("10s")
        runs = [await wait.trigger(None, label="r1") for _ in range(3)]
        mine += [await job.trigger(label="r1", force=True)]
        others = [await job.trigger(label="r2", ids=["y"]), await wait.trigger(None, label="r2")]
        await env.advance("1s")
        assert [(await it.status()).state for it in mine[:2]] == ["completed", "completed"]
        assert await flow.cancel(label="r1") == 4
        await env.drive()
        assert {(await it.status()).state for it in (*runs, mine[2])} == {"cancelled"}
        assert [(await it.status()).state for it in (ended, *others)] == ["completed", "completed", "completed"]
        assert await flow.cancel(label="r1") == 0


async def test_a_label_and_a_function_end_runs_alone(flow: Batchflow) -> None:
    """A batch is of no function."""
    job = flow.add(Job())

    @flow.serve("/wait")
    async def wait(ctx: WorkflowContext[None]) -> None:
        await ctx.sleep("long", "7d")

    async with Environment(flow):
        batch, _ = await job.trigger(label="r1"), await wait.trigger(None, label="r1")
        assert await flow.cancel(label="r1", function=wait) == 1
        assert (await batch.status()).state == "pending"


async def test_ids_with_a_nul_are_ids_like_others(flow: Batchflow) -> None:
    """Each is processed once, and is none of those that begin alike."""
    ids = ["a", "a\0", "a\0b", "\0", "b\0a"]
    seen: list[str] = []

    @flow.batch(ids=ids, flow=None)
    async def greet(user_id: str) -> str:
        seen.append(user_id)
        return user_id

    async with Environment(flow) as env:
        await greet.mark(["a"])
        assert await greet.processed(ids) == {"a"}
        first = await env.run(greet)
        assert first.results == {id: id for id in ids[1:]}
        assert (await env.run(greet)).summary.counts.already_processed == 5
        assert sorted(seen) == sorted(ids[1:])
        assert await greet.forget(["a\0"]) == 1
        assert list((await env.run(greet)).results) == ["a\0"]
        assert list((await env.run(greet, ids=["a\0b"])).results) == ["a\0b"]
