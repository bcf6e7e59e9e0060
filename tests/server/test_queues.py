"""The routes of queues."""

from typing import Any

import pytest
from httpx import AsyncClient

from batchflow.engine.engine import Engine
from batchflow.server.context import wire_store
from batchflow.testing.clock import ManualClock
from batchflow.wire.publish import parse_publish, posts_of


async def post_to(engine: Engine, queue: str, id: str) -> None:
    request = parse_publish("https://app.example", [], b"", tenant="ours", now=engine.now(), queue=queue)
    await wire_store(engine).post(posts_of(request, lambda: id))


async def test_a_queue_is_made_and_changed(http: AsyncClient, clock: ManualClock) -> None:
    """What a request leaves out stays."""
    made_at = clock.now()
    assert (await http.post("/v2/queues", json={"queueName": "mail"})).status_code == 200
    about = {"name": "mail", "parallelism": 1, "createdAt": made_at, "updatedAt": made_at, "lag": 0, "paused": False}
    assert (await http.get("/v2/queues/mail")).json() == about
    clock.advance("1s")
    await http.post("/v2/queues", json={"queueName": "mail", "parallelism": 3, "paused": True})
    await http.post("/v2/queues", json={"queueName": "mail", "parallelism": 2, "paused": None})
    about |= {"parallelism": 2, "paused": True, "updatedAt": clock.now()}
    assert (await http.get("/v2/queues/mail")).json() == about


async def test_queues_are_listed_by_name_and_apart_by_tenant(http: AsyncClient, other_http: AsyncClient) -> None:
    """Nobody sees those of another tenant."""
    for name in ("b", "a"):
        await http.post("/v2/queues", json={"queueName": name})
    await other_http.post("/v2/queues", json={"queueName": "c"})
    assert [it["name"] for it in (await http.get("/v2/queues")).json()] == ["a", "b"]
    assert (await other_http.get("/v2/queues/a")).status_code == 404
    assert (await other_http.delete("/v2/queues/a")).status_code == 404
    assert (await http.get("/v2/queues/a")).status_code == 200


async def test_a_queue_is_paused_and_resumed(http: AsyncClient) -> None:
    """Both may be repeated."""
    await http.post("/v2/queues", json={"queueName": "mail"})
    for verb, paused in (("pause", True), ("pause", True), ("resume", False), ("resume", False)):
        assert (await http.post(f"/v2/queues/mail/{verb}")).status_code == 200
        assert (await http.get("/v2/queues/mail")).json()["paused"] is paused


async def test_the_lag_counts_what_has_not_ended(http: AsyncClient, engine: Engine) -> None:
    """A queue that a message names is there."""
    await post_to(engine, "mail", "msg_1")
    await post_to(engine, "mail", "msg_2")
    assert (await http.get("/v2/queues/mail")).json()["lag"] == 2


async def test_the_messages_of_a_deleted_queue_that_wait_are_cancelled(http: AsyncClient, engine: Engine) -> None:
    """Nothing delivers them."""
    await http.post("/v2/queues", json={"queueName": "mail", "paused": True})
    await post_to(engine, "mail", "msg_1")
    assert (await http.delete("/v2/queues/mail")).status_code == 200
    assert (await http.get("/v2/queues/mail")).status_code == 404
    (last, *_) = await wire_store(engine).log_entries("ours", message="msg_1")
    assert last.entry.state == "CANCELED"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/queues/none"),
        ("DELETE", "/v2/queues/none"),
        ("POST", "/v2/queues/none/pause"),
        ("POST", "/v2/queues/none/resume"),
    ],
)
async def test_a_queue_that_does_not_exist_is_not_made(http: AsyncClient, method: str, path: str) -> None:
    """The answer says how it is made."""
    response = await http.request(method, path)
    sentence = "there is no queue 'none'; make it with POST /v2/queues"
    assert (response.status_code, response.json()) == (404, {"error": sentence})
    assert (await http.get("/v2/queues")).json() == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"queueName": ""},
        {"queueName": "a b"},
        {"queueName": ".."},
        {"queueName": "a", "parallelism": 0},
        {"queueName": "a", "parallelism": 10**20},
        {"queueName": "a", "parallelism": "many"},
        [],
    ],
    ids=str,
)
async def test_a_wrong_queue_is_refused(http: AsyncClient, body: Any) -> None:
    """With a sentence."""
    response = await http.post("/v2/queues", json=body)
    assert (response.status_code, list(response.json())) == (400, ["error"])


async def test_a_body_that_is_not_sent_as_json_is_told_how_to_be(http: AsyncClient) -> None:
    """As curl sends one without a header."""
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    response = await http.post("/v2/queues", content=b'{"queueName": "a"}', headers=headers)
    sentence = "the body is not a JSON object; send one, with 'Content-Type: application/json'"
    assert (response.status_code, response.json()) == (400, {"error": sentence})
