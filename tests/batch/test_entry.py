"""Layer 1: what it answers, logs, records and starts."""

from batchflow.batch.workflow import BatchWorkflow, NoParams, Page
from batchflow.core.ids import entry_id, page_id
from tests.batch.model import Model
from tests.batch.samples import Audience, Plain, Welcome, body, bound


async def test_the_walk_starts_at_once(model: Model, logs: list[dict[str, object]]) -> None:
    """The entry has no step, and page 0 is published with the opening of the batch."""
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
