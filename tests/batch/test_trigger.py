"""The options of a trigger: ids of one's own, dedup ids, times, headers."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import structlog
from pydantic import BaseModel

from batchflow import Batchflow, BatchSummary, BatchWorkflow, NoParams, Page, WorkflowContext
from batchflow.batch.arguments import BatchTrigger
from batchflow.batch.trigger import prepare_batch, trigger_messages
from batchflow.core.ids import item_run_id, parse_item_run_id
from batchflow.errors import BatchflowError, ConfigurationError, InputError
from batchflow.testing import Environment


class Job(BatchWorkflow[NoParams, str, str]):
    entry_flow = paginate_flow = execute_flow = None

    def __init__(self) -> None:
        self.seen: list[dict[str, str]] = []

    def count(self, params: NoParams) -> int:
        self.seen.append(dict(self.headers))
        return 2

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        self.seen.append(dict(self.headers))
        return Page(ids=["a"], next_cursor="1") if cursor is None else Page(ids=["b"])

    async def filter(self, params: NoParams, ids: Sequence[str]) -> list[str]:
        self.seen.append(dict(self.headers))
        return list(ids)

    async def process(self, ctx: WorkflowContext[NoParams], item: str) -> str:
        self.seen += dict(ctx.headers), dict(self.headers)
        return item

    def on_complete(self, summary: BatchSummary) -> None:
        self.seen.append(dict(self.headers))


class Other(Job):
    pass


@pytest.fixture
def flow() -> Batchflow:
    return Batchflow("sqlite://")


async def test_headers_reach_every_hook_and_no_log(flow: Batchflow) -> None:
    """`ctx.headers` of an item and `self.headers` of all hooks show them; no line of the log does."""
    made = Job()
    job = flow.add(made)
    async with Environment(flow) as env:
        with structlog.testing.capture_logs() as lines:
            await env.run(job, headers={"authorization": "secret-7"})
        assert made.seen == [{"authorization": "secret-7"}] * 10
        assert "secret-7" not in str(lines)
        await job.dry_run()
        assert made.seen[-1] == {}


@pytest.mark.parametrize("ids", [None, ["x"], [f"i{n}" for n in range(5_000)]])
async def test_a_batch_starts_after_a_delay(flow: Batchflow, ids: list[str] | None) -> None:
    """Nothing of it runs before, whether its ids are named or fetched; as long as a duration of any kind says."""
    job = flow.add(Job())
    async with Environment(flow) as env:
        now = datetime.fromtimestamp(env.clock.now() / 1000, UTC)
        starts: list[dict[str, Any]] = [
            {"delay": "1h"},
            {"delay": 3600},
            {"delay": timedelta(hours=1)},
            {"not_before": now + timedelta(hours=1)},
            {"not_before": env.clock.now() + 3_600_000},
        ]
        batches = [await env.trigger(job, ids=ids, **start) for start in starts]
        await env.advance("59m")
        assert {(await batch.handle.status()).state for batch in batches} == {"pending"}
        await env.drive()
        assert {batch.summary.state for batch in batches} == {"completed"}
        assert all(batch.summary.duration_ms >= 3_600_000 for batch in batches)


async def test_a_time_that_has_passed_is_now(flow: Batchflow) -> None:
    """It is not an error, and nothing waits."""
    job = flow.add(Job())
    async with Environment(flow) as env:
        assert (await env.run(job, not_before=datetime(2001, 1, 1, tzinfo=UTC))).summary.duration_ms < 1_000


async def test_a_batch_has_an_id_of_ones_own(flow: Batchflow) -> None:
    """It is stored as given, its items' runs are found by it, and a second trigger with it starts nothing."""
    job = flow.add(Job())
    async with Environment(flow) as env:
        first = await job.trigger(batch_id="bat_Nightly_2030-01-01")
        assert (first.id, first.deduplicated) == ("bat_Nightly_2030-01-01", False)
        again = await job.trigger(batch_id="bat_Nightly_2030-01-01", force=True)
        assert (again.id, again.deduplicated) == (first.id, True)
        await env.drive()
        assert [item.id async for item in job.batch(first.id).items("succeeded")] == ["a", "b"]
        assert [run.item for run in env.runs if run.item] == ["a", "b"]
        assert parse_item_run_id(item_run_id(first.id, 50)) == (first.id, 50)
        assert (await job.trigger(batch_id=first.id)).deduplicated


async def test_a_known_id_of_another_workflow_is_refused(flow: Batchflow) -> None:
    """Its handle would be of another type."""
    job, other = flow.add(Job()), flow.add(Other())
    async with Environment(flow):
        await job.trigger(batch_id="bat_7")
        with pytest.raises(InputError) as refused:
            await other.trigger(batch_id="bat_7")
        assert "'batch_id' cannot be 'bat_7', which is a batch of 'job'" in str(refused.value)


async def test_a_dedup_id_is_a_workflows_own(flow: Batchflow) -> None:
    """Two workflows with one dedup id have two batches; one workflow has one, and its handle says so."""
    job, other = flow.add(Job()), flow.add(Other())
    async with Environment(flow) as env:
        for dedup in ("kept", "open"):
            first, second = await job.trigger(dedup_id="x", dedup=dedup), await other.trigger(dedup_id="x", dedup=dedup)
            assert first.id != second.id
            assert (first.deduplicated, second.deduplicated) == (False, False)
            again = await job.trigger(dedup_id="x", dedup=dedup)
            assert (again.id, again.deduplicated) == (first.id, True)
            await env.drive()
            assert [(await it.status()).workflow for it in (first, second)] == ["job", "other"]
        assert (await job.trigger(dedup_id="x")).deduplicated


async def test_a_dedup_id_is_a_functions_own(flow: Batchflow) -> None:
    """Two functions with one dedup id have two runs; one function has one, and its handle says so."""

    @flow.serve("/one")
    async def one(ctx: WorkflowContext[int]) -> int:
        return ctx.payload

    @flow.serve("/two")
    async def two(ctx: WorkflowContext[int]) -> int:
        return -ctx.payload

    async with Environment(flow) as env:
        for dedup in ("kept", "open"):
            first, second = (
                await one.trigger(1, dedup_id="x", dedup=dedup),
                await two.trigger(2, dedup_id="x", dedup=dedup),
            )
            assert (first.deduplicated, second.deduplicated) == (False, False)
            again = await one.trigger(3, dedup_id="x", dedup=dedup)
            assert (again.id, again.deduplicated) == (first.id, True)
            await env.drive()
            assert (await first.wait(), await second.wait()) == (1, -2)


@pytest.mark.parametrize("dedup", ["kept", "open"])
async def test_an_open_dedup_id_holds_while_the_batch_is_under_way(flow: Batchflow, dedup: Any) -> None:
    """After its end the same id starts another one; a kept one holds on."""
    job = flow.add(Job())
    async with Environment(flow) as env:
        first = await job.trigger(dedup_id="chat 7", dedup=dedup)
        await env.drive()
        after = await job.trigger(dedup_id="chat 7", dedup=dedup)
        assert after.deduplicated == (dedup == "kept")
        assert (after.id == first.id) == (dedup == "kept")


@pytest.mark.parametrize("dedup", ["kept", "open"])
async def test_an_open_dedup_id_holds_while_the_run_is_under_way(flow: Batchflow, dedup: Any) -> None:
    """As for batches."""

    @flow.serve("/notify")
    async def notify(ctx: WorkflowContext[int]) -> int:
        await ctx.sleep("wait", "1h")
        return ctx.payload

    async with Environment(flow) as env:
        first = await notify.trigger(1, dedup_id="chat 7", dedup=dedup)
        await env.advance("30m")
        assert (await notify.trigger(2, dedup_id="chat 7", dedup=dedup)).deduplicated
        await env.drive()
        after = await notify.trigger(3, dedup_id="chat 7", dedup=dedup)
        await env.drive()
        assert (await first.wait(), await after.wait()) == (1, 1 if dedup == "kept" else 3)


async def test_a_batch_that_ends_while_a_trigger_looks_is_replaced(flow: Batchflow, monkeypatch: Any) -> None:
    """Between two questions the one under way may have ended: the trigger asks again, until one of them answers."""
    job = flow.add(Job())
    async with Environment(flow) as env:
        first = await job.trigger(dedup_id="x", dedup="open")
        asked, under_way = [0], flow.engine.store.under_way

        async def late(open_dedup: str) -> str | None:
            asked[0] += 1
            await env.drive()
            return await under_way(open_dedup)

        monkeypatch.setattr(flow.engine.store, "under_way", late)
        second = await job.trigger(dedup_id="x", dedup="open")
        assert (second.deduplicated, second.id != first.id, asked) == (False, True, [1])


async def test_a_trigger_that_was_cut_off_is_finished_by_the_next(flow: Batchflow) -> None:
    """Its entry is published by a second one of the same dedup id, of either kind."""
    job = flow.add(Job())
    layers = job._runtime  # pyright: ignore[reportPrivateUsage]: to do what a trigger begins with, and no more
    ids = [f"i{number}" for number in range(5_000)]
    async with Environment(flow) as env:
        for dedup in ("kept", "open"):
            start = prepare_batch(layers, None, BatchTrigger(ids=ids, dedup_id="x", dedup=dedup))
            first, *_ = trigger_messages(layers, start)
            await flow.engine.open_batch(start.batch, first)
            again = await job.trigger(ids=ids, dedup_id="x", dedup=dedup)
            assert (again.id, again.deduplicated) == (start.batch.id, True)
            await env.drive()
            assert (await again.wait()).counts.succeeded == 5_000


HOW = "write seconds such as 10, text such as '500ms', '10s', '2h30m' or '7d', or a timedelta"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"batch_id": "nightly"},
            "'batch_id' cannot be 'nightly'; write 'bat_' and 1 to 60 letters, digits, '_' and '-', such as "
            "'bat_nightly-7'",
        ),
        ({"batch_id": "bat_a.b"}, "'batch_id' cannot be 'bat_a.b'; write 'bat_' and 1 to 60 letters, digits"),
        ({"batch_id": 7}, "'batch_id' cannot be 7; write 'bat_' and 1 to 60 letters"),
        ({"batch_id": f"bat_{'x' * 61}"}, "'batch_id' cannot be 'bat_xxx"),
        (
            {"batch_id": "bat_1", "dedup_id": "x"},
            "'batch_id' and 'dedup_id' exclude each other; give the one or the other",
        ),
        ({"dedup": "open"}, "'dedup' and 'dedup_id' go together; give both, or neither"),
        ({"dedup": "ever", "dedup_id": "x"}, "'dedup' cannot be 'ever'; write 'kept' or 'open'"),
        ({"dedup": ["open"], "dedup_id": "x"}, "'dedup' cannot be ['open']; write 'kept' or 'open'"),
        ({"delay": "soon"}, f"'delay' cannot be 'soon', which is not a duration; {HOW}"),
        ({"delay": "1s", "not_before": 7}, "'delay' and 'not_before' exclude each other; give the one or the other"),
        ({"not_before": 1_900_000_000}, "'not_before' cannot be 1900000000, which looks like seconds"),
        ({"not_before": datetime(2030, 1, 1)}, "'not_before' cannot be datetime.datetime(2030, 1, 1, 0, 0); write"),  # noqa: DTZ001
        ({"headers": {"x": 7}}, "'headers' has an int for 'x'; write text, or leave it out"),
        ({"headers": {"": "x"}}, "'headers' has '', which is not a header name; write 'x-tenant' or the like"),
        ({"headers": {"x": "a\n"}}, "'headers' has a line break or control character in 'x'; write one line"),
        ({"headers": "x"}, "'headers' cannot be a str; write names and texts, such as {'name': 'text'}"),
    ],
)
async def test_an_option_that_is_none_starts_nothing(flow: Batchflow, options: dict[str, Any], sentence: str) -> None:
    """One sentence, before anything is stored; for functions as well where they have the option."""
    job = flow.add(Job())

    @flow.serve("/one")
    async def one(ctx: WorkflowContext[int]) -> None: ...

    async with Environment(flow) as env:
        with pytest.raises(BatchflowError) as refused:
            await job.trigger(**options)
        assert str(refused.value).startswith(sentence)
        assert isinstance(refused.value, InputError | ConfigurationError)
        assert await job.batches() == []
        if "batch_id" not in options:
            with pytest.raises(BatchflowError) as refused:
                await one.trigger(7, **options)
            assert str(refused.value).startswith(sentence)
        assert list(env.runs) == []


def test_headers_are_the_bases_own() -> None:
    """A class cannot hide what hooks are given."""
    with pytest.raises(ConfigurationError, match="hides a member"):

        class Mine(Job):  # pyright: ignore[reportUnusedClass]: it is refused
            headers = {}  # type: ignore[assignment]  # noqa: RUF012


class Taken(BaseModel):
    not_before: int = 0


def test_parameters_cannot_go_by_the_names_of_options() -> None:
    """Both would be one field of a payload."""
    with pytest.raises(ConfigurationError, match="goes by 'notBefore' in payloads, which is batchflow's own there"):

        class Mine(BatchWorkflow[Taken, str, str]):  # pyright: ignore[reportUnusedClass]: it is refused
            async def fetch(self, params: Taken, cursor: str | None, limit: int) -> Page:
                return Page(ids=[])

            async def execute(self, item_id: str) -> str:
                return item_id
