"""`trigger(canary=…)`: the first items run, and all others wait until the batch is approved."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
import structlog

from batchflow import Batchflow, BatchHandle, BatchWorkflow, NoParams, Page, RetryPolicy
from batchflow.batch.bound import Workflow
from batchflow.errors import InputError
from batchflow.testing import Environment


class Rows(BatchWorkflow[NoParams, str, str]):
    """A source of rows; those in `bad` fail for good."""

    entity = "row"
    page_size, chunk_size = 10, 4
    entry_flow = paginate_flow = execute_flow = None
    retry = RetryPolicy(retries=0)

    def __init__(self, ids: Sequence[str] = (), *, bad: Sequence[str] = ()) -> None:
        self.ids = list(ids) or [f"r{number:02}" for number in range(35)]
        self.bad = set(bad)
        self.ran: list[str] = []

    def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        offset = int(cursor or 0)
        ids = self.ids[offset : offset + limit]
        return Page(ids=ids, next_cursor=str(offset + limit) if offset + limit < len(self.ids) else None)

    def execute(self, row_id: str) -> str:
        self.ran.append(row_id)
        if row_id in self.bad:
            raise ValueError(row_id)
        return row_id


class WalkedFirst(Rows):
    """The same, walked before anything starts."""

    walk_first = True


@pytest.fixture
def flow() -> Batchflow:
    return Batchflow("sqlite://")


async def driven(env: Environment, rows: Workflow[Any, Any], **options: Any) -> BatchHandle[Any]:
    """A batch after all that may run has run."""
    batch = await rows.trigger(**options)
    await env.drive()
    return batch


async def ids_of(batch: BatchHandle[Any]) -> list[str]:
    return sorted([item.id async for item in batch.items()])


@pytest.mark.parametrize("made", [Rows, WalkedFirst])
@pytest.mark.parametrize("canary", [1, 4, 7, 10, 15, 20, 34])
@pytest.mark.parametrize("always_replay", [False, True])
async def test_a_canary_runs_alone_and_all_others_after_its_approval(
    flow: Batchflow, made: type[Rows], canary: int, always_replay: bool
) -> None:
    """Whatever pages and chunks it ends in: the first of the walk, then all, each once."""
    rows = flow.add(work := made())
    async with Environment(flow, always_replay=always_replay) as env:
        batch = await driven(env, rows, canary=canary)
        status = await batch.status()
        assert sorted(work.ran) == work.ids[:canary]
        assert (status.state, status.counts.succeeded, status.needs_approval) == ("open", canary, True)
        assert status.wait_reason is not None
        assert status.wait_reason.code == "approval"
        assert f"'batchflow batches approve {batch.id}'" in status.wait_reason.sentence
        assert await batch.approve()
        await env.drive()
        summary = await batch.wait()
        assert (summary.state, summary.counts.succeeded, summary.counts.eligible) == ("completed", 35, 35)
        assert sorted(work.ran) == work.ids
        assert not (await batch.status()).needs_approval


@pytest.mark.parametrize("made", [Rows, WalkedFirst])
@pytest.mark.parametrize("canary", [35, 36, 1_000])
async def test_a_batch_with_no_more_items_than_its_canary_completes(
    flow: Batchflow, made: type[Rows], canary: int
) -> None:
    """There is nothing to approve."""
    rows = flow.add(work := made())
    async with Environment(flow) as env:
        summary = await (await driven(env, rows, canary=canary)).wait()
        assert (summary.state, summary.counts.succeeded) == ("completed", 35)
        assert sorted(work.ran) == work.ids


@pytest.mark.parametrize(("bad", "goes_on"), [(0, True), (1, True), (2, False)])
async def test_a_canary_with_few_failures_approves_its_batch(flow: Batchflow, bad: int, goes_on: bool) -> None:
    """At or under the share; above it an operator has to."""
    rows = flow.add(work := Rows(bad=[f"r{number:02}" for number in range(bad)]))
    async with Environment(flow) as env:
        with structlog.testing.capture_logs() as lines:
            batch = await driven(env, rows, canary=20, approve_under=0.05)
            await asyncio.sleep(0)
        said = [(line["event"], line["ended"], line["failed"]) for line in lines if "canary" in line]
        word = "The canary approves the batch" if goes_on else "Waits for approval"
        assert said == [(f"[rows:process] {word}", 20, bad)]
        assert (await batch.status()).needs_approval is not goes_on
        assert len(work.ran) == (35 if goes_on else 20)
        assert await batch.approve() is not goes_on
        await env.drive()
        assert (await batch.wait()).counts.failed == bad


@pytest.mark.parametrize("made", [Rows, WalkedFirst])
async def test_a_canary_counts_items_that_really_run(flow: Batchflow, made: type[Rows]) -> None:
    """Not those that are processed already, that the walk names twice, or that another batch has in flight."""
    ids = [f"r{number:02}" for number in range(35)]
    rows = flow.add(work := made([*ids[:8], *ids[:8], *ids[8:]]))
    async with Environment(flow) as env:
        await rows.mark(ids[:3])
        batch = await driven(env, rows, canary=9)
        assert sorted(work.ran) == ids[3:12]
        await batch.approve()
        await env.drive()
        assert (await batch.wait()).counts.succeeded == 32
        assert sorted(work.ran) == ids[3:]


@pytest.mark.parametrize("made", [Rows, WalkedFirst])
@pytest.mark.parametrize("options", [{"limit": 12}, {"limit": 20, "force": True}, {"limit": 10}])
async def test_a_canary_goes_with_a_limit(flow: Batchflow, made: type[Rows], options: dict[str, Any]) -> None:
    """Which counts the items of the canary too."""
    rows = flow.add(work := made())
    async with Environment(flow) as env:
        batch = await driven(env, rows, canary=5, **options)
        assert sorted(work.ran) == work.ids[:5]
        await batch.approve()
        await env.drive()
        assert (await batch.wait()).counts.succeeded == options["limit"]


@pytest.mark.parametrize("count", [3, 4, 11])
@pytest.mark.parametrize("made", [Rows, WalkedFirst])
async def test_a_canary_of_named_ids_are_the_first_of_them(flow: Batchflow, made: type[Rows], count: int) -> None:
    """The others are stored with the trigger, and wait."""
    rows = flow.add(work := made())
    named = [f"x{number:03}" for number in range(300)]
    async with Environment(flow) as env:
        batch = await driven(env, rows, ids=named, canary=count)
        assert sorted(work.ran) == named[:count]
        assert (await batch.status()).total == 300
        assert (await batch.status()).wait_reason is not None
        await batch.approve()
        await env.drive()
        assert (await batch.wait()).counts.succeeded == 300


@pytest.mark.parametrize("made", [Rows, WalkedFirst])
@pytest.mark.parametrize("options", [{}, {"ids": [f"x{number}" for number in range(30)]}])
async def test_an_early_approval_lets_everything_run(
    flow: Batchflow, made: type[Rows], options: dict[str, Any]
) -> None:
    """Before the entry has run, as a batch without canary does."""
    rows = flow.add(made())
    async with Environment(flow) as env:
        batch = await rows.trigger(canary=5, **options)
        assert await batch.approve()
        assert not await batch.approve()
        await env.drive()
        assert (await batch.wait()).state == "completed"


@pytest.mark.parametrize("made", [Rows, WalkedFirst])
async def test_a_failed_item_of_a_canary_can_be_redriven_before_the_approval(flow: Batchflow, made: type[Rows]) -> None:
    """It runs, and with it few enough have failed."""
    rows = flow.add(work := made(bad=["r00"]))
    async with Environment(flow) as env:
        batch = await driven(env, rows, canary=10, approve_under=0)
        assert len(work.ran) == 10
        work.bad.clear()
        (letter,) = (await flow.dead_letters.list()).letters
        await flow.dead_letters.resume(letter.id)
        await env.drive()
        assert (await batch.wait()).counts.succeeded == 35


async def test_pause_resume_and_cancel_work_before_the_approval(flow: Batchflow) -> None:
    """To resume does not approve."""
    rows = flow.add(work := Rows())
    async with Environment(flow) as env:
        batch = await driven(env, rows, canary=10)
        assert not await batch.resume()
        assert await batch.pause()
        assert await batch.resume()
        await env.drive()
        assert len(work.ran) == 10
        assert await batch.cancel()
        await env.drive()
        assert not await batch.approve()
        status = await batch.status()
        assert (status.state, status.needs_approval, len(work.ran)) == ("cancelled", False, 10)


@pytest.mark.parametrize("value", [0, -1, True, 2.5, "20", 1_001])
async def test_a_canary_of_another_number_is_refused(flow: Batchflow, value: Any) -> None:
    """With one sentence; nothing is started."""
    rows = flow.add(Rows())
    async with Environment(flow):
        with pytest.raises(InputError, match="write a whole number from 1 to 1,000") as refused:
            await rows.trigger(canary=value)
        assert refused.value.field == "canary"
        assert await rows.batches() == []


@pytest.mark.parametrize("value", [5, -0.1, True, "5%", float("nan")])
async def test_a_share_of_failures_is_between_0_and_1(flow: Batchflow, value: Any) -> None:
    """And only of a canary."""
    rows = flow.add(Rows())
    async with Environment(flow):
        with pytest.raises(InputError, match="from 0 to 1, such as 0.05") as refused:
            await rows.trigger(canary=20, approve_under=value)
        assert refused.value.field == "approveUnder"
        with pytest.raises(InputError, match="canary=20"):
            await rows.trigger(approve_under=0.1)
