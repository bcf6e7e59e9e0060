"""Layer 1: what it answers, logs, records and starts."""

import pytest

from batchflow.batch import entry
from batchflow.batch.workflow import BatchWorkflow, NoParams, Page
from batchflow.core.ids import count_id, entry_id, page_id
from tests.batch.model import Model
from tests.batch.samples import Audience, Counted, Plain, Welcome, body, bound, events


async def test_the_walk_starts_at_once(model: Model, logs: list[dict[str, object]]) -> None:
    """Without counting first the entry has no step, and page 0 is published with the opening of the batch."""
    workflow = bound(model, Welcome(users=3))
    batch = await workflow.trigger(Audience(paid_only=True))
    await model.drive()
    assert model.results[batch.run_id] == '{"success":true,"message":"Triggered pagination"}'
    assert model.journals[batch.run_id] == ()
    assert [message.id for message in model.published] == [entry_id(batch.id), page_id(batch.id, 0)]
    first, second = logs[:2]
    assert first["event"] == "[welcome:process] Starting with payload"
    assert first["payload"] == {"paid_only": True}
    assert second["event"] == "[welcome:process] Triggering paginate workflow"


async def test_everything_is_counted_first(model: Model, logs: list[dict[str, object]]) -> None:
    """`count_first` gives the pattern's order: get all, filter, start; with exact numbers."""
    welcome = Counted(users=100)
    welcome.cached = {f"u{number}" for number in range(20)}
    workflow = bound(model, welcome)
    batch = await workflow.trigger()
    await model.drive()
    assert model.results[batch.run_id] == (
        '{"success":true,"totalEligible":100,"toProcess":80,"alreadyProcessed":20,'
        '"message":"Triggered pagination for 80 items"}'
    )
    names = [step.name for step in model.journals[batch.run_id]]
    assert names == ["welcome:get-all-items", "welcome:filter-existing"]
    process = [text for text in events(logs, "info") if str(text).startswith("[welcome:process]")]
    assert process[:4] == [
        "[welcome:process] Starting with payload",
        "[welcome:process] Total eligible items",
        "[welcome:process] Check result",
        "[welcome:process] Triggering paginate workflow",
    ]
    assert "[welcome:process] welcome:trigger-paginate" in events(logs, "debug")
    assert (await batch.status()).total == 80


async def test_nothing_eligible(model: Model) -> None:
    """A batch without items ends at once."""
    batch = await bound(model, Counted()).trigger()
    await model.drive()
    assert model.results[batch.run_id] == '{"success":true,"totalEligible":0,"message":"No eligible items found"}'
    assert (await batch.wait()).state == "completed"


async def test_nothing_left(model: Model, logs: list[dict[str, object]]) -> None:
    """All of it was processed before: nothing is started, and the counts say why."""
    welcome = Counted(users=3)
    welcome.cached = set(welcome.ids)
    batch = await bound(model, welcome).trigger()
    await model.drive()
    assert model.results[batch.run_id] == (
        '{"success":true,"totalEligible":3,"toProcess":0,"alreadyProcessed":3,"message":"All items already processed"}'
    )
    assert "[welcome:process] All items already processed" in events(logs)
    counts = (await batch.wait()).counts
    assert (counts.eligible, counts.already_processed, counts.started) == (3, 3, 0)


async def test_counting_goes_in_slices(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each slice is a message that chains to the next, so that no journal grows with the batch."""
    monkeypatch.setattr(entry, "SLICE_IDS", 100)
    welcome = Counted(users=450)
    welcome.cached = {"u0", "u449"}
    batch = await bound(model, welcome).trigger()
    await model.drive()
    last = count_id(batch.id, 4)
    assert [message.id for message in model.published[:5]] == [
        batch.run_id,
        *(count_id(batch.id, number) for number in range(1, 5)),
    ]
    assert model.results[batch.run_id] == '{"success":true,"totalEligible":100,"message":"Counted 100 items so far"}'
    assert '"totalEligible":450,"toProcess":448,"alreadyProcessed":2' in model.results[last]
    assert all(len(journal) <= 2 for journal in model.journals.values())
    assert model.counts(batch.id).succeeded == 448


async def test_counting_skips_the_filter_when_forced(model: Model) -> None:
    """With `force` everything eligible is to be processed."""
    welcome = Counted(users=3)
    welcome.cached = set(welcome.ids)
    batch = await bound(model, welcome).trigger(force=True)
    await model.drive()
    assert [step.name for step in model.journals[batch.run_id]] == ["welcome:get-all-items"]
    assert '"toProcess":3,"alreadyProcessed":0' in model.results[batch.run_id]


async def test_a_limit_bounds_what_is_announced(model: Model) -> None:
    """`limit` is the small batch before the full one."""
    batch = await bound(model, Counted(users=100)).trigger(limit=7)
    await model.drive()
    assert '"toProcess":7' in model.results[batch.run_id]
    assert model.counts(batch.id).succeeded == 7


class Known(BatchWorkflow):
    """A source that knows its size."""

    def __init__(self, size: int) -> None:
        self.size = size

    def count(self, params: NoParams) -> int:
        return self.size

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page([f"i{number}" for number in range(self.size)])

    async def execute(self, item_id: str) -> None: ...


async def test_a_source_may_know_its_size(model: Model) -> None:
    """`count` is one step, and gives a total before any page is walked."""
    batch = await bound(model, Known(30)).trigger()
    await model.drive()
    assert model.results[batch.run_id] == '{"success":true,"totalEligible":30,"message":"Triggered pagination"}'
    assert [step.name for step in model.journals[batch.run_id]] == ["known:get-all-items"]
    assert model.jobs[batch.id].batch.total == 30


async def test_a_source_that_is_empty_ends_the_batch(model: Model) -> None:
    """A count of 0 starts no walk."""
    batch = await bound(model, Known(0)).trigger()
    await model.drive()
    assert model.results[batch.run_id] == '{"success":true,"totalEligible":0,"message":"No eligible items found"}'
    assert len(model.published) == 1


async def test_named_ids_need_no_walk(model: Model) -> None:
    """With `ids` the chunks are published by the trigger, and the entry only opens the batch."""
    plain = Plain({})
    batch = await bound(model, plain).trigger(ids=["a", "b"])
    assert body(model.published[0]) == {"itemIds": ["a", "b"], "named": True}
    await model.drive()
    assert model.results[batch.run_id] == (
        '{"success":true,"totalEligible":2,"toProcess":2,"alreadyProcessed":0,'
        '"message":"Triggered pagination for 2 items"}'
    )
    assert plain.done == ["a", "b"]
    counts = model.counts(batch.id)
    assert (counts.eligible, counts.succeeded) == (2, 2)


async def test_an_entry_without_a_batch_is_refused(model: Model) -> None:
    """The layers above the items only work for a batch that was triggered."""
    from batchflow.core.message import Message

    workflow = bound(model, Plain({}))
    endpoint = workflow.endpoints[0]
    await model.publish([Message(id="run_1", destination=endpoint.route, flow=endpoint.flow)])
    await model.drive()
    assert model.dead["run_1"].startswith(
        "NonRetryable: '/plain/process-items' only works for a batch; start one with trigger"
    )
