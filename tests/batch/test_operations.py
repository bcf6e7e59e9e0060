"""Batches are paused, resumed and cancelled: one, several, or all open ones of a label or a workflow."""

import asyncio
from typing import Any

import pytest

from batchflow import Batchflow, BatchWorkflow, FlowControl, NoParams, Page, WorkflowContext
from batchflow.errors import InputError, NotFoundError
from batchflow.testing import Environment


class Job(BatchWorkflow[NoParams, str, str]):
    entry_flow = paginate_flow = None
    execute_flow = FlowControl(parallelism=2)

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page(ids=["a", "b", "c", "d"])

    async def filter(self, params: NoParams, ids: Any) -> Any:
        return ids

    async def execute(self, item_id: str) -> str:
        return item_id


class Other(Job):
    pass


class Held(Job):
    """Its items wait for each other to be let go."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.full, self.go = asyncio.Event(), asyncio.Event()

    async def execute(self, item_id: str) -> str:
        self.begun.append(item_id)
        if len(self.begun) == 2:
            self.full.set()
        await self.go.wait()
        return item_id


@pytest.fixture
def flow() -> Batchflow:
    return Batchflow("sqlite://")


async def test_a_paused_batch_starts_nothing_until_it_is_resumed(flow: Batchflow) -> None:
    """Its status says so; both verbs may be repeated."""
    job = flow.add(Job())
    async with Environment(flow) as env:
        batch = await job.trigger()
        assert await batch.pause()
        assert await batch.pause()
        await env.advance("1h")
        status = await batch.status()
        assert (status.paused, status.state, status.counts.started) == (True, "pending", 0)
        assert await batch.resume()
        assert not await batch.resume()
        await env.drive()
        status = await batch.status()
        assert (status.paused, status.state, status.counts.succeeded) == (False, "completed", 4)
        assert not await batch.pause()


async def test_items_under_way_go_on_to_their_end_when_their_batch_is_paused() -> None:
    """Those that wait stay where they are."""
    flow = Batchflow("sqlite://")
    held = Held()
    job = flow.add(held)
    async with flow:
        batch = await job.trigger()
        await held.full.wait()
        assert await batch.pause()
        held.go.set()
        status = await batch.status()
        async for status in batch.progress(0.01):
            if status.counts.succeeded == 2:
                break
        assert (status.counts.open, len(held.begun)) == (2, 2)
        assert await batch.resume()
        assert (await batch.wait(30)).counts.succeeded == 4


async def test_batches_of_a_label_or_a_workflow_are_paused_and_resumed(flow: Batchflow) -> None:
    """All that are open; later ones are not, nor are those of others."""
    job, other = flow.add(Job()), flow.add(Other())
    async with Environment(flow) as env:
        nightly = [await job.trigger(label="nightly"), await other.trigger(label="nightly")]
        mine = await job.trigger()
        assert await flow.pause(label="nightly") == 2
        assert await flow.pause(workflow=job) == 2
        assert await flow.pause(workflow="other", label="nightly") == 1
        later = await job.trigger(label="nightly")
        await env.drive()
        assert [(await it.status()).state for it in (*nightly, mine, later)] == ["pending"] * 3 + ["completed"]
        assert await flow.resume(label="nightly") == 2
        assert await flow.resume(workflow=job) == 1
        assert await flow.resume(label="nightly") == 0
        await env.drive()
        assert {(await it.status()).state for it in (*nightly, mine)} == {"completed"}


async def test_more_batches_than_a_read_returns_are_all_paused(
    flow: Batchflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each once, the newest first."""
    monkeypatch.setattr("batchflow.batch.operations._BATCHES_PER_READ", 3)
    job = flow.add(Job())
    async with Environment(flow):
        batches = [await job.trigger() for _ in range(10)]
        assert await flow.pause(workflow=job) == 10
        assert all([(await it.status()).paused for it in batches])
        assert await flow.resume([it.id for it in batches]) == 10


async def test_cancel_ends_batches_by_id_label_or_workflow(flow: Batchflow) -> None:
    """Beside runs where the ids or the label are those of runs; a paused batch, too."""
    job, other = flow.add(Job()), flow.add(Other())

    @flow.serve("/wait")
    async def wait(ctx: WorkflowContext[None]) -> None:
        await ctx.sleep("long", "7d")

    async with Environment(flow) as env:
        first, second, third = [await it.trigger(label="x") for it in (job, other, job)]
        run = await wait.trigger(None, label="x")
        await first.pause()
        assert await flow.cancel([first.id, run.id, "bat_unknown"]) == 2
        assert await flow.cancel(workflow=other) == 1
        assert await flow.cancel(label="x", workflow=other) == 0
        assert await flow.cancel(label="x") == 1
        await env.drive()
        assert {(await it.status()).state for it in (first, second, third, run)} == {"cancelled"}


@pytest.mark.parametrize("verb", ["pause", "resume", "cancel"])
async def test_a_selection_that_selects_nothing_or_too_much_is_refused(flow: Batchflow, verb: str) -> None:
    """Nothing changes then."""
    job = flow.add(Job())
    act: Any = getattr(flow, verb)
    async with Environment(flow):
        batch = await job.trigger(label="x")
        with pytest.raises(InputError, match="^say w"):
            await act()
        with pytest.raises(InputError, match="^'ids' and 'label' exclude each other"):
            await act(batch.id, label="x")
        with pytest.raises(NotFoundError, match="there is no workflow 'jop'; did you mean 'job'"):
            await act(workflow="jop")
        with pytest.raises(InputError, match="its id is"):
            await act([batch])
        with pytest.raises(InputError, match="^'workflow' cannot be"):
            await act(workflow=Job)
        assert (await batch.status()).state == "pending"
        assert not (await batch.status()).paused
