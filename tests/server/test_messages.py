"""Messages: shown until they are pruned, cancelled one by one or as filters select them."""

from typing import Any

import pytest
from httpx import AsyncClient

from batchflow.core.posts import LogEntry
from batchflow.engine.engine import Engine
from batchflow.server.context import wire_store
from batchflow.testing.clock import ManualClock

URL = "https://example.com/hook"


async def publish(http: AsyncClient, url: str = URL, **headers: str) -> str:
    """Publish a message; its id."""
    named = {f"Upstash-{name.replace('_', '-')}": value for name, value in headers.items()}
    response = await http.post(f"/v2/publish/{url}", headers=named, content=b"{}")
    return response.json()["messageId"]


async def deliver(engine: Engine, id: str, tenant: str = "ours") -> None:
    """Write what a delivery writes to the log."""
    await wire_store(engine).log([LogEntry(id, tenant, "DELIVERED", engine.now())])


async def delete(http: AsyncClient, query: str = "", **options: Any) -> Any:
    """Cancel messages; the answer."""
    response = await http.request("DELETE", f"/v2/messages{query}", **options)
    assert response.status_code == 200, response.text
    return response.json()["cancelled"]


async def test_a_message_is_shown_as_it_was_sent(http: AsyncClient, clock: ManualClock) -> None:
    """With the fields that the SDKs need."""
    id = await publish(http, Retries="5", Label="one,two", Forward_X_User="me")
    message = (await http.get(f"/v2/messages/{id}")).json()
    assert message["messageId"] == id
    assert (message["url"], message["method"], message["maxRetries"]) == (URL, "POST", 5)
    assert (message["createdAt"], message["notBefore"]) == (clock.now(), clock.now())
    assert (message["label"], message["labels"]) == ("one", ["one", "two"])
    assert message["body"] == "{}"


async def test_a_message_stays_readable_after_its_delivery(http: AsyncClient, engine: Engine) -> None:
    """A fast delivery must not hide it from who has just published it."""
    id = await publish(http)
    await deliver(engine, id)
    assert (await http.get(f"/v2/messages/{id}")).status_code == 200


async def test_a_cancelled_message_is_not_found(http: AsyncClient) -> None:
    """Nor can it be cancelled again."""
    id = await publish(http)
    assert (await http.delete(f"/v2/messages/{id}")).json() == {"cancelled": 1}
    assert (await http.get(f"/v2/messages/{id}")).status_code == 404
    assert (await http.delete(f"/v2/messages/{id}")).status_code == 404


async def test_a_delivered_message_cannot_be_cancelled(http: AsyncClient, engine: Engine) -> None:
    """The sentence says why."""
    id = await publish(http)
    await deliver(engine, id)
    response = await http.delete(f"/v2/messages/{id}")
    assert response.status_code == 404
    assert "has ended already" in response.json()["error"]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_an_unknown_message_is_not_found(http: AsyncClient, method: str) -> None:
    """With a sentence."""
    response = await http.request(method, "/v2/messages/msg_none")
    assert response.status_code == 404
    assert response.json()["error"].startswith("there is no message 'msg_none'")


async def test_a_message_is_that_of_its_tenant(http: AsyncClient, other_http: AsyncClient) -> None:
    """Others can neither see nor cancel it, whatever they ask."""
    id = await publish(http)
    assert (await other_http.get(f"/v2/messages/{id}")).status_code == 404
    assert (await other_http.delete(f"/v2/messages/{id}")).status_code == 404
    assert await delete(other_http) == 0
    assert await delete(other_http, f"?messageIds={id}") == 0
    assert await delete(other_http, json={"messageIds": [id]}) == 0
    assert (await other_http.get("/v2/events", params={"messageId": id})).json() == {"events": []}
    assert (await http.get(f"/v2/messages/{id}")).status_code == 200


async def test_ids_may_be_in_the_body_or_in_the_query(http: AsyncClient, engine: Engine) -> None:
    """As the Python and the JavaScript SDK send them; those that have ended and unknown ones do not count."""
    ids = [await publish(http) for _ in range(7)]
    await deliver(engine, ids[6])
    assert await delete(http, json={"messageIds": [ids[0], ids[1], "msg_none"]}) == 2
    assert await delete(http, f"?messageIds={ids[2]}&messageIds={ids[3]}&count=100") == 2
    assert await delete(http, f"?messageIds={ids[4]},{ids[4]},{ids[6]}") == 1
    left = [(await http.get(f"/v2/messages/{it}")).status_code for it in ids]
    assert left == [404, 404, 404, 404, 404, 200, 200]


@pytest.mark.parametrize("options", [{}, {"params": {"count": 100}}, {"json": {}}])
async def test_without_filters_all_are_cancelled(http: AsyncClient, options: dict[str, Any]) -> None:
    """However many pages they are; of the tenant alone."""
    for _ in range(5):
        await http.post("/v2/batch", json=[{"destination": URL}] * 20)
    assert await delete(http, **options) == 100
    assert await delete(http) == 0


async def test_a_count_limits_what_is_cancelled(http: AsyncClient) -> None:
    """The oldest go first."""
    ids = [await publish(http) for _ in range(3)]
    assert await delete(http, "?count=2") == 2
    assert [(await http.get(f"/v2/messages/{it}")).status_code for it in ids] == [404, 404, 200]


@pytest.mark.parametrize(
    "query",
    [
        "label=mine",
        "label=other&label=mine",
        "label=other,mine",
        "url=https://mine.example/a/b",
        "host=mine.example",
        "path=/a/b",
        "flowControlKey=mine-key",
        "label=mine&host=mine.example&count=10",
    ],
)
async def test_each_filter_selects(http: AsyncClient, query: str) -> None:
    """The other message stays."""
    await publish(http, label="yours")
    flow = {"Flow_Control_Key": "mine-key", "Flow_Control_Value": "parallelism=1"}
    mine = await publish(http, "https://mine.example/a/b", Label="mine", **flow)
    assert await delete(http, f"?{query}") == 1
    assert (await http.get(f"/v2/messages/{mine}")).status_code == 404


async def test_a_queue_and_dates_select(http: AsyncClient, clock: ManualClock) -> None:
    """Dates are in ms, and inclusive."""
    first = clock.now()
    await publish(http)
    clock.advance(1)
    await http.post(f"/v2/enqueue/q/{URL}")
    assert await delete(http, f"?queueName=q&toDate={first}") == 0
    assert await delete(http, f"?queueName=q&fromDate={first}") == 1
    assert await delete(http, f"?toDate={first}&fromDate={first}") == 1


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ("?lable=mine", None),
        ("?all=true", None),
        ("?count=x", None),
        ("?fromDate=yesterday", None),
        ("", b"{"),
        ("", b"[]"),
        ("", b'{"ids":["msg_1"]}'),
        ("", b'{"messageIds":[{}]}'),
    ],
)
async def test_what_is_not_understood_cancels_nothing(http: AsyncClient, query: str, body: bytes | None) -> None:
    """Least of all everything."""
    id = await publish(http)
    response = await http.request("DELETE", f"/v2/messages{query}", content=body)
    assert response.status_code == 400
    assert list(response.json()) == ["error"]
    assert (await http.get(f"/v2/messages/{id}")).status_code == 200


@pytest.mark.parametrize(("query", "body"), [("?messageIds=", None), ("", {"messageIds": []}), ("?label=", None)])
async def test_an_empty_filter_cancels_nothing(http: AsyncClient, query: str, body: Any) -> None:
    """An empty list of ids is not a wish to cancel all."""
    await publish(http)
    assert await delete(http, query, json=body) == 0
