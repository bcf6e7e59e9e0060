"""`flow.dead_letters`: searching, resuming with a canary, restarting, deleting."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from batchflow import Batchflow, BatchSummary, FlowControl, NonRetryable, NoParams, Page, WorkflowContext
from batchflow.batch.workflow import BatchWorkflow
from batchflow.errors import ConfigurationError, InputError, NotFoundError, RunFailed

MENDED: set[str] = set()
"""The items that have been repaired."""


class Charges(BatchWorkflow[NoParams, str, str]):
    """Every item fails until it is mended; what is recorded before that is counted."""

    name = "charges"
    entity = "card"
    entry_flow = paginate_flow = execute_flow = None

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.completed: list[int] = []

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page(ids=[f"c{number}" for number in range(8)])

    async def load(self, card_id: str) -> str:
        self.loaded.append(card_id)
        return card_id

    async def execute(self, card: str) -> str:
        if card not in MENDED:
            raise NonRetryable(f"card {card} is declined")
        return card

    async def on_complete(self, summary: BatchSummary) -> None:
        self.completed.append(summary.counts.succeeded)


@pytest.fixture
async def app() -> AsyncIterator[tuple[Batchflow, Any, Charges]]:
    """An app with a worker and a batch of which every item is a dead letter."""
    MENDED.clear()
    flow, charges = Batchflow("sqlite://"), Charges()
    workflow = flow.add(charges)
    async with flow:
        batch = await workflow.trigger()
        await batch.wait(30)
        yield flow, batch, charges


async def test_resume_goes_on_from_where_an_item_failed(app: tuple[Batchflow, Any, Charges]) -> None:
    """Its recorded steps stay; its batch is open again, and on_complete runs once more when it ends."""
    flow, batch, charges = app
    assert (charges.completed, len(charges.loaded)) == ([0], 8)
    MENDED.update({"c1", "c2"})
    page = await flow.dead_letters.list(batch_id=batch.id, item="c1")
    result = await flow.dead_letters.resume(page.letters[0].id)
    assert (result.count, result.ids, result.refused) == (1, [page.letters[0].id], [])
    assert (await batch.wait(30)).counts.succeeded == 1
    assert (charges.completed, len(charges.loaded)) == ([0, 1], 8)
    again = await flow.dead_letters.resume(page.letters[0].id)
    assert (again.count, again.refused) == (0, [page.letters[0].id])


async def test_restart_runs_an_item_from_the_beginning(app: tuple[Batchflow, Any, Charges]) -> None:
    """With other retries and limits, where these are given."""
    flow, batch, charges = app
    MENDED.update(f"c{number}" for number in range(8))
    slow = FlowControl(key="slow", parallelism=1)
    result = await flow.dead_letters.restart(workflow="charges", retries=1, flow_control=slow)
    assert result.count == 8
    assert (await batch.wait(30)).counts.succeeded == 8
    assert sorted(charges.loaded) == sorted([f"c{number}" for number in range(8)] * 2)
    assert (await flow.dead_letters.list()).letters == []


async def test_a_canary_goes_first(app: tuple[Batchflow, Any, Charges]) -> None:
    """The others follow once it has succeeded."""
    flow, batch, charges = app
    MENDED.update(f"c{number}" for number in range(8))
    (group,) = await flow.dead_letters.groups()
    assert (group.size, group.type) == (8, "NonRetryable")
    result = await flow.dead_letters.resume(group=group.fingerprint, canary=3)
    assert (result.count, result.failed) == (8, [])
    assert (await batch.wait(30)).counts.succeeded == 8
    assert charges.completed[-1] == 8


async def test_a_canary_that_fails_leaves_the_others_alone(app: tuple[Batchflow, Any, Charges]) -> None:
    """They are dead letters as before, and the result names the ones that have failed again."""
    flow, batch, _ = app
    latest = [letter.item for letter in (await flow.dead_letters.list(limit=3)).letters]
    MENDED.update(str(item) for item in latest[:2])
    result = await flow.dead_letters.resume(batch_id=batch.id, canary=3)
    assert (result.count, len(result.failed)) == (3, 1)
    assert (await flow.dead_letters.get(result.failed[0])).item == latest[2]
    assert len((await flow.dead_letters.list()).letters) == 6
    assert (await batch.wait(30)).counts.failed == 6


async def test_a_canary_of_listed_ids_is_the_first_of_them(app: tuple[Batchflow, Any, Charges]) -> None:
    """Each is redriven once."""
    flow, _, _ = app
    MENDED.update(f"c{number}" for number in range(8))
    ids = [letter.id for letter in (await flow.dead_letters.list()).letters]
    result = await flow.dead_letters.resume(*ids, canary=1)
    assert (result.count, result.ids, result.refused) == (8, ids, [])


async def test_a_canary_of_all_listed_ids_redrives_nothing_else(app: tuple[Batchflow, Any, Charges]) -> None:
    """That none of them are left does not mean all dead letters."""
    flow, _, _ = app
    MENDED.update(f"c{number}" for number in range(8))
    id, *others = [letter.id for letter in (await flow.dead_letters.list()).letters]
    result = await flow.dead_letters.resume(id, canary=3)
    assert (result.count, result.ids, result.refused) == (1, [id], [])
    assert [letter.id for letter in (await flow.dead_letters.list()).letters] == others


async def test_pages_and_filters(app: tuple[Batchflow, Any, Charges]) -> None:
    """A cursor leads to the next page; a filter narrows it."""
    flow, batch, _ = app
    first = await flow.dead_letters.list(limit=5)
    second = await flow.dead_letters.list(limit=5, cursor=first.next_cursor)
    assert (len(first.letters), len(second.letters), second.next_cursor) == (5, 3, None)
    assert len({letter.id for letter in [*first.letters, *second.letters]}) == 8
    assert (await flow.dead_letters.list(status=504)).letters == []
    assert len((await flow.dead_letters.list(url="https://x/charges/execute-card", batch_id=batch.id)).letters) == 8


async def test_delete_removes_for_good(app: tuple[Batchflow, Any, Charges]) -> None:
    """The items stay failed, and nothing can be resumed."""
    flow, batch, _ = app
    ids = [letter.id for letter in (await flow.dead_letters.list()).letters]
    assert (await flow.dead_letters.delete(all=True)).count == 8
    assert (await flow.dead_letters.resume(*ids)).count == 0
    assert (await batch.status()).counts.failed == 8
    with pytest.raises(NotFoundError, match="no dead letter"):
        await flow.dead_letters.get(ids[0])


async def test_two_operators_who_want_opposite_things_both_get_an_answer(app: tuple[Batchflow, Any, Charges]) -> None:
    """One resumes all, one deletes all, one cancels the batch: each letter goes one way, and the counts add up."""
    flow, batch, _ = app
    MENDED.update(f"c{number}" for number in range(8))
    ids = [letter.id for letter in (await flow.dead_letters.list()).letters]
    resuming = asyncio.create_task(flow.dead_letters.resume(*ids))
    deleting = asyncio.create_task(flow.dead_letters.delete(*reversed(ids)))
    await batch.cancel()
    resumed, deleted = await resuming, await deleting
    assert not set(resumed.ids) & set(deleted.ids)
    await batch.wait(30)
    counts = (await batch.status()).counts
    assert (counts.open, counts.started) == (0, 8)
    left = {letter.id for letter in (await flow.dead_letters.list()).letters}
    assert left | set(resumed.ids) | set(deleted.ids) == set(ids)
    assert counts.failed == 8 - len(resumed.ids)


@pytest.mark.parametrize(
    ("options", "field", "phrase"),
    [
        ({}, "ids", "say which dead letters"),
        ({"status": 5}, "status", "write a status"),
        ({"label": 7}, "label", "the label of a run or batch"),
        ({"since": "now"}, "since", "time zone"),
        ({"all": True, "retries": -1}, "retries", "write a number"),
        ({"all": True, "canary": 0}, "canary", "write a number"),
    ],
)
async def test_what_is_not_valid_is_refused(options: dict[str, Any], field: str, phrase: str) -> None:
    """Before anything is redriven."""
    async with Batchflow("sqlite://", worker=False) as flow:
        with pytest.raises(InputError, match=phrase) as raised:
            await flow.dead_letters.resume(**options)
        assert raised.value.field == field or raised.value.option == field


async def test_a_misspelt_filter_is_refused() -> None:
    """It would widen the command."""
    async with Batchflow("sqlite://", worker=False) as flow:
        with pytest.raises(ConfigurationError, match="did you mean 'label'"):
            await flow.dead_letters.delete(lable="x")  # pyright: ignore[reportCallIssue]
        with pytest.raises(InputError, match="by their ids or by a filter"):
            await flow.dead_letters.delete("a", label="x")
        with pytest.raises(ConfigurationError, match="key"):
            await flow.dead_letters.resume("a", flow_control=FlowControl(parallelism=1))


async def test_a_run_goes_on_with_the_child_that_it_has_failed_with() -> None:
    """The step that waited for the child waits again; what both had recorded stays."""
    healthy, steps = False, list[str]()
    flow = Batchflow("sqlite://")

    @flow.serve("/child", retries=0)
    async def child(ctx: WorkflowContext[int]) -> int:
        await ctx.run("early", steps.append, "early")
        if not healthy:
            raise NonRetryable("the child is ill")
        return ctx.payload + 1

    @flow.serve("/parent", retries=0)
    async def parent(ctx: WorkflowContext[int]) -> int:
        await ctx.run("first", steps.append, "first")
        return await ctx.invoke("child", child, ctx.payload)

    async with flow:
        run = await parent.trigger(6)
        with pytest.raises(RunFailed, match="the child is ill"):
            await run.wait(30)
        healthy = True
        assert (await flow.dead_letters.resume(run.id)).count == 1
        assert await run.wait(30) == 7
        assert steps == ["first", "early"]
        assert (await flow.dead_letters.list()).letters == []
