"""The ends of posts beside their delivery: queues, lost workers, cancellations; the log of slow ones; schedules."""

import asyncio
import json
from typing import Any

import pytest

from batchflow.core.message import LOSS_LIMIT
from batchflow.core.posts import PUSH_DESTINATION
from batchflow.engine.push_response import PushResponse
from batchflow.engine.push_schedules import new_schedule
from batchflow.errors import StoreUnavailable
from batchflow.wire.publish import parse_publish
from batchflow.wire.url_groups import GroupEndpoint, endpoints_text, group_document
from tests.engine.push_stage import MINUTE, URL, Endpoint, Stage
from tests.waiting import wait_until


async def lose_workers(stage: Stage, id: str, count: int = LOSS_LIMIT) -> None:
    """The post loses its workers; without a count it dies with them."""
    store = stage.app.engine.store
    for number in range(count):
        await store.register(f"lost-{number}", 1_000)
        claimed = await store.claim(f"lost-{number}", (PUSH_DESTINATION,), 1)
        assert [it.id for it in claimed.claims] == [id]
        stage.clock.advance("1m")
        await store.expire()
        stage.clock.advance("1m")


# The next post of a queue begins once the one before it, its retries and its callbacks have ended.
async def test_a_queue_waits_for_retries_and_callbacks(stage: Stage) -> None:
    done = "https://example.com/done"
    stage.endpoint.answers = [PushResponse(500), PushResponse(200), PushResponse(500), PushResponse(200)]
    for number in (b"1", b"2"):
        await stage.publish(body=number, queue="mails", Callback=done)
    await stage.drive()
    order = [(it.url == done, it.body if it.url == URL else b"") for it in stage.endpoint.asked]
    assert order == [
        (False, b"1"),
        (False, b"1"),
        (True, b""),
        (True, b""),
        (False, b"2"),
        (True, b""),
    ]
    queue = await stage.store.queue("acme", "mails")
    assert queue is not None
    assert queue.lag == 0


# So it does after posts that have failed for good, and those without callbacks.
@pytest.mark.parametrize("headers", [{}, {"Failure_Callback": "https://example.com/failed"}])
async def test_a_queue_goes_on_after_a_failure(stage: Stage, headers: dict[str, Any]) -> None:
    stage.endpoint.by_url = {URL: PushResponse(500)}
    ids = [await stage.publish(queue="mails", Retries="1", **headers) for _ in range(2)]
    await stage.drive()
    assert sorted(await stage.dead()) == sorted(ids)
    assert [it.url == URL for it in stage.endpoint.asked][:2] == [True, True]


# A post whose workers were lost is FAILED too, tells its failure callback, and frees its place in its queue.
async def test_a_post_that_died_with_its_workers_has_failed(stage: Stage) -> None:
    failed = "https://example.com/failed"
    id = await stage.publish(queue="mails", Failure_Callback=failed, Retries="1")
    later = await stage.publish(queue="mails")
    await lose_workers(stage, id)
    await stage.drive()
    assert await stage.states(id) == "FAILED"
    assert [it.url for it in stage.endpoint.asked] == [failed, URL]
    told = json.loads(stage.endpoint.asked[0].body)
    assert (told["status"], told["dlqId"], told["retried"]) == (503, id, 1)
    assert await stage.states(later) == "ACTIVE DELIVERED"


# Whoever deletes or retries its dead letter before that is noted does not leave the queue without its place.
async def test_a_queue_goes_on_after_a_dead_letter_that_is_deleted_at_once(stage: Stage) -> None:
    id = await stage.publish(queue="mails")
    later = await stage.publish(queue="mails")
    await lose_workers(stage, id)
    assert await stage.app.engine.store.delete_dead_letter(id)
    await stage.drive()
    assert await stage.states(later) == "ACTIVE DELIVERED"


# A post that was cancelled while it was under way ends as cancelled when its attempt has failed, without a callback.
async def test_a_cancelled_post_has_no_failure_callback(stage: Stage) -> None:
    id = await stage.publish(Retries="0", Failure_Callback="https://example.com/failed")
    stage.endpoint.answers = [PushResponse(500)]
    stage.endpoint.gate.clear()
    driving = asyncio.create_task(stage.drive())
    await wait_until(lambda: len(stage.endpoint.asked) == 1, description="the post is under way")
    assert list(await stage.store.cancel_posts("acme", [id])) == [id]
    stage.endpoint.gate.set()
    await driving
    assert (await stage.states(id)).endswith("CANCELED")
    assert await stage.dead() == []
    assert len(stage.endpoint.asked) == 1


# The log says that a request is under way while it lasts, and once only.
async def test_the_log_says_that_a_slow_request_is_under_way(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchflow.engine.pusher.SHOWN_AFTER_S", 0.0)
    id = await stage.publish()
    stage.endpoint.gate.clear()
    driving = asyncio.create_task(stage.drive())
    await wait_until(lambda: _is(stage, id, "ACTIVE"), description="the log has ACTIVE")
    stage.endpoint.gate.set()
    await driving
    assert await stage.states(id) == "ACTIVE DELIVERED"


async def _is(stage: Stage, id: str, states: str) -> bool:
    return await stage.states(id) == states


# If that entry cannot be written for now, it is written with the outcome.
async def test_an_active_entry_is_not_lost_with_the_store(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchflow.engine.pusher.SHOWN_AFTER_S", 0.0)
    tried = asyncio.Event()

    async def broken(_: object) -> None:
        tried.set()
        raise StoreUnavailable("the disk is full")

    id = await stage.publish()
    monkeypatch.setattr(stage.store, "log", broken)
    stage.endpoint.gate.clear()
    driving = asyncio.create_task(stage.drive())
    await tried.wait()
    stage.endpoint.gate.set()
    await driving
    assert await stage.states(id) == "ACTIVE DELIVERED"


# A schedule publishes a post with each of its fires, with its id, at its time.
async def test_a_schedule_publishes_its_post(stage: Stage) -> None:
    headers = [("Upstash-Cron", "* * * * *"), ("Upstash-Delay", "10s"), ("Upstash-Forward-A", "b")]
    request = parse_publish(URL, headers, b"hello", tenant="acme", now=stage.clock.now())
    schedule = new_schedule("nightly", request)
    start = stage.clock.now()
    await stage.app.engine.store.put_schedule(schedule, schedule.cron.next_after(start))
    await stage.drive(ms=2 * MINUTE)
    assert [it.body for it in stage.endpoint.asked] == [b"hello", b"hello"]
    sent = stage.sent()
    assert (sent["upstash-schedule-id"], sent["a"]) == ("nightly", "b")
    created = await stage.store.created_entries("acme", [sent["upstash-message-id"]])
    (about,) = (json.loads(it.detail) for it in created.values())
    assert (about["scheduleId"], about["notBefore"] - about["createdAt"]) == ("nightly", 10_000)


# A schedule of a URL group publishes to each of its endpoints as they are then; none of them is no end of it.
async def test_a_schedule_publishes_to_the_endpoints_of_a_group(stage: Stage) -> None:
    request = parse_publish("team", [("Upstash-Cron", "* * * * *")], b"", tenant="acme", now=stage.clock.now())
    schedule = new_schedule("nightly", request)
    await stage.app.engine.store.put_schedule(schedule, schedule.cron.next_after(stage.clock.now()))
    await stage.drive(ms=MINUTE)
    assert stage.endpoint.asked == []
    endpoints = [GroupEndpoint("https://a.example"), GroupEndpoint("https://b.example", "b")]
    await stage.store.put_document("group", group_document("acme", "team"), endpoints_text(endpoints))
    await stage.drive(ms=MINUTE)
    assert sorted(it.url for it in stage.endpoint.asked) == ["https://a.example", "https://b.example"]
    assert stage.sent()["upstash-topic-name"] == "team"


# An app that has not enabled it claims no posts.
async def test_an_app_without_it_claims_no_posts() -> None:
    stage = Stage(Endpoint())
    stage.app.engine.push_client = None
    stage.app.engine.schedule_targets.clear()
    async with stage.app:
        id = await stage.publish()
        await stage.drive()
        assert await stage.log(id) == []
    assert stage.endpoint.closed == 0


# The client is closed with the engine.
async def test_the_client_is_closed_with_the_engine() -> None:
    stage = Stage(Endpoint())
    await stage.app.start(worker=False)
    await stage.app.stop()
    assert stage.endpoint.closed == 1
