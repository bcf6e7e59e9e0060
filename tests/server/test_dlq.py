"""The routes of the DLQ."""

import asyncio
from typing import Any

import pytest
from httpx import AsyncClient

from batchflow.core.flow import FlowControl
from batchflow.core.message import Message
from batchflow.core.posts import PUSH_DESTINATION, LogEntry
from batchflow.core.settlement import LeaveQueue, Log, dead
from batchflow.engine.engine import Engine
from batchflow.server import dlq_entries
from batchflow.server.context import wire_store
from batchflow.testing.clock import ManualClock
from batchflow.wire.envelope import Envelope
from batchflow.wire.messages import response_detail
from batchflow.wire.publish import parse_publish, posts_of

URL = "https://app.example/jobs"


class Failing:
    """Publishes messages that fail at once, each a second after the other."""

    def __init__(self, engine: Engine, clock: ManualClock) -> None:
        self._engine = engine
        self._clock = clock

    async def __call__(
        self,
        *ids: str,
        url: str = URL,
        body: bytes = b"",
        tenant: str = "ours",
        status: int | None = 500,
        **headers: str,
    ) -> None:
        """Publish messages with these `Upstash-` headers, which are answered with `status`."""
        named = [(f"Upstash-{name.replace('_', '-')}", value) for name, value in headers.items()]
        for id in ids:
            now = self._clock.advance("1s")
            request = parse_publish(url, named, body, tenant=tenant, now=now, caller_ip="10.0.0.1")
            endpoints = [("https://endpoint.example", "first")] if request.is_group else []
            await wire_store(self._engine).post(posts_of(request, lambda id=id: id, endpoints))
            await self.die(id, tenant, status)

    async def die(self, id: str, tenant: str = "ours", status: int | None = 500) -> None:
        """The message ends as a dead letter; without a status, the log does not have its end yet."""
        store, now = self._engine.store, self._clock.now()
        await store.register("worker", 30_000)
        (claim,) = (await store.claim("worker", [PUSH_DESTINATION, "work"], 10)).claims
        assert claim.id == id
        entries = [LogEntry(id, tenant, "ERROR", now)]
        if status is not None:
            detail = response_detail(status, (("x-why", "because"),), b"sorry", error="answered")
            entries.append(LogEntry(id, tenant, "FAILED", now, detail))
        await store.settle(dead(claim, "answered 500", effects=(Log(tuple(entries)), LeaveQueue(id))))


@pytest.fixture
def failing(engine: Engine, clock: ManualClock) -> Failing:
    """Publishes messages that fail."""
    return Failing(engine, clock)


@pytest.fixture
async def three(failing: Failing) -> None:
    """Three entries."""
    await failing("msg_1", "msg_2", "msg_3")


async def ids(http: AsyncClient, **query: Any) -> list[str]:
    response = await http.get("/v2/dlq", params=query)
    assert response.status_code == 200, response.text
    return [it["dlqId"] for it in response.json()["messages"]]


async def waiting(engine: Engine) -> dict[str, Envelope]:
    """The messages that wait, by id."""
    await engine.store.register("worker", 30_000)
    claims = (await engine.store.claim("worker", [PUSH_DESTINATION], 100)).claims
    return {it.id: Envelope.of_text(it.body) for it in claims}


async def test_an_entry_is_the_message_and_its_last_response(
    http: AsyncClient, failing: Failing, clock: ManualClock
) -> None:
    """Alone and in the list."""
    await failing("msg_1", body=b"hello", Retries="0", Label="one,two", Forward_X_Job="a")
    entry = {
        "messageId": "msg_1",
        "dlqId": "msg_1",
        "url": URL,
        "method": "POST",
        "maxRetries": 0,
        "notBefore": clock.now(),
        "createdAt": clock.now(),
        "header": {"X-Job": ["a"]},
        "body": "hello",
        "callerIP": "10.0.0.1",
        "label": "one",
        "labels": ["one", "two"],
        "responseStatus": 500,
        "responseHeader": {"X-Why": ["because"]},
        "responseBody": "sorry",
    }
    assert (await http.get("/v2/dlq/msg_1")).json() == entry
    assert (await http.get("/v2/dlq")).json() == {"messages": [entry]}


async def test_what_is_redacted_is_not_shown(http: AsyncClient, failing: Failing) -> None:
    """Only a hash."""
    await failing("msg_1", body=b"secret", Redact_Fields="body")
    for path in ("/v2/dlq", "/v2/dlq/msg_1"):
        response = await http.get(path)
        assert "REDACTED:" in response.text
        assert "secret" not in response.text


@pytest.mark.usefixtures("three")
async def test_entries_are_listed_newest_first_in_pages(http: AsyncClient) -> None:
    """The last page has no cursor."""
    page = (await http.get("/v2/dlq", params={"count": 2})).json()
    assert [it["dlqId"] for it in page["messages"]] == ["msg_3", "msg_2"]
    page = (await http.get("/v2/dlq", params={"count": 2, "cursor": page["cursor"]})).json()
    assert [it["dlqId"] for it in page["messages"]] == ["msg_1"]
    assert "cursor" not in page
    page = (await http.get("/v2/dlq", params={"count": 3})).json()
    assert "cursor" not in page


@pytest.mark.usefixtures("three")
async def test_entries_that_are_named_are_listed_in_pages_too(http: AsyncClient) -> None:
    """In the same order."""
    query: dict[str, Any] = {"dlqIds": ["msg_1", "msg_3", "msg_2"], "count": 2}
    page = (await http.get("/v2/dlq", params=query)).json()
    assert [it["dlqId"] for it in page["messages"]] == ["msg_3", "msg_2"]
    assert await ids(http, **query, cursor=page["cursor"]) == ["msg_1"]


@pytest.mark.usefixtures("three")
async def test_a_page_of_large_messages_ends_early(http: AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that an answer stays small; the cursor leads to the rest."""
    monkeypatch.setattr(dlq_entries, "_MAX_CHARS", 10)
    page = (await http.get("/v2/dlq")).json()
    assert [it["dlqId"] for it in page["messages"]] == ["msg_3"]
    assert await ids(http, cursor=page["cursor"]) == ["msg_2"]


@pytest.mark.usefixtures("three")
async def test_a_search_goes_over_all_entries(
    http: AsyncClient, failing: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the pages of the store are."""
    monkeypatch.setattr(dlq_entries, "_PAGE", 2)
    await failing("msg_4", "msg_5", Label="one")
    await failing("msg_6", "msg_7")
    assert await ids(http, label="one") == ["msg_5", "msg_4"]
    assert await ids(http, messageId="msg_1") == ["msg_1"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"messageId": "msg_1"}, "msg_1"),
        ({"url": "https://other.example/a"}, "msg_3"),
        ({"topicName": "group"}, "msg_2"),
        ({"queueName": "mail"}, "msg_4"),
        ({"label": ["one", "three"]}, "msg_1 msg_3"),
        ({"label": "one,three"}, "msg_1 msg_3"),
        ({"label": "two", "responseStatus": "404"}, "msg_2"),
        ({"flowControlKey": "jobs"}, "msg_3"),
        ({"responseStatus": "404"}, "msg_2"),
        ({"callerIp": "10.0.0.1"}, "msg_1 msg_2 msg_3 msg_4"),
        ({"callerIp": "10.0.0.2"}, ""),
        ({"fromDate": 1_700_000_002_000, "toDate": 1_700_000_003_000}, "msg_2 msg_3"),
        ({"dlqIds": ["msg_3", "msg_1", "msg_1", "msg_9"]}, "msg_1 msg_3"),
        ({"dlqIds": "msg_3", "label": "one"}, ""),
        ({"dlqIds": ""}, ""),
        ({"source": "workflow"}, ""),
    ],
    ids=str,
)
async def test_entries_are_filtered(http: AsyncClient, failing: Failing, query: dict[str, Any], found: str) -> None:
    """By one of the values of each filter, and by all filters."""
    await failing("msg_1", Label="one,two")
    await failing("msg_2", url="group", Label="two", status=404)
    await failing(
        "msg_3", url="https://other.example/a", Label="three", Flow_Control_Key="jobs", Flow_Control_Value="rate=1"
    )
    await failing("msg_4", Queue_Name="mail")
    assert set(await ids(http, **query)) == set(found.split())


async def test_other_dead_letters_are_not_in_the_dlq(
    http: AsyncClient, other_http: AsyncClient, engine: Engine, failing: Failing
) -> None:
    """Neither those of other tenants nor those of functions."""
    await failing("msg_1", tenant="theirs")
    await engine.store.publish([Message(id="run_1", destination="work", flow=FlowControl(key="work"), label="ours")])
    await failing.die("run_1")
    assert await ids(http) == []
    assert await ids(http, dlqIds=["msg_1", "run_1"]) == []
    for id in ("msg_1", "run_1"):
        for method, path in (("GET", id), ("DELETE", id), ("POST", f"retry/{id}")):
            assert (await http.request(method, f"/v2/dlq/{path}")).status_code == 404
    assert (await http.delete("/v2/dlq", params={"dlqIds": "msg_1"})).json() == {"deleted": 0}
    assert await ids(other_http) == ["msg_1"]


@pytest.mark.usefixtures("three")
async def test_an_entry_is_deleted(http: AsyncClient) -> None:
    """Once."""
    assert (await http.delete("/v2/dlq/msg_2")).status_code == 200
    response = await http.delete("/v2/dlq/msg_2")
    sentence = "there is no entry 'msg_2' in the DLQ; it may have been retried or deleted"
    assert (response.status_code, response.json()) == (404, {"error": sentence})
    assert await ids(http) == ["msg_3", "msg_1"]


@pytest.mark.usefixtures("three")
async def test_entries_are_deleted_by_the_ids_of_a_body(http: AsyncClient) -> None:
    """As the Python SDK sends them; unknown ones do not count."""
    response = await http.request("DELETE", "/v2/dlq", json={"dlqIds": ["msg_1", "msg_3", "msg_9"]})
    assert response.json() == {"deleted": 2}
    assert await ids(http) == ["msg_2"]


@pytest.mark.usefixtures("three")
async def test_entries_are_deleted_by_a_query(http: AsyncClient) -> None:
    """As the JavaScript SDK sends it; with the cursor the next ones are."""
    assert (await http.delete("/v2/dlq", params={"dlqIds": ["msg_1", "msg_9"]})).json() == {"deleted": 1}
    answer = (await http.delete("/v2/dlq", params={"count": 1})).json()
    assert (answer["deleted"], await ids(http)) == (1, ["msg_2"])
    assert (await http.delete("/v2/dlq", params={"count": 1, "cursor": answer["cursor"]})).json() == {"deleted": 1}
    assert (await http.delete("/v2/dlq")).json() == {"deleted": 0}


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize("body", [b'{"dlqIds": []}', b'{"ids": ["msg_1"]}', b"[]", b"x"])
async def test_a_body_that_names_nothing_deletes_nothing(http: AsyncClient, body: bytes) -> None:
    """It must not count as a request for all."""
    response = await http.request("DELETE", "/v2/dlq", content=body)
    assert response.status_code == 400 or response.json() == {"deleted": 0}
    assert len(await ids(http)) == 3


async def test_a_retry_publishes_a_new_message(
    http: AsyncClient, failing: Failing, engine: Engine, clock: ManualClock
) -> None:
    """With all that the old one had; the entry is gone."""
    await failing(
        "msg_1", body=b"secret", Retries="1", Redact_Fields="body", Label="one", Forward_X_Job="a", Delay="0s"
    )
    clock.advance("1h")
    response = await http.post("/v2/dlq/retry/msg_1")
    assert response.status_code == 201
    id = response.json()["messageId"]
    assert id not in ("", "msg_1")
    ((new, envelope),) = (await waiting(engine)).items()
    assert (new, envelope.body.text, envelope.retries, envelope.labels) == (id, "secret", 1, ("one",))
    assert (envelope.headers, envelope.created_at, envelope.not_before) == ((("X-Job", "a"),), clock.now(), clock.now())
    assert (await http.get("/v2/dlq/msg_1")).status_code == 404
    assert (await http.post("/v2/dlq/retry/msg_1")).status_code == 404


async def test_the_headers_of_a_retry_change_the_message(http: AsyncClient, failing: Failing, engine: Engine) -> None:
    """What they do not name stays."""
    await failing("msg_1", Retries="1", Method="PUT", Label="one", Forward_X_Job="a", Forward_X_Kept="b")
    headers = {
        "Upstash-Retries": "7",
        "Upstash-Retry-Delay": "1000",
        "Upstash-Label": "two",
        "Upstash-Forward-X-Job": "c",
        "Upstash-Flow-Control-Key": "jobs",
        "Upstash-Flow-Control-Value": "rate=2",
        "Upstash-Failure-Callback": "https://app.example/failed",
    }
    await http.post("/v2/dlq/retry/msg_1", headers=headers)
    (envelope,) = (await waiting(engine)).values()
    assert (envelope.method, envelope.retries, envelope.retry_delay, envelope.labels) == ("PUT", 7, "1000", ("two",))
    assert dict(envelope.headers) == {"x-job": "c", "X-Kept": "b"}
    assert (envelope.flow_key, envelope.rate) == ("jobs", 2)
    assert envelope.failure_callback is not None


async def test_a_retry_with_a_wrong_header_keeps_the_entry(http: AsyncClient, failing: Failing, engine: Engine) -> None:
    """Nothing is published."""
    await failing("msg_1")
    response = await http.post("/v2/dlq/retry/msg_1", headers={"Upstash-Retries": "x"})
    assert (response.status_code, await ids(http), await waiting(engine)) == (400, ["msg_1"], {})


async def test_a_retry_keeps_its_group_and_its_queue(http: AsyncClient, failing: Failing, engine: Engine) -> None:
    """It goes to the endpoint that has failed, not to the whole group."""
    await failing("msg_1", url="group", Queue_Name="mail")
    await http.post("/v2/dlq/retry/msg_1")
    (envelope,) = (await waiting(engine)).values()
    assert (envelope.topic, envelope.endpoint, envelope.queue) == ("group", "first", "mail")
    assert envelope.url == "https://endpoint.example"


@pytest.mark.usefixtures("three")
async def test_entries_are_retried_by_a_query(http: AsyncClient, engine: Engine) -> None:
    """As the JavaScript SDK sends it: ids, or filters with a cursor."""
    response = await http.post("/v2/dlq/retry", params={"dlqIds": ["msg_1", "msg_9"]})
    assert response.status_code == 201
    (first,) = response.json()["responses"]
    answer = (await http.post("/v2/dlq/retry", params={"count": 1})).json()
    rest = (await http.post("/v2/dlq/retry", params={"count": 1, "cursor": answer["cursor"]})).json()
    assert "cursor" not in rest
    retried = [first["messageId"], *(it["messageId"] for it in [*answer["responses"], *rest["responses"]])]
    assert set(await waiting(engine)) == set(retried)
    assert (await http.post("/v2/dlq/retry")).json() == {"responses": []}


async def test_retries_at_the_same_time_publish_once(http: AsyncClient, failing: Failing, engine: Engine) -> None:
    """Each that is answered with an id has the same."""
    await failing("msg_1")
    answers = await asyncio.gather(*(http.post("/v2/dlq/retry/msg_1") for _ in range(5)))
    assert len(await waiting(engine)) == 1
    assert len({it.json()["messageId"] for it in answers if it.status_code == 201}) == 1


async def test_a_retry_that_fails_is_an_entry_of_its_own(http: AsyncClient, failing: Failing) -> None:
    """Which can be retried again."""
    await failing("msg_1")
    second = (await http.post("/v2/dlq/retry/msg_1")).json()["messageId"]
    await failing.die(second)
    assert await ids(http) == [second]
    assert (await http.post(f"/v2/dlq/retry/{second}")).json()["messageId"] not in ("msg_1", second)


async def test_a_message_whose_end_is_not_in_the_log_is_not_an_entry_yet(
    http: AsyncClient, failing: Failing, engine: Engine
) -> None:
    """It died with its workers: the one that records its end, and leaves its queue, still needs the dead letter."""
    await failing("msg_1", status=None)
    assert await ids(http) == await ids(http, dlqIds="msg_1") == []
    for method, path in (("GET", "msg_1"), ("DELETE", "msg_1"), ("POST", "retry/msg_1")):
        assert (await http.request(method, f"/v2/dlq/{path}")).status_code == 404
    assert (await http.delete("/v2/dlq")).json() == {"deleted": 0}
    assert await engine.store.dead_letter("msg_1") is not None


async def test_an_entry_is_shown_when_the_log_does_not_go_back_so_far(
    http: AsyncClient, failing: Failing, monkeypatch: pytest.MonkeyPatch, engine: Engine
) -> None:
    """Without its response."""
    await failing("msg_1", body=b"hello")

    async def nothing(*_: Any, **__: Any) -> Any:
        return {}

    monkeypatch.setattr(engine.store, "created_entries", nothing)
    monkeypatch.setattr(engine.store, "latest_entries", nothing)
    (entry,) = (await http.get("/v2/dlq")).json()["messages"]
    assert (entry["body"], entry["responseStatus"]) == ("hello", 503)


@pytest.mark.parametrize("query", ["lable=one", "count=0", "cursor=x", "cursor=1", "fromDate=x", "workflow=1"])
@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("DELETE", ""), ("POST", "/retry")])
@pytest.mark.usefixtures("three")
async def test_a_wrong_filter_is_refused(http: AsyncClient, method: str, path: str, query: str) -> None:
    """If it were passed over, too much would be deleted."""
    response = await http.request(method, f"/v2/dlq{path}?{query}")
    assert (response.status_code, list(response.json())) == (400, ["error"])
    assert len(await ids(http)) == 3
