"""Batches of an app on QStash: their state is in the app's store, and QStash delivers each of their messages."""

import asyncio
import json
from collections import Counter
from random import Random
from typing import Any

import httpx
import pytest

from batchflow import (
    Batchflow,
    FlowControl,
    QStash,
    RateLimited,
)
from batchflow.engine.push_client import PushRequest
from batchflow.engine.push_response import PushResponse
from batchflow.errors import ConfigurationError
from batchflow.qstash.relay import FEWEST, GIVEN_MS
from tests.qstash.batch_programs import Greet, Greeting, Onboard, Params, delivered, nothing, start
from tests.qstash.stage import APP_URL, WireStage
from tests.qstash.test_lost_answers import LossyClient
from tests.stores.kinds import Kind

KINDS: tuple[Kind, ...] = ("sqlite", "fakeredis")


@pytest.fixture(autouse=True)
def app_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_URL", f"{APP_URL}/")


@pytest.mark.parametrize("kind", KINDS)
async def test_one_request_of_qstash_for_each_message_of_a_batch_runs_it_whole(kind: Kind) -> None:
    executed: Counter[str] = Counter()
    stage = WireStage(kind, batches=True)

    async def execute(id: str) -> None:
        executed[id] += 1

    async with stage:
        workflow = Greet(25, execute)
        greet = stage.flow.add(workflow)
        await stage.open()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(stage.client.app or 0), base_url=APP_URL) as http:  # type: ignore[arg-type]
            counted = await http.post(greet.definition.routes.process, json={"dryRun": True})
            started = await http.post(greet.definition.routes.process, json={})
        assert counted.json()["toProcess"] == 25, counted.text
        assert started.status_code == 202, started.text
        await stage.drive()
        batch = greet.batch(started.json()["batchId"])
        status = await batch.status()
        assert (status.state, status.counts.succeeded, status.counts.failed) == ("completed", 25, 0)
        assert {item.id: item.result async for item in batch.items()} == {
            f"u{number}": Greeting(text=f"Hello u{number}") for number in range(25)
        }
        assert workflow.completed == 1
        assert set(executed.values()) == {1}
        # Each message in one request: none was delivered twice, and none for nothing.
        named = [json.loads(it.body or b"")["message"] for it in delivered(stage)]
        assert len(named) == len(set(named)) == len([*stage.client.requests])
        assert len([it for it in named if ".r0" in it]) == 25
        assert stage.client.answers == [200] * len(named)
        assert await greet.processed([f"u{number}" for number in range(30)]) == {f"u{number}" for number in range(25)}


async def test_the_limits_of_a_layer_are_those_of_its_messages_in_qstash() -> None:
    stage = WireStage(batches=True)
    limits: dict[str, FlowControl] = {}

    async def execute(_: str) -> None:
        limits.update({it.limits.key or "": it.limits for it in await stage.qstash.engine.store.flows()})

    async with stage:
        await start(stage, Greet(3, execute))
        await stage.drive()
    of_items = limits["qstash.acme.greet.execute"]
    assert (of_items.parallelism, of_items.rate, of_items.period) == (2, 50, "1s")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_failed_item_is_tried_again_when_its_policy_says_and_fails_for_good_at_last(kind: Kind) -> None:
    attempts: dict[str, list[int]] = {}
    stage = WireStage(kind, batches=True)

    async def execute(id: str) -> None:
        attempts.setdefault(id, []).append(stage.clock.now())
        if id == "u1" or (id == "u2" and len(attempts[id]) < 2):
            raise ConnectionError("the mail server is away")

    async with stage:
        greet = stage.flow.add(Greet(4, execute))
        await stage.open()
        batch = await greet.trigger()
        await stage.drive()
        status = await batch.status()
        assert (status.state, status.counts.succeeded, status.counts.failed) == ("completed", 3, 1)
        assert {id: len(times) for id, times in attempts.items()} == {"u0": 1, "u1": 3, "u2": 2, "u3": 1}
        first, second, third = attempts["u1"]
        # QStash delivers in whole seconds.
        assert 4_000 <= second - first <= 5_100
        assert 16_000 <= third - second <= 17_100


async def test_durable_steps_of_an_item_are_executed_once_over_sleeps_events_and_failures() -> None:
    steps: Counter[str] = Counter()
    # Each wait in time is ended by a message of its own.
    stage = WireStage(batches=True, relay_cron=None)
    async with stage:
        onboard = stage.flow.add(Onboard(steps))
        await stage.open()
        batch = await onboard.trigger(ids=["ada", "bob"])
        await stage.drive(ms=4 * 86_400_000)
        assert await stage.flow.notify("answer-ada", "yes") != ()
        await stage.drive(ms=8 * 86_400_000)
        status = await batch.status()
        assert (status.state, status.counts.succeeded) == ("completed", 2)
        assert {item.id: item.result async for item in batch.items()} == {"ada": "yes", "bob": "nothing"}
        assert set(steps.values()) == {1}, steps


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
async def test_lost_and_doubled_deliveries_of_a_batch_change_nothing(seed: int, kind: Kind) -> None:
    executed: Counter[str] = Counter()
    random = Random(seed)
    stage = WireStage(kind, batches=True)

    async def execute(id: str) -> None:
        executed[id] += 1
        await asyncio.sleep(0)

    stage.qstash.engine.push_client = LossyClient(stage.client, random)
    async with stage:
        batch = await start(stage, workflow := Greet(25, execute))
        # What QStash has given up is given to it again by the schedule, after an hour.
        await stage.drive(ms=3 * GIVEN_MS)
        status = await batch.status()
        assert (status.state, status.counts.succeeded, workflow.completed) == ("completed", 25, 1)
        assert executed == {f"u{number}": 1 for number in range(25)}


async def test_a_delivery_is_answered_and_executes_nothing_where_another_has_begun_it_or_it_is_old() -> None:
    executed: Counter[str] = Counter()
    stage = WireStage(batches=True)

    async def execute(id: str) -> None:
        executed[id] += 1
        await asyncio.sleep(0)

    async with stage:
        batch = await start(stage, Greet(5, execute))
        send = stage.client.send

        async def doubled(request: PushRequest) -> PushResponse:
            first, _ = await asyncio.gather(send(request), send(request))
            return first

        stage.client.send = doubled  # type: ignore[method-assign]
        await stage.drive()
        assert (await batch.status()).counts.succeeded == 5
        for request in delivered(stage):
            await send(request)
        assert set(stage.client.answers) == {200}
        assert set(executed.values()) == {1}


@pytest.mark.parametrize("kind", KINDS)
async def test_nothing_of_a_paused_batch_starts_and_all_of_it_after_it_resumes(kind: Kind) -> None:
    executed: list[str] = []
    stage = WireStage(kind, batches=True)

    async def execute(id: str) -> None:
        executed.append(id)
        if len(executed) == 3:
            await batch.pause()

    async with stage:
        batch = await start(stage, Greet(25, execute))
        await stage.drive()
        assert len(executed) <= 4, "two may run at once"
        await batch.resume()
        await stage.drive()
        assert (await batch.status()).counts.succeeded == 25
        assert sorted(executed) == sorted(f"u{number}" for number in range(25))


async def test_nothing_of_a_cancelled_batch_starts() -> None:
    executed: list[str] = []
    stage = WireStage(batches=True)

    async def execute(id: str) -> None:
        executed.append(id)
        if len(executed) == 3:
            await batch.cancel()

    async with stage:
        batch = await start(stage, workflow := Greet(25, execute))
        await stage.drive()
        status = await batch.status()
        assert status.state == "cancelled"
        assert len(executed) <= 4
        assert workflow.completed == 1


async def test_a_rate_limit_that_an_item_meets_parks_the_items_of_its_key() -> None:
    attempts: list[tuple[str, int]] = []
    stage = WireStage(batches=True)

    async def execute(id: str) -> None:
        attempts.append((id, stage.clock.now()))
        if len(attempts) == 1:
            raise RateLimited(30)

    async with stage:
        batch = await start(stage, Greet(10, execute))
        begun = stage.clock.now()
        await stage.drive()
        assert (await batch.status()).counts.succeeded == 10
        assert all(at >= begun + 30_000 for _, at in attempts[2:])


async def test_a_batch_is_stored_while_qstash_is_away_and_begins_when_its_schedule_comes() -> None:
    stage = WireStage(batches=True)
    away = False

    class Away(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if away:
                raise httpx.ConnectError("no route")
            return await inner.handle_async_request(request)

    inner, stage.transport = stage.transport, Away()
    async with stage:
        greet = stage.flow.add(Greet(5, nothing))
        await stage.open()
        away = True
        batch = await greet.trigger()
        assert (await batch.status()).counts.succeeded == 0
        # What the relay held is due as before.
        assert [it.in_use for it in await stage.flow.engine.store.flows()] == [0] * 4
        away = False
        await stage.flow.engine.batches.schedule()  # type: ignore[attr-defined]
        await stage.drive(ms=120_000)
        assert (await batch.status()).counts.succeeded == 5


async def test_qstash_has_only_as_many_messages_of_a_key_as_may_start_soon() -> None:
    stage = WireStage(batches=True, relay_cron=None)
    most = 0

    async def execute(_: str) -> None:
        nonlocal most
        waiting = [it.waiting for it in await stage.qstash.engine.store.flows() if it.limits.rate == 1]
        most = max([most, *waiting])

    class Slow(Greet):
        name = "slow"
        page_size = 200
        chunk_size = 200
        execute_flow = FlowControl(rate=1, period="10m")

    async with stage:
        batch = await start(stage, Slow(60, execute))
        await stage.drive()
        assert (await batch.status()).counts.succeeded == 60
        assert most <= FEWEST
        # Nothing was given to QStash twice, although the whole took ten hours.
        assert len([it for it in delivered(stage) if b".r0" in (it.body or b"")]) == 60


async def test_only_qstash_can_have_a_message_of_a_batch_executed() -> None:
    executed: list[str] = []
    stage = WireStage(batches=True)

    async def execute(id: str) -> None:
        executed.append(id)

    async with stage:
        batch = await start(stage, Greet(2, execute))
        app = stage.client.app
        assert app is not None
        body = json.dumps({"message": f"{batch.id}.e", "fence": 1}).encode()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=APP_URL) as http:
            for headers in ({}, {"upstash-signature": "a.b.c"}, {"authorization": f"Bearer {stage.token}"}):
                answer = await http.post("/deliveries", content=body, headers=headers)
                assert answer.status_code == 401, answer.text
        assert (await batch.status()).pages == 0
        await stage.drive()
        assert sorted(executed) == ["u0", "u1"]


def test_what_qstash_cannot_keep_of_a_batch_is_refused_when_it_is_added() -> None:
    def qstash(**options: Any) -> QStash:
        return QStash(token="t", current_signing_key="a", next_signing_key="b", **options)

    with pytest.raises(ConfigurationError, match=r"need a store for their state.*BATCHFLOW_STORE=redis"):
        Batchflow(qstash()).add(Greet(1, nothing))
    flow = Batchflow(qstash(store="sqlite://"))

    class Keyed(Greet):
        name = "keyed"

        def item_flow(self, params: Params, id: str) -> FlowControl | None:
            return None

    with pytest.raises(ConfigurationError, match=r"'keyed' has item_flow"):
        flow.add(Keyed(1, nothing))

    class Bursting(Greet):
        name = "bursting"
        execute_flow = FlowControl(rate=1, burst=3)

    with pytest.raises(ConfigurationError, match=r"a flow key of 'bursting': 'burst' is 3, and QStash has none"):
        flow.add(Bursting(1, nothing))

    class Fine(Greet):
        name = "fine"
        paginate_flow = FlowControl(rate=1, period="500ms")

    with pytest.raises(ConfigurationError, match=r"a flow key of 'fine': 'period' cannot be '500ms'; QStash has per"):
        flow.add(Fine(1, nothing))

    class Daily(Greet):
        name = "daily"
        schedule = "@daily"

    with pytest.raises(ConfigurationError, match="'daily' has a schedule, which nothing fires"):
        Batchflow(qstash(store="sqlite://", relay_cron=None)).add(Daily(1, nothing))
    with pytest.raises(ConfigurationError, match="is QStash, which does not keep the state of batches; write redis://"):
        Batchflow(qstash(store="qstash://"))
    assert "secret" not in repr(qstash(store="redis://:secret@localhost"))
    with pytest.raises(ConfigurationError, match="'often', which has 1 field"):
        QStash(relay_cron="often")


async def test_the_schedule_that_calls_an_app_follows_its_time_zone() -> None:
    stage = WireStage(batches=True, relay_cron="CRON_TZ=Europe/Berlin 0 3 * * *")
    async with stage:
        await start(stage, Greet(1, nothing))
        async with httpx.AsyncClient(transport=stage.transport) as http:
            headers = {"authorization": f"Bearer {stage.token}"}
            (schedule,) = (await http.get("http://qstash.test/v2/schedules", headers=headers)).json()
    assert schedule["cron"] == "CRON_TZ=Europe/Berlin 0 3 * * *"
    assert schedule["destination"] == f"{APP_URL}/deliveries"
