"""`walk_first`: all items are walked and stored before the first one starts."""

from collections.abc import Sequence
from typing import Any

import pytest
import structlog

from batchflow import Batchflow, BatchSummary, BatchWorkflow, FlowControl, NonRetryable, NoParams, Page, WorkflowContext
from batchflow.core.dead_letters import DeadLetterQuery
from batchflow.core.ids import page_id
from batchflow.testing import Environment


class Rows(BatchWorkflow[NoParams, str, str]):
    """The fetch that most people write first: LIMIT and OFFSET over the rows that are not done yet."""

    entity = "row"
    walk_first = True
    entry_flow = execute_flow = None
    paginate_flow = FlowControl(rate=1)

    def __init__(self, rows: int = 300) -> None:
        self.left = [f"r{number:03}" for number in range(rows)]
        self.breaks_at = -1
        self.ended: list[BatchSummary] = []

    def count(self, params: NoParams) -> int:
        return len(self.left)

    def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        offset = int(cursor or 0)
        if offset == self.breaks_at:
            raise NonRetryable("the database is gone")
        ids = self.left[offset : offset + limit]
        return Page(ids=ids, next_cursor=str(offset + limit) if len(ids) == limit else None)

    def execute(self, row_id: str) -> str:
        self.left.remove(row_id)
        return row_id

    def on_complete(self, summary: BatchSummary) -> None:
        self.ended.append(summary)


class AtOnce(Rows):
    """The same, as it is by default."""

    walk_first = False


@pytest.fixture
def flow() -> Batchflow:
    return Batchflow("sqlite://")


@pytest.mark.parametrize("always_replay", [False, True])
async def test_a_source_that_changes_under_its_own_items_loses_none(flow: Batchflow, always_replay: bool) -> None:
    """The walk has ended before the first item can move the others."""
    made = Rows()
    rows = flow.add(made)
    async with Environment(flow, always_replay=always_replay) as env:
        batch = await env.run(rows)
        assert (batch.summary.counts.succeeded, made.left) == (300, [])
        assert (batch.summary.pages, batch.summary.chunks, batch.summary.counted) == (7, 18, None)
        assert made.ended == [batch.summary]


@pytest.mark.parametrize("always_replay", [False, True])
async def test_a_walk_that_names_fewer_than_were_counted_says_so(flow: Batchflow, always_replay: bool) -> None:
    """One warning at its end, and a sentence in summary and status, with what helps."""
    rows = flow.add(AtOnce())
    async with Environment(flow, always_replay=always_replay) as env:
        with structlog.testing.capture_logs() as lines:
            batch = await env.run(rows)
        (warning,) = [line for line in lines if line["log_level"] == "warning"]
        assert warning["event"] == "[at-once:paginate] The pages have named fewer items than count said"
        assert (warning["counted"], warning["named"]) == (300, 150)
        assert batch.summary.counted == (await batch.handle.status()).counted == 300
        assert "count said 300 and the pages have named 150: rows may have moved" in str(batch.summary)
        # Where less was asked for, less is named.
        with structlog.testing.capture_logs() as lines:
            assert (await env.run(rows, limit=20)).summary.counted is None
        assert [line for line in lines if line["log_level"] == "warning"] == []


async def test_nothing_starts_before_the_walk_has_ended(flow: Batchflow) -> None:
    """Totals are unknown until then, and exact from the first item on."""
    rows = flow.add(Rows(120))
    async with Environment(flow) as env:
        batch = await env.trigger(rows)
        await env.advance("1s")
        walking = await batch.handle.status()
        assert (walking.counts.eligible, walking.counts.started, walking.is_total_known) == (100, 0, False)
        await env.advance("1s")
        starting = await batch.handle.status()
        assert (starting.state, starting.total, starting.is_total_known) == ("open", 120, True)
        assert starting.counts.started < 120
        await env.drive()
        assert batch.summary.counts.succeeded == 120


class Named(Rows):
    """Names some ids twice, on several pages."""

    page_size = 4
    chunk_size = 2

    def __init__(self) -> None:
        super().__init__(0)
        self.left = ["a", "b", "a", "c", "d", "a", "e", "f", "g"]

    def execute(self, row_id: str) -> str:
        return row_id


@pytest.mark.parametrize(
    ("options", "succeeded", "total"),
    [({}, 5, 5), ({"force": True}, 7, 7), ({"limit": 3}, 3, 3), ({"limit": 3, "force": True}, 3, 3)],
)
async def test_a_walk_first_goes_with_limit_and_force(
    flow: Batchflow, options: dict[str, Any], succeeded: int, total: int
) -> None:
    """The total is what runs: without what is processed, beyond the limit, or named twice."""
    made = Named()
    rows = flow.add(made)
    async with Environment(flow) as env:
        await rows.mark(["b", "f"])
        batch = await env.run(rows, **options)
        counts = batch.summary.counts
        assert counts.succeeded == succeeded == total
        assert counts.eligible == counts.started + counts.skipped + counts.left_out
        assert (await batch.handle.status()).percent == 100.0


@pytest.mark.parametrize("rows", [0, 2])
async def test_a_walk_without_anything_to_do_ends(flow: Batchflow, rows: int) -> None:
    """An empty source, and one of which all is processed."""
    made = Rows(rows)
    workflow = flow.add(made)
    async with Environment(flow) as env:
        await workflow.mark(["r000", "r001"])
        batch = await env.run(workflow)
        assert (batch.summary.state, batch.summary.counts.started) == ("completed", 0)
        assert batch.summary.counts.already_processed == rows
        assert made.ended == [batch.summary]


@pytest.mark.parametrize("page", [0, 1, 5])
async def test_a_walk_first_that_breaks_off_starts_nothing(flow: Batchflow, page: int) -> None:
    """The batch has failed, what was stored of it is dropped, and `on_complete` is told; another one can do it all."""
    made = Rows()
    rows = flow.add(made)
    async with Environment(flow) as env:
        made.breaks_at = page * 50
        batch = await env.run(rows)
        assert (batch.summary.state, batch.summary.counts.started, len(made.left)) == ("failed", 0, 300)
        assert "the database is gone" in (batch.summary.error or "")
        assert made.ended == [batch.summary]
        assert (await batch.handle.status()).is_over
        made.breaks_at = -1
        assert (await env.run(rows)).summary.counts.succeeded == 300


async def test_a_walk_that_broke_off_is_not_taken_up_in_the_middle(flow: Batchflow) -> None:
    """Its page cannot be redriven: what the pages before had stored is gone."""
    made = Rows()
    rows = flow.add(made)
    async with Environment(flow) as env:
        made.breaks_at = 100
        batch = await env.run(rows)
        made.breaks_at = -1
        (letter,) = await flow.engine.store.dead_letters(DeadLetterQuery(batch=batch.id))
        assert not await flow.engine.store.redrive(letter.id)
        await env.drive()
        status = await batch.handle.status()
        assert (status.state, status.counts.started) == ("failed", 0)


async def test_a_page_that_fails_for_a_while_loses_nothing(flow: Batchflow) -> None:
    """A retry goes on where the walk is."""

    class Shaky(Rows):
        tries = 0

        def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
            self.tries += 1
            if self.tries % 2:
                raise OSError("a moment, please")
            return super().fetch(params, cursor, limit)  # type: ignore[return-value]

    made = Shaky()
    rows = flow.add(made)
    async with Environment(flow) as env:
        assert (await env.run(rows)).summary.counts.succeeded == 300
        assert made.left == []


async def test_a_walk_first_can_be_cancelled(flow: Batchflow) -> None:
    """While it walks, what it has stored goes with it."""
    made = Rows()
    rows = flow.add(made)
    async with Environment(flow) as env:
        batch = await env.trigger(rows)
        await env.advance("3s")
        assert await batch.handle.cancel()
        await env.drive()
        assert (batch.summary.state, batch.summary.counts.started, len(made.left)) == ("cancelled", 0, 300)


async def test_a_page_of_a_walk_first_can_be_cancelled(flow: Batchflow) -> None:
    """That breaks the walk off, as its failure does."""
    made = Rows()
    rows = flow.add(made)
    async with Environment(flow) as env:
        batch = await env.trigger(rows)
        await env.advance("3s")
        assert await flow.cancel(page_id(batch.handle.id, 4)) == 1
        await env.drive()
        assert (batch.summary.state, batch.summary.counts.started, len(made.left)) == ("failed", 0, 300)


async def test_a_walk_first_as_a_child(flow: Batchflow) -> None:
    """A waiting run gets its end, and the failure of its walk."""
    made = Rows()
    rows = flow.add(made)

    @flow.serve("/parent")
    async def parent(ctx: WorkflowContext[None]) -> list[str]:
        first = await ctx.invoke("first", rows, NoParams())
        return [first.state, str(first.counts.succeeded)]

    async with Environment(flow) as env:
        made.breaks_at = 100
        assert (await env.run(parent, None)).result == ["failed", "0"]
        made.breaks_at = -1
        assert (await env.run(parent, None)).result == ["completed", "300"]


async def test_marks_that_a_filter_passes_over_hold_to_the_end_of_the_walk(flow: Batchflow) -> None:
    """A marked item that a custom filter returns runs, though it starts much later."""

    class Again(Named):
        def filter(self, params: NoParams, ids: Sequence[str]) -> list[str]:
            return [id for id in ids if id != "c"]

    rows = flow.add(Again())
    async with Environment(flow) as env:
        await rows.mark(["a", "g"])
        assert sorted((await env.run(rows)).results) == ["a", "b", "d", "e", "f", "g"]
