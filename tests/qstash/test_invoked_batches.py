"""A function on QStash waits for a batch that it has invoked: what is lost on the way changes nothing."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from random import Random
from typing import Any

import httpx
import pytest

from batchflow import Batchflow, BatchSummary, NonRetryable, WorkflowContext
from batchflow.core.run import RunQuery
from batchflow.engine.push_client import PushRequest
from batchflow.engine.push_response import PushResponse
from batchflow.errors import ChildFailed, RunFailed, StoreUnavailable
from batchflow.qstash.invoked_batches import INVOKED
from tests.qstash.batch_programs import Params, delivered
from tests.qstash.invoking_programs import ITEMS, Sleepers, Welcome, Wire, engine_of, opened, parent_of
from tests.qstash.losses import LossyClient, LossyTransport
from tests.qstash.stage import APP_URL, WireStage
from tests.stores.kinds import left


@pytest.fixture(params=["sqlite", "fakeredis"])
async def stage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WireStage]:
    monkeypatch.setenv("APP_URL", f"{APP_URL}/")
    stage = WireStage(request.param, batches=True)
    async with stage:
        yield stage
        assert await left(stage.flow.engine.store) == {}  # type: ignore[arg-type]


async def test_a_run_gets_the_summary_of_its_batch_with_the_items_that_have_failed(stage: WireStage) -> None:
    parent = parent_of(stage, welcome := Welcome())
    await opened(stage)
    run = await parent.trigger(None)
    await stage.drive()
    assert await run.wait(1) == "completed 2 1"
    assert welcome.executed == dict.fromkeys(["before", "after", *ITEMS], 1)
    [batch] = await stage.flow.engine.store.batches()
    assert welcome.completed == [batch.id]
    # The message that opens it, its entry, page, items and on_complete, and the message that tells QStash.
    named = [json.loads(it.body or b"")["message"] for it in delivered(stage)]
    assert len(named) == 1 + 2 + len(ITEMS) + 1 + 1
    # The start of the run, two steps, and the end of the batch.
    assert len([it for it in stage.client.requests if it.url.endswith("/parent")]) == 4
    assert set(stage.client.answers) == {200}


async def test_several_batches_at_once_have_each_its_own_summary(stage: WireStage) -> None:
    first, second = Welcome(), Welcome(["zoe"])
    first_batch = stage.flow.add(first)

    class Other(Welcome):
        name = "other"

    second_batch = stage.flow.add(second := Other(["zoe"]))

    @stage.flow.serve("/both")
    async def both(ctx: WorkflowContext[None]) -> list[int]:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(ctx.invoke("first", first_batch, Params())),
                group.create_task(ctx.invoke("second", second_batch, Params())),
                group.create_task(ctx.invoke("named", first_batch, Params(), ids=["joe", "max"], headers={"x-a": "b"})),
            ]
        return [it.result().counts.succeeded for it in tasks]

    await opened(stage)
    run = await both.trigger(None)
    await stage.drive()
    assert await run.wait(1) == [2, 1, 2]
    assert first.executed == {**dict.fromkeys(ITEMS, 1), "joe": 1, "max": 1}
    assert second.executed == {"zoe": 1}


@pytest.mark.parametrize("seed", range(4))
async def test_lost_and_doubled_deliveries_and_answers_open_one_batch_and_tell_its_end(
    stage: WireStage, seed: int
) -> None:
    random = Random(seed)
    stage.qstash.engine.push_client = LossyClient(stage.client, random)
    lossy = LossyTransport(stage.transport, random)
    for rest in engine_of(stage).directory.rests:
        vars(rest)["_transport"] = lossy
    parent = parent_of(stage, welcome := Welcome(), retries=20, retry_delay="1s")
    await opened(stage)
    run = await parent.trigger(None)
    lossy.loses = True
    await stage.drive(ms=2 * 3_600_000)
    lossy.loses = False
    await stage.drive(ms=2 * 3_600_000)
    assert await run.wait(1) == "completed 2 1"
    assert {item: welcome.executed[item] for item in ITEMS} == dict.fromkeys(ITEMS, 1)
    assert len(welcome.completed) == 1
    assert len(await stage.flow.engine.store.batches()) == 1


async def played(stage: WireStage, lose: Callable[[Wire], None]) -> tuple[str, Welcome, list[str]]:
    """The result of a run that invokes a batch, what was executed, and the requests to QStash after its trigger."""
    wire = Wire(stage)
    parent = parent_of(stage, welcome := Welcome(), retries=5, retry_delay="1s")
    await opened(stage)
    run = await parent.trigger(None)
    wire.requests.clear()
    lose(wire)
    await stage.drive(ms=3_600_000)
    wire.loses_request = wire.loses_answer = lambda number, request: False
    requests = list(wire.requests)
    if (await run.status()).state == "waiting":
        await stage.drive(ms=3_600_000)
    return await run.wait(1), welcome, requests


@pytest.mark.parametrize("stage", ["sqlite"], indirect=True)
@pytest.mark.parametrize("lost", ["request", "answer"])
@pytest.mark.parametrize("number", range(12))
async def test_each_request_to_qstash_may_be_lost_and_each_answer(stage: WireStage, number: int, lost: str) -> None:
    def lose(wire: Wire) -> None:
        def loses(place: int, request: httpx.Request) -> bool:
            return place == number

        setattr(wire, f"loses_{lost}", loses)

    result, welcome, requests = await played(stage, lose)
    assert result == "completed 2 1"
    assert len(requests) > number
    assert {item: welcome.executed[item] for item in ITEMS} == dict.fromkeys(ITEMS, 1)
    assert len(welcome.completed) == len(await stage.flow.engine.store.batches()) == 1
    # A step is executed again if its outcome did not come to QStash, and never if it did.
    most = 2 if lost == "request" else 1
    assert welcome.executed["before"] <= most
    assert welcome.executed["after"] <= most


async def test_the_end_of_a_batch_is_told_until_qstash_has_answered(stage: WireStage) -> None:
    away_until = stage.clock.now() + 40 * 60_000

    def lose(wire: Wire) -> None:
        wire.loses_request = lambda place, request: "/v2/notify/" in request.url.path and stage.clock.now() < away_until

    result, welcome, requests = await played(stage, lose)
    assert result == "completed 2 1"
    assert 10 < len([it for it in requests if "/v2/notify/" in it]) < 100
    assert len(welcome.completed) == 1
    assert welcome.executed["after"] == 1


async def test_a_delivery_that_comes_twice_at_once_opens_one_batch(stage: WireStage) -> None:
    send = stage.client.send

    async def doubled(request: PushRequest) -> PushResponse:
        first, _ = await asyncio.gather(send(request), send(request))
        return first

    stage.client.send = doubled  # type: ignore[method-assign]
    parent = parent_of(stage, welcome := Welcome())
    await opened(stage)
    run = await parent.trigger(None)
    await stage.drive(ms=60_000)
    assert await run.wait(1) == "completed 2 1"
    assert {item: welcome.executed[item] for item in ITEMS} == dict.fromkeys(ITEMS, 1)
    assert len(welcome.completed) == len(await stage.flow.engine.store.batches()) == 1


async def test_a_store_that_is_away_when_the_batch_is_opened_costs_an_attempt_of_the_run(stage: WireStage) -> None:
    parent = parent_of(stage, welcome := Welcome(), retries=3, retry_delay="1s")
    await opened(stage)
    store = stage.flow.engine.store
    publish, calls = store.publish, list[int]()

    async def away(messages: Any) -> Any:
        calls.append(len(messages))
        if len(calls) <= 2:
            raise StoreUnavailable("the store is away")
        return await publish(messages)

    store.publish = away  # type: ignore[method-assign]
    run = await parent.trigger(None)
    await stage.drive(ms=60_000)
    assert await run.wait(1) == "completed 2 1"
    assert len(calls) == 3
    assert welcome.executed == dict.fromkeys(["before", "after", *ITEMS], 1)


async def test_a_batch_whose_end_fails_for_good_fails_its_step_with_the_reason(stage: WireStage) -> None:
    class Broken(Welcome):
        name = "broken"

        async def on_complete(self, summary: BatchSummary, /) -> None:
            raise NonRetryable("the report is too long")

    batch = stage.flow.add(Broken())

    @stage.flow.serve("/catching")
    async def catching(ctx: WorkflowContext[None]) -> str:
        try:
            await ctx.invoke("broken", batch, Params())
        except ChildFailed as error:
            return str(error)
        return "it has not failed"

    await opened(stage)
    run = await catching.trigger(None)
    await stage.drive(ms=60_000)
    result = await run.wait(1)
    assert result.startswith("step 'broken': 'broken' failed")
    assert "the report is too long" in result


async def test_a_batch_that_is_cancelled_ends_the_wait_of_its_run(stage: WireStage) -> None:
    parent = parent_of(stage, Sleepers())
    await opened(stage)
    run = await parent.trigger(None)
    await stage.drive(ms=60_000)
    [batch] = await stage.flow.engine.store.batches()
    assert await stage.flow.engine.cancel_batch(batch.id)
    await stage.drive(ms=60_000)
    assert await run.wait(1) == "cancelled 0 0"


async def test_a_run_that_has_the_id_of_an_ended_one_has_a_batch_of_its_own(stage: WireStage) -> None:
    parent = parent_of(stage, welcome := Welcome())
    await opened(stage)
    for round in (1, 2):
        run = await parent.trigger(None, dedup_id="nightly", dedup="open")
        assert not run.deduplicated
        await stage.drive(ms=60_000)
        assert await run.wait(1) == "completed 2 1"
        assert len(welcome.completed) == len(await stage.flow.engine.store.batches()) == round


async def test_what_may_be_secret_is_not_shown_with_the_message_that_opens_a_batch(stage: WireStage) -> None:
    batch = stage.flow.add(Sleepers())

    @stage.flow.serve("/secret")
    async def secret(ctx: WorkflowContext[None]) -> None:
        await ctx.invoke("batch", batch, Params(), headers={"x-key": "hunter2"})

    await opened(stage)
    run = await secret.trigger(None)
    await stage.drive(ms=60_000)
    store = stage.flow.engine.store
    [message] = await store.runs(RunQuery(destination=INVOKED), 10)
    shown = await store.run(message.id)
    assert shown is not None
    assert shown.payload == f'["wfr_{run.id}","/secret"]'
    assert "hunter2" not in repr(shown)
    await run.cancel()
    await stage.drive(ms=1_000)


async def test_a_batch_of_another_app_is_refused_without_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_URL", f"{APP_URL}/")
    batch = Batchflow("sqlite:///:memory:").add(Welcome())
    async with WireStage() as stage:

        @stage.flow.serve("/parent")
        async def parent(ctx: WorkflowContext[None]) -> None:
            await ctx.invoke("welcome all", batch, Params())

        await stage.open()
        run = await parent.trigger(None)
        await stage.drive()
        with pytest.raises(RunFailed, match=r"'welcome all' invokes a batch, which needs a store .* BATCHFLOW_STORE="):
            await run.wait(1)
