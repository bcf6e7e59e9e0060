"""Publish, enqueue and batch: destinations as they were sent, and one answer for each post."""

from typing import Any

import pytest
from httpx import AsyncClient
from pydantic_core import from_json

from batchflow.engine.engine import Engine
from batchflow.server.context import wire_store
from batchflow.server.raw_request import MAX_BODY
from batchflow.testing.clock import ManualClock
from batchflow.wire.url_groups import GroupEndpoint, endpoints_text

URL = "https://example.com/hook"


async def described(engine: Engine, id: str, tenant: str = "ours") -> dict[str, Any]:
    """The message as the log has it."""
    entries = await wire_store(engine).created_entries(tenant, [id])
    return from_json(entries[id].detail)


async def make_group(engine: Engine, *urls: str) -> None:
    text = endpoints_text([GroupEndpoint(it, f"name-{number}") for number, it in enumerate(urls)])
    await wire_store(engine).put_document("group", "ours/group", text)


async def test_a_published_message_has_what_was_sent(http: AsyncClient, engine: Engine) -> None:
    """Its body, its content type and the headers that it forwards."""
    headers = {"Content-Type": "text/plain", "Upstash-Forward-X-User": "é", "Upstash-Retries": "5"}
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    response = await http.post(f"/v2/publish/{URL}", headers=raw, content=b"hello")
    answer = response.json()
    assert response.status_code == 201
    assert answer == {"messageId": answer["messageId"], "url": URL}
    message = await described(engine, answer["messageId"])
    assert message["url"] == URL
    assert message["body"] == "hello"
    assert message["maxRetries"] == 5
    assert {name.lower(): value for name, value in message["header"].items()} == {
        "content-type": ["text/plain"],
        "x-user": ["é"],
    }
    assert message["callerIP"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("https://example.com", "https://example.com"),
        ("https://example.com/", "https://example.com/"),
        ("http://example.com//a///b/", "http://example.com//a///b/"),
        ("https://example.com/a%2Fb%20c", "https://example.com/a%2Fb%20c"),
        ("https://example.com/a?x=1&y=%20+z&x=2", "https://example.com/a?x=1&y=%20+z&x=2"),
        ("https://example.com/a?upstash-retries=1&x=1&Upstash-Delay=1s", "https://example.com/a?x=1"),
        ("https://example.com/?u=https://other.com/b?c", "https://example.com/?u=https://other.com/b?c"),
        ("https://user:word@example.com:8443/a", "https://user:word@example.com:8443/a"),
        ("http://[::1]:80/a", "http://[::1]:80/a"),
        ("https%3A%2F%2Fexample.com%2Fa%3Fx%3D1", "https://example.com/a?x=1"),
        ("HTTPS://example.com/a", "HTTPS://example.com/a"),
    ],
)
async def test_a_destination_is_taken_as_it_was_sent(http: AsyncClient, path: str, url: str) -> None:
    """Undecoded, with double slashes, and with the query that is not for the server."""
    response = await http.post(f"/v2/publish/{path}")
    assert (response.status_code, response.json().get("url")) == (201, url)


async def test_the_token_is_no_part_of_the_destination(stranger: AsyncClient, token: str) -> None:
    """Nor is it delivered."""
    response = await stranger.post(f"/v2/publish/{URL}?x=1&qstash_token={token}")
    assert response.json()["url"] == f"{URL}?x=1"


async def test_parameters_count_as_headers(http: AsyncClient, engine: Engine) -> None:
    """As hosted QStash takes them."""
    response = await http.post(f"/v2/publish/{URL}?upstash-retries=7&upstash-method=put")
    message = await described(engine, response.json()["messageId"])
    assert (message["maxRetries"], message["method"]) == (7, "PUT")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("", 400),
        ("/", 400),
        ("https://", 400),
        ("https:/example.com", 400),
        ("ftp://example.com", 400),
        ("no/group", 400),
        ("group", 404),
        ("api/llm", 400),
    ],
)
async def test_a_wrong_destination_is_refused(http: AsyncClient, path: str, status: int) -> None:
    """With a sentence."""
    response = await http.post(f"/v2/publish/{path}")
    assert response.status_code == status
    assert list(response.json()) == ["error"]


async def test_a_wrong_header_is_named(http: AsyncClient) -> None:
    """And nothing is published."""
    response = await http.post(f"/v2/publish/{URL}", headers={"Upstash-Delay": "soon"})
    assert response.status_code == 400
    assert "upstash-delay" in response.json()["error"]


async def test_a_cron_expression_makes_a_schedule(http: AsyncClient, engine: Engine) -> None:
    """And publishes nothing now."""
    headers = {"Upstash-Cron": "*/5 * * * *", "Upstash-Schedule-Id": "mine"}
    response = await http.post(f"/v2/publish/{URL}?x=1", headers=headers)
    assert (response.status_code, response.json()) == (201, {"scheduleId": "mine"})
    assert (await http.get("/v2/schedules/mine")).json()["destination"] == f"{URL}?x=1"
    assert await wire_store(engine).open_posts("ours") == []


async def test_only_post_publishes(http: AsyncClient) -> None:
    """Another method is refused with the one to use."""
    response = await http.get(f"/v2/publish/{URL}")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert response.json() == {"error": "GET is not possible here; send POST"}


async def test_a_large_body_is_refused(http: AsyncClient) -> None:
    """Before it is read."""
    response = await http.post(f"/v2/publish/{URL}", content=b"x" * (MAX_BODY + 1))
    assert response.status_code == 413
    assert "larger than 16,777,216 bytes" in response.json()["error"]


async def test_a_duplicate_has_the_id_of_the_first(http: AsyncClient, other_http: AsyncClient) -> None:
    """And the status 202; another tenant's message is another one."""
    headers = {"Upstash-Deduplication-Id": "one"}
    first = await http.post(f"/v2/publish/{URL}", headers=headers)
    again = await http.post(f"/v2/publish/{URL}", headers=headers)
    other = await other_http.post(f"/v2/publish/{URL}", headers=headers)
    assert [it.status_code for it in (first, again, other)] == [201, 202, 201]
    assert again.json() == {**first.json(), "deduplicated": True}
    assert other.json()["messageId"] != first.json()["messageId"]


async def test_the_same_content_is_published_once(http: AsyncClient, clock: ManualClock) -> None:
    """Within ten minutes."""
    headers = {"Upstash-Content-Based-Deduplication": "True"}
    sent = [await http.post(f"/v2/publish/{URL}", headers=headers, content=it) for it in (b"a", b"a", b"b")]
    assert [it.status_code for it in sent] == [201, 202, 201]
    clock.advance("11m")
    assert (await http.post(f"/v2/publish/{URL}", headers=headers, content=b"a")).status_code == 201


async def test_a_group_gets_a_message_for_each_endpoint(http: AsyncClient, engine: Engine) -> None:
    """The answer has all of them."""
    await make_group(engine, "https://a.example", "https://b.example/x")
    response = await http.post("/v2/publish/group", content=b"hello")
    answers = response.json()
    assert [it["url"] for it in answers] == ["https://a.example", "https://b.example/x"]
    messages = [await described(engine, it["messageId"]) for it in answers]
    assert [(it["topicName"], it["endpointName"], it["body"]) for it in messages] == [
        ("group", "name-0", "hello"),
        ("group", "name-1", "hello"),
    ]


async def test_messages_for_a_group_are_deduplicated_one_by_one(http: AsyncClient, engine: Engine) -> None:
    """A new endpoint gets its message."""
    headers = {"Upstash-Deduplication-Id": "one"}
    await make_group(engine, "https://a.example")
    first = await http.post("/v2/publish/group", headers=headers)
    await make_group(engine, "https://a.example", "https://b.example")
    again = await http.post("/v2/publish/group", headers=headers)
    assert again.status_code == 201
    assert again.json()[0] == {**first.json()[0], "deduplicated": True}
    assert "deduplicated" not in again.json()[1]
    assert (await http.post("/v2/publish/group", headers=headers)).status_code == 202


async def test_a_group_is_that_of_its_tenant(other_http: AsyncClient, engine: Engine) -> None:
    """Others do not know it."""
    await make_group(engine, "https://a.example")
    assert (await other_http.post("/v2/publish/group")).status_code == 404


async def test_an_enqueued_message_is_in_its_queue(http: AsyncClient, engine: Engine) -> None:
    """Which is made if it does not exist."""
    response = await http.post(f"/v2/enqueue/my-queue/{URL}?x=1")
    assert response.json()["url"] == f"{URL}?x=1"
    assert (await described(engine, response.json()["messageId"]))["queueName"] == "my-queue"
    queue = await wire_store(engine).queue("ours", "my-queue")
    assert queue is not None
    assert (queue.lag, queue.parallelism) == (1, 1)


@pytest.mark.parametrize("path", ["", "my-queue", "my-queue/", "/https://example.com", "a b/https://example.com"])
async def test_a_queue_and_a_destination_are_needed(http: AsyncClient, path: str) -> None:
    """Both, with a name that queues may have."""
    assert (await http.post(f"/v2/enqueue/{path}")).status_code == 400


async def test_a_batch_answers_each_item(http: AsyncClient, engine: Engine) -> None:
    """In order; that of a group is an array."""
    await make_group(engine, "https://a.example")
    items = [
        {"destination": f"{URL}?x=1", "headers": {"upstash-method": "PUT", "content-type": "text/plain"}, "body": "a"},
        {"destination": "group", "queue": None, "body": None},
        {"destination": URL, "queue": "q", "headers": {"Upstash-Retries": 2}},
    ]
    response = await http.post("/v2/batch", json=items)
    first, second, third = response.json()
    assert response.status_code == 201
    assert (first["url"], second[0]["url"], third["url"]) == (f"{URL}?x=1", "https://a.example", URL)
    messages = [await described(engine, it["messageId"]) for it in (first, second[0], third)]
    assert [(it["method"], it["body"], it["maxRetries"]) for it in messages] == [
        ("PUT", "a", 3),
        ("POST", "", 3),
        ("POST", "", 2),
    ]
    assert [it.get("queueName") for it in messages] == [None, None, "q"]


@pytest.mark.parametrize(
    ("body", "delivered"),
    [({"a": [1, "é"], "b": None}, '{"a":[1,"é"],"b":null}'), ([], "[]"), (1, "1"), (True, "true"), ("", "")],
)
async def test_a_body_that_is_not_a_text_is_delivered_as_json(
    http: AsyncClient, engine: Engine, body: object, delivered: str
) -> None:
    """Compact, as `JSON.stringify` writes it: an official SDK sends objects."""
    response = await http.post("/v2/batch", json=[{"destination": URL, "body": body}])
    assert (await described(engine, response.json()[0]["messageId"]))["body"] == delivered


async def test_a_wrong_item_refuses_the_whole_batch(http: AsyncClient, engine: Engine) -> None:
    """Nothing is published, and each wrong item is named."""
    items = [{"destination": URL}, {"destination": "ftp://x"}, "x", {"destination": URL, "body": "y"}, {"body": "z"}]
    response = await http.post("/v2/batch", json=items)
    assert response.status_code == 400
    assert [it["error"][:7] for it in response.json()] == ["item 1:", "item 2:", "item 4:"]
    assert await wire_store(engine).open_posts("ours") == []


@pytest.mark.parametrize(
    "item",
    [
        {"destination": 1},
        {"destination": URL, "headers": []},
        {"destination": URL, "headers": {"upstash-retries": ["1"]}},
        {"destination": URL, "headers": {"upstash-cron": "* * * * *"}},
        {"destination": URL, "queue": 1},
        {"destination": "nogroup"},
        {"destination": URL, "headers": {"upstash-forward-x": "a\nb"}},
    ],
)
async def test_items_are_checked(http: AsyncClient, item: dict[str, Any]) -> None:
    """Each error is a sentence."""
    response = await http.post("/v2/batch", json=[item])
    assert response.status_code in (400, 404)
    (error,) = response.json()
    assert error["error"].startswith("item 0: ")


async def test_too_many_retries_of_an_item_are_told_from_a_mistake(http: AsyncClient) -> None:
    """With 412, as hosted QStash answers what a plan does not allow."""
    items = [{"destination": URL, "headers": {"upstash-retries": "100"}}]
    assert (await http.post("/v2/batch", json=items)).status_code == 412


@pytest.mark.parametrize("body", [b"", b"{", b"{}", b"1", b'"x"', b"[NaN]", b"\xff"])
async def test_a_batch_is_an_array(http: AsyncClient, body: bytes) -> None:
    """Anything else is refused with one sentence."""
    response = await http.post("/v2/batch", content=body)
    assert response.status_code == 400
    assert "array" in response.json()["error"]


async def test_an_empty_batch_publishes_nothing(http: AsyncClient) -> None:
    """And is not an error."""
    response = await http.post("/v2/batch", json=[])
    assert (response.status_code, response.json()) == (201, [])


async def test_duplicates_within_a_batch_are_told(http: AsyncClient) -> None:
    """The second has the id of the first."""
    item = {"destination": URL, "headers": {"upstash-deduplication-id": "one"}}
    response = await http.post("/v2/batch", json=[item, item])
    first, second = response.json()
    assert second == {**first, "deduplicated": True}
    assert (await http.post("/v2/batch", json=[item])).status_code == 202
