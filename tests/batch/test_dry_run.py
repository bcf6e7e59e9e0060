"""A dry run counts exactly, in bounded memory, and writes nothing."""

from collections.abc import Sequence

import pytest

from batchflow.batch.dry_run import Statistics
from batchflow.batch.workflow import NoParams, Page
from batchflow.core.flow import FlowControl
from batchflow.errors import InputError, NonRetryable
from tests.batch.model import Model
from tests.batch.samples import Audience, Plain, Welcome, bound
from tests.batch.test_refusals import made


async def test_the_statistics_are_those_of_the_pattern(model: Model) -> None:
    """Totals and message as the pattern has them, in camelCase; then pages, chunks and a sample."""
    welcome = Welcome(users=100)
    welcome.cached = {f"u{number}" for number in range(20)}
    stats = await bound(model, welcome).dry_run(Audience(paid_only=True))
    assert stats.model_dump(mode="json") == {
        "success": True,
        "totalEligible": 100,
        "toProcess": 80,
        "alreadyProcessed": 20,
        "duplicates": 0,
        "dryRun": True,
        "message": "[DryRun] Would process 80 users",
        "pages": 2,
        "chunks": 5,
        "sample": ["u20", "u21", "u22", "u23", "u24"],
        "predictedDurationMs": 15_800,
        "predictedDuration": "16s",
        "bindingLimit": "execute rate",
        "meanItemMs": None,
    }


async def test_nothing_is_written(model: Model) -> None:
    """No batch, no message, no mark, no step."""
    await bound(model, Welcome(users=100)).dry_run()
    assert (model.jobs, model.published, model.marked, model.journals) == ({}, [], {}, {})


async def test_an_empty_source_is_said(model: Model) -> None:
    """Nothing to process needs no time."""
    stats = await bound(model, Welcome()).dry_run()
    assert (stats.message, stats.pages, stats.predicted_duration) == ("No eligible items found", 1, "0s")


async def test_everything_processed_before(model: Model) -> None:
    """The message is the dry run's own all the same."""
    welcome = Welcome(users=3)
    welcome.cached = set(welcome.ids)
    stats = await bound(model, welcome).dry_run()
    assert (stats.message, stats.already_processed) == ("[DryRun] Would process 0 users", 3)
    assert (await bound(model, welcome).dry_run(force=True)).to_process == 3


async def test_a_dry_run_and_its_batch_agree(model: Model) -> None:
    """The predicted counts are those of the batch, page by page."""
    workflow = bound(model, Welcome(users=230))
    model.marked["welcome"] = {f"u{number}" for number in range(0, 230, 3)}
    stats = await workflow.dry_run()
    batch = await workflow.trigger()
    await model.drive()
    counts = model.counts(batch.id)
    job = model.jobs[batch.id].batch
    assert (stats.total_eligible, stats.to_process) == (counts.eligible, counts.succeeded)
    assert (stats.already_processed, stats.pages, stats.chunks) == (counts.already_processed, job.pages, job.chunks)


async def test_duplicates_within_a_page_count_once(model: Model) -> None:
    """They are named and not processed."""
    stats = await bound(model, Plain({None: Page(["a", "b", "a"])})).dry_run()
    assert (stats.total_eligible, stats.to_process, stats.duplicates, stats.already_processed) == (3, 2, 1, 0)


async def test_a_circle_ends_with_a_sentence(model: Model) -> None:
    """It would count for ever."""
    with pytest.raises(NonRetryable, match="came back to the cursor"):
        await bound(model, Plain({None: Page([], "1"), "1": Page([], "2"), "2": Page([], "1")})).dry_run()


async def test_the_mean_of_the_latest_batch_makes_the_prediction(model: Model) -> None:
    """The time an item took last time; where it is long, parallelism binds."""
    model.item_ms = 20_000
    workflow = bound(model, Welcome(users=10))
    await workflow.trigger()
    await model.drive()
    stats = await workflow.dry_run(force=True)
    assert (stats.mean_item_ms, stats.predicted_duration_ms) == (20_000, 21_800)


@pytest.mark.parametrize(
    ("limits", "binding"),
    [
        ({"execute_flow": FlowControl(rate=5)}, "execute rate"),
        ({"execute_flow": None, "paginate_flow": FlowControl(rate=1)}, "paginate rate"),
        ({"execute_flow": None, "paginate_flow": None}, "none"),
    ],
)
async def test_the_limit_that_binds_is_named(model: Model, limits: dict[str, object], binding: str) -> None:
    """The slower of the two layers says how long it takes."""

    async def fetch(self: object, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page([f"i{number}" for number in range(limit)])

    stats = await bound(model, made(fetch=fetch, **limits)()).dry_run()
    assert stats.binding_limit == binding


async def test_a_workflow_of_named_ids_has_nothing_to_count(model: Model) -> None:
    """There is no source to walk."""
    from tests.batch.test_function import greet_only

    with pytest.raises(InputError, match="'greet-only' has no source of ids"):
        await bound(model, greet_only()).dry_run()


async def test_a_million_ids_in_the_space_of_a_page(model: Model) -> None:
    """The tally is as large for many pages as for one."""
    from batchflow.batch.dry_run import DryRunCounts
    from batchflow.batch.source import FetchedPage

    tally = DryRunCounts()
    ids: Sequence[str] = [f"i{number}" for number in range(50)]
    for _ in range(20_000):
        tally.add(FetchedPage(list(ids), None, 50), ids, 20)
    assert (tally.eligible, tally.chunks, len(tally.sample)) == (1_000_000, 60_000, 5)


def test_statistics_are_read_by_either_name() -> None:
    """The JSON of statistics can be read again."""
    stats = Statistics(total_eligible=1, to_process=1, already_processed=0, message="", pages=1, chunks=0)
    assert Statistics.model_validate_json(stats.model_dump_json()) == stats
