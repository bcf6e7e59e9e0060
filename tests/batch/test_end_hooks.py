"""`on_success`, `on_failure` and `on_complete`: the hooks at the end of a batch."""

from collections.abc import Sequence
from typing import Any

import pytest

from batchflow import Batchflow, BatchSummary, BatchWorkflow, NonRetryable, NoParams, Page, RetryPolicy
from batchflow.errors import BatchFailed
from batchflow.testing import Environment


class Silent(BatchWorkflow[NoParams, str, int]):
    """It has none of these hooks."""

    entry_flow = paginate_flow = execute_flow = None
    retry = RetryPolicy(retries=1, first="1s")

    def __init__(self, ids: Sequence[str] = ("1", "2", "3")) -> None:
        self.ids = ids
        self.called: list[str] = []
        self.seen: list[tuple[str, Any]] = []
        self.fails: dict[str, list[Exception]] = {}

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        if not self.ids:
            raise NonRetryable("no source")
        return Page(ids=self.ids)

    async def execute(self, item_id: str) -> int:
        if not item_id.isdigit():
            raise NonRetryable(f"{item_id} is not a number")
        return int(item_id)


class Job(Silent):
    async def tell(self, name: str, summary: BatchSummary) -> None:
        self.called.append(name)
        if errors := self.fails.get(name):
            raise errors.pop(0)
        self.seen += [(name, summary.counts.succeeded)]

    async def on_success(self, summary: BatchSummary) -> None:
        await self.tell("on_success", summary)

    async def on_failure(self, summary: BatchSummary) -> None:
        await self.tell("on_failure", summary)

    async def on_complete(self, summary: BatchSummary) -> None:
        await self.tell("on_complete", summary)


@pytest.mark.parametrize(
    ("ids", "called"),
    [
        (["1", "2"], ["on_success", "on_complete"]),
        (["1", "x"], ["on_failure", "on_complete"]),
        ([], ["on_failure", "on_complete"]),
    ],
    ids=["all succeed", "one fails", "the walk fails"],
)
@pytest.mark.parametrize("replay", [False, True])
async def test_a_batch_calls_the_hooks_of_its_end_once(ids: list[str], called: list[str], replay: bool) -> None:
    """`on_success` or `on_failure`, and then `on_complete`."""
    job, flow = Job(ids), Batchflow("sqlite://")
    workflow = flow.add(job)
    async with Environment(flow, always_replay=replay) as env:
        await workflow.trigger()
        await env.drive()
    assert job.called == called


async def test_a_cancelled_batch_calls_on_failure() -> None:
    """With the reason in its summary."""
    job, flow = Job(), Batchflow("sqlite://")
    workflow = flow.add(job)
    async with Environment(flow) as env:
        batch = await workflow.trigger()
        await batch.cancel()
        await env.drive()
        assert "was cancelled" in (await batch.wait()).failure()
    assert job.called == ["on_failure", "on_complete"]


async def test_a_workflow_may_have_one_of_these_hooks_alone() -> None:
    """The others are nothing."""
    told: list[str] = []

    class Told(Silent):
        async def on_success(self, summary: BatchSummary) -> None:
            told.append(str(summary))

    flow = Batchflow("sqlite://")
    workflow = flow.add(Told())
    async with Environment(flow) as env:
        await workflow.trigger()
        await env.drive()
        await workflow.trigger(ids=["x"])
        await env.drive()
    (sentence,) = told
    assert "3 succeeded" in sentence


async def test_each_hook_of_the_end_has_its_own_attempts() -> None:
    """One that has succeeded is not called again for the failure of the next."""
    job, flow = Job(), Batchflow("sqlite://")
    workflow = flow.add(job)
    job.fails = {"on_success": [OSError("busy")], "on_complete": [OSError("busy")]}
    async with Environment(flow) as env:
        await workflow.trigger()
        await env.advance("10s")
    assert job.called == ["on_success", "on_success", "on_complete", "on_complete"]


async def test_on_complete_is_called_although_on_success_fails() -> None:
    """The batch has not succeeded then: its completion failed."""
    job, flow = Job(), Batchflow("sqlite://")
    workflow = flow.add(job)
    job.fails = {"on_success": [OSError("gone"), OSError("gone")]}
    async with Environment(flow) as env:
        batch = await workflow.trigger()
        await env.advance("10s")
        with pytest.raises(BatchFailed, match="gone"):
            await batch.wait(check=True)
        assert "gone" in ((await batch.status()).completion_error or "")
    assert job.called == ["on_success", "on_success", "on_complete"]


async def test_on_success_is_not_repeated_by_a_crash_in_on_complete() -> None:
    """It is durable before `on_complete` begins."""
    job, flow = Job(), Batchflow("sqlite://")
    workflow = flow.add(job)
    async with Environment(flow) as env:
        # After those of the items.
        env.crash_after(4)
        batch = await workflow.trigger()
        await env.advance("5m")
        assert (await batch.status()).is_over
    assert job.called == ["on_success", "on_complete"]


async def test_hooks_of_the_end_go_through_the_outcomes() -> None:
    """All of them, or those in one state, with results in their type."""
    found: dict[str, object] = {}

    class Reading(Job):
        async def on_failure(self, summary: BatchSummary) -> None:
            found["failed"] = [(item.id, (item.error or "").split(":")[0]) async for item in self.outcomes("failed")]
            found["all"] = [(item.id, item.result) async for item in self.outcomes()]

    flow = Batchflow("sqlite://")
    workflow = flow.add(Reading(["1", "x", "2"]))
    async with Environment(flow) as env:
        await workflow.trigger()
        await env.drive()
    assert found == {"failed": [("x", "NonRetryable")], "all": [("1", 1), ("x", None), ("2", 2)]}


async def test_outcomes_are_those_of_a_batch() -> None:
    """Outside of its hooks there are none."""
    with pytest.raises(RuntimeError, match="inside the hooks"):
        Job().outcomes()
