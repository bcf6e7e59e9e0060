"""Triggering, asking, waiting, reading results."""

import asyncio
from typing import Any, assert_type

import pytest

from batchflow import Batchflow, BatchWorkflow, RetryPolicy
from batchflow.batch.bound import Workflow, bind
from batchflow.batch.dry_run import Statistics
from batchflow.batch.function import function_workflow
from batchflow.batch.handle import BatchHandle
from batchflow.batch.status import BatchStatus
from batchflow.batch.workflow import NoParams, Page
from batchflow.core.batch import Batch
from batchflow.core.ids import chunk_id
from batchflow.errors import BatchFailed, ConfigurationError, InputError, NotFoundError, StoreUnavailable
from tests.batch.model import Model
from tests.batch.samples import Audience, Greeting, Plain, User, Welcome, body, bound
from tests.batch.test_function import greet_user
from tests.batch.test_refusals import WORKFLOW, execute, fetch, made
from tests.waiting import DEADLINE_S, wait_until

ONE: dict[str | None, Page] = {None: Page(["a"])}


async def test_a_batch_is_waited_for(model: Model) -> None:
    """`wait` returns when the last item has ended and `on_complete` has run."""
    welcome = Welcome(users=3)
    batch = await bound(model, welcome).trigger(label="nightly")
    waiting = asyncio.create_task(batch.wait())
    await model.drive()
    summary = await waiting
    assert welcome.summaries == [summary]
    assert (summary.state, summary.counts.succeeded, summary.label) == ("completed", 3, "nightly")
    assert str(summary) == f"welcome {batch.id} (nightly) completed in 30ms: 3 succeeded"


async def test_a_store_that_is_away_is_waited_for(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a failover; asked how the batch stands, it is told."""
    batch = await bound(model, Plain(ONE)).trigger()
    there, tries = model.batch, 0

    async def away(id: str) -> Batch | None:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise StoreUnavailable("cannot be reached")
        return await there(id)

    await model.drive()
    monkeypatch.setattr("batchflow.engine.watchers.FIRST_RETRY_S", 0.001)
    monkeypatch.setattr(model, "batch", away)
    with pytest.raises(StoreUnavailable):
        await batch.status()
    assert (await batch.wait(timeout=DEADLINE_S)).succeeded
    assert tries == 4


async def test_waiting_may_end_before_the_batch(model: Model) -> None:
    """The batch goes on."""
    batch = await bound(model, Plain(ONE)).trigger()
    with pytest.raises(TimeoutError, match=r"batch 'bat_000' has not ended within 0.01 s; it goes on"):
        await batch.wait(timeout=0.01)


async def test_a_batch_that_did_not_succeed_can_raise(model: Model) -> None:
    """`check=True` turns failed items into an exception that counts them."""
    welcome = Welcome(users=2)
    welcome.gone = {"u0"}
    batch = await bound(model, welcome).trigger()
    await model.drive()
    assert not (await batch.wait()).succeeded
    with pytest.raises(BatchFailed) as raised:
        await batch.wait(check=True)
    assert str(raised.value) == (
        "batch 'bat_000' of 'welcome' ended with items that did not succeed: 1 succeeded, 1 failed"
    )


async def test_a_batch_can_be_cancelled(model: Model) -> None:
    """Nothing of it starts any more, and it says how it ended."""
    batch = await bound(model, Plain(ONE)).trigger()
    assert await batch.cancel()
    assert not await batch.cancel()
    with pytest.raises(BatchFailed, match="batch 'bat_000' of 'plain' was cancelled: no items"):
        await batch.wait(check=True)


async def test_progress_ends_with_the_final_status(model: Model) -> None:
    """It may be the only one."""
    batch = await bound(model, Plain(ONE)).trigger()
    seen: list[BatchStatus] = []

    async def watch() -> None:
        async for status in batch.progress(interval=0.01):
            seen.append(status)

    watching = asyncio.create_task(watch())
    await wait_until(lambda: len(seen) > 1, description="progress was made")
    await model.drive()
    await watching
    assert [status.is_over for status in seen] == [False] * (len(seen) - 1) + [True]
    assert (seen[0].percent, seen[-1].percent) == (None, 100.0)


async def test_results_come_typed_and_in_order(model: Model) -> None:
    """Of those that succeeded; items tell the others."""
    welcome = Welcome(users=30)
    welcome.gone = {"u1"}
    batch = await bound(model, welcome).trigger()
    await model.drive()
    results = [pair async for pair in batch.results()]
    assert len(results) == 29
    assert results[1] == ("u2", Greeting(texts=["Welcome, U2!"]))
    ((gone, error),) = [(item, item.error or "") async for item in batch.items("failed")]
    assert (gone.id, gone.result, gone.state, error.splitlines()[0]) == ("u1", None, "failed", "Item not found")
    assert [item.result async for item in batch.items("succeeded")] == [result for _, result in results]
    assert [item.number async for item in batch.items()] == list(range(30))
    one = await batch.item(gone.id)
    assert one == gone
    with pytest.raises(NotFoundError, match="has started no item 'nobody'"):
        await batch.item("nobody")


async def test_a_batch_that_is_not_there_is_said(model: Model) -> None:
    """Retention may have removed it."""
    batch = bound(model, Plain(ONE)).batch("bat_gone")
    with pytest.raises(NotFoundError) as raised:
        await batch.status()
    assert str(raised.value) == "there is no batch 'bat_gone' of 'plain'; retention may have removed it"
    assert repr(batch) == "BatchHandle('bat_gone')"


async def test_types_go_through_to_the_results(model: Model) -> None:
    """Handles have the parameter and result types of the class, also for a function."""
    workflow = assert_type(bind(Welcome(users=1), model), Workflow[Audience, Greeting])
    model.serve(workflow)
    batch = assert_type(await workflow.trigger(Audience()), BatchHandle[Greeting])
    await model.drive()
    async for pair in batch.results():
        assert_type(pair, tuple[str, Greeting])
    assert_type(bind(Plain({}), model), Workflow[NoParams, None])
    assert_type(bind(function_workflow(greet_user), model), Workflow[NoParams, str])


async def test_a_dedup_id_names_one_batch(model: Model) -> None:
    """The second trigger starts nothing and returns the first one's handle."""
    workflow = bound(model, Plain(ONE))
    first = await workflow.trigger(dedup_id="2024-05")
    second = await workflow.trigger(dedup_id="2024-05")
    other = await workflow.trigger(dedup_id="2024-06")
    assert first.id == second.id != other.id
    assert len(model.published) == 2
    assert first.id.startswith("bat_")
    assert [batch.id for batch in await workflow.batches()] == [other.id, first.id]


async def test_many_ids_are_published_in_portions(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry comes last; a trigger that was cut off half-way is completed by the next one of its dedup id."""
    workflow = bound(model, Plain({}))
    ids = [f"i{number}" for number in range(4_010)]
    whole = model.publish
    portions: list[int] = []

    async def cut(messages: object) -> None:
        raise ConnectionError

    monkeypatch.setattr(model, "publish", cut)
    with pytest.raises(ConnectionError):
        await workflow.trigger(ids=ids, dedup_id="all")
    monkeypatch.setattr(model, "publish", whole)
    batch = await workflow.trigger(ids=ids, dedup_id="all")
    portions.append(len(model.published))
    assert model.published[-1].id == batch.run_id
    assert model.published[0].keep
    assert model.published[0].id in (chunk_id(batch.id, 0, 0), chunk_id(batch.id, 200, 0))


async def test_a_batch_carries_what_its_items_share(model: Model) -> None:
    """Parameters as text, limits, where items go and who hears of the end."""
    batch = await bound(model, Welcome()).trigger(Audience(paid_only=True), force=True, label="all")
    new = model.jobs[batch.id].new
    assert (new.params, new.execute, new.complete) == (
        '{"paid_only":true}',
        "/welcome/generate-user",
        "/welcome/complete",
    )
    assert (new.flow.key, new.force, new.label, new.keep_results) == ("welcome.execute", True, "all", True)
    assert body(model.published[0]) == {"force": True}


class Needy(WORKFLOW[User]):
    fetch = fetch
    execute = execute


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"params": {"paid_only": True}}, "'welcome' takes Audience, not dict; pass Audience(…)"),
        ({"ids": []}, "'ids' cannot be []; name one or more, or leave it out to fetch them"),
        ({"ids": "u1"}, "'ids' cannot be 'u1'; write ['u1']"),
        ({"ids": ""}, "'ids' cannot be ''; name one or more, or leave it out to fetch them"),
        ({"params": "u1"}, "'welcome' takes Audience, not str; pass trigger(ids=['u1'])"),
        ({"params": 7}, "'welcome' takes Audience, not int; pass trigger(ids=[7])"),
        ({"params": ["u1", "u2"]}, "'welcome' takes Audience, not list; pass trigger(ids=[…])"),
        ({"ids": ["u1", ""]}, "'ids' holds '', and an id is a non-empty string, an int or a UUID"),
        ({"ids": [True]}, "'ids' holds True, and an id is a non-empty string, an int or a UUID"),
        ({"ids": ["1", 1]}, "'ids' names '1' twice; an item runs once per batch"),
        ({"ids": 7}, "'ids' cannot be 7; write a list of ids"),
        ({"ids": ["u1", "u2", "u1"]}, "'ids' names 'u1' twice; an item runs once per batch"),
        ({"limit": 0}, "'limit' cannot be 0; write a whole number of 1 or more"),
        ({"limit": True}, "'limit' cannot be True; write a whole number of 1 or more"),
        ({"ids": ["u1"], "limit": 1}, "'ids' and 'limit' exclude each other; name fewer ids"),
        ({"ids": ["u1", "caf\udce9"]}, "'ids' holds 'caf\\udce9', which has no form in UTF-8; name it otherwise"),
        ({"label": ""}, "a label has 1 to 200 characters, not 0"),
        ({"label": 5}, "a label cannot be 5; write a text of 1 to 200 characters"),
        ({"force": "no"}, "'force' cannot be 'no'; write True or False"),
        ({"dedup_id": 5}, "'dedup_id' cannot be 5; write what the batch is for, as text"),
        ({"dedup_id": ""}, "'dedup_id' is empty; name what the batch is for, or leave it out"),
    ],
)
async def test_a_wrong_trigger_starts_nothing(model: Model, options: dict[str, Any], sentence: str) -> None:
    """One sentence says what is wrong and what to write."""
    with pytest.raises(InputError) as raised:
        await bound(model, Welcome()).trigger(**options)
    assert str(raised.value) == sentence
    assert model.jobs == {}


async def test_parameters_without_defaults_have_to_be_given(model: Model) -> None:
    """The sentence names them."""
    with pytest.raises(InputError) as raised:
        await bound(model, Needy()).trigger()
    assert str(raised.value) == "'needy' needs parameters; pass User(id=…, name=…)"


async def test_a_request_is_read_and_done(model: Model) -> None:
    """Over the wire a dry run and a trigger are one endpoint."""
    workflow = bound(model, Welcome(users=3))
    stats = await workflow.handle_request(workflow.read_request({"dryRun": True, "paidOnly": True}))
    assert isinstance(stats, Statistics)
    batch = await workflow.handle_request(workflow.read_request({"paidOnly": True, "limit": 2, "label": "a few"}))
    assert isinstance(batch, BatchHandle)
    assert body(model.published[0]) == {"limit": 2}


def test_a_base_cannot_be_added(model: Model) -> None:
    """It is not a workflow yet."""

    class Base(Plain, abstract=True): ...

    with pytest.raises(ConfigurationError, match="Base is a base for workflows; add an object of a subclass"):
        bind(Base({}), model)


def test_options_belong_to_the_class(model: Model) -> None:
    """An option on the object would be ignored, so it is rejected."""
    workflow = made()()
    setattr(workflow, "page_size", 5)  # noqa: B010
    with pytest.raises(ConfigurationError) as raised:
        bind(workflow, model)
    assert str(raised.value) == "Orders.page_size is set on the object and not read there; set it on the class"


KEYS = ["plain.process", "plain.paginate", "plain.execute", "plain.complete"]


def test_a_workflow_serves_its_layers(model: Model) -> None:
    """Each at its route, under its key; `complete` is there for whoever wants to hear of the end."""
    assert [endpoint.route for endpoint in bind(Welcome(), model).endpoints] == [
        "/welcome/process-users",
        "/welcome/paginate-users",
        "/welcome/generate-user",
        "/welcome/complete",
    ]
    plain = bind(Plain({}), model)
    assert [endpoint.flow.key for endpoint in plain.endpoints] == KEYS
    assert [endpoint.name for endpoint in plain.endpoints] == [key.replace(".", ":") for key in KEYS]
    assert plain.declared_flows == tuple(endpoint.flow for endpoint in plain.endpoints)
    assert repr(plain) == "Workflow('plain')"


async def test_a_page_that_takes_too_long_names_its_hook_and_its_limit() -> None:
    """The limit of items is that of pages too."""

    class Slow(BatchWorkflow[NoParams, str, None]):
        item_timeout = "20ms"
        entry_flow = paginate_flow = None
        retry = RetryPolicy.none()

        async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
            await asyncio.Event().wait()
            return Page([])

        async def execute(self, item_id: str) -> None: ...

    flow = Batchflow("sqlite://")
    slow = flow.add(Slow())
    async with flow:
        summary = await (await slow.trigger()).wait(timeout=30)
    said = "TimeoutError: the attempt took longer than 20ms (item_timeout), last in step 'slow:get-batch' (fetch)"
    assert (summary.error or "").startswith(said)
