"""Random requests: never a 500, and nothing is started unless the response says so."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

import pytest
from httpx import AsyncClient, Response
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchflow import Batchflow
from tests.http.conftest import client_of
from tests.http.samples import serve_all

NAMES = (
    *("dryRun", "force", "limit", "userIds", "itemIds", "userId", "cursor", "label", "dedupId", "paidOnly", "ratio"),
    "notifyUrl",
    *("region", "email", "invited_by", "paid_only", "item_ids", "", "nameless"),
)
POSTS = (
    *("/welcome/process-users", "/welcome/paginate-users", "/welcome/generate-user", "/greet/process-items"),
    *("/onboarding", "/nightly/cleanup", "/approvals", "/signup"),
)
OPTIONS = (
    *("workflow-runid", "deduplication-id", "delay", "not-before", "label", "retries", "retry-delay"),
    *("flow-control-key", "flow-control-value", "forward-x", "forward-", "callback", "telemetry-sdk"),
)

texts = st.text(st.characters(codec="utf-8"), max_size=20)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts | st.integers(10**18, 10**40)
values = st.recursive(scalars, lambda it: st.lists(it, max_size=4) | st.dictionaries(texts, it, max_size=4))
objects = st.dictionaries(st.sampled_from(NAMES), values | st.lists(texts, max_size=3), max_size=6)
bodies = st.binary(max_size=200) | (values | objects).map(lambda it: json.dumps(it).encode())
tokens = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12)
numbers_as_text = st.integers().map(str) | st.floats().map(str)
known_headers = st.sampled_from(["content-type", "content-length", "content-encoding", "host", "accept", "range"])
# A header of a proxy makes it the request of a stranger: 403 where only operators are answered.
known_headers |= st.sampled_from(["x-forwarded-proto", "x-forwarded-prefix", "forwarded", "transfer-encoding"])
header_values = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=30).map(
    lambda it: it.encode("latin-1")
)
limits = st.lists(
    st.sampled_from(["rate=", "parallelism=", "period=", "1", "0", "1m", "-1", "9" * 30, ",", " "]), max_size=8
)
option_values = header_values | numbers_as_text.map(str.encode) | limits.map("".join).map(str.encode)
options = st.tuples(st.sampled_from(OPTIONS).map("upstash-{}".format), option_values)
json_type = st.just(("content-type", b"application/json"))
headers = st.lists(st.tuples(known_headers | tokens, header_values) | options | json_type, max_size=4)
# A slash makes another path, which is the app's to answer.
ids = texts.filter(lambda it: it not in ("", ".", "..") and "/" not in it) | st.just("%ff%00")
# No path of a router goes over a line feed.
event_ids = ids.filter(lambda it: "\n" not in it) | st.sampled_from(["a/b:c", "batchflow:x"])
queries = st.dictionaries(st.sampled_from(["state", "after", "limit", "open", "workflow", "interval"]) | texts, texts)
queries |= st.dictionaries(st.sampled_from(["after", "limit", "interval"]), numbers_as_text)
cursors = st.from_regex(r"[0-9]{1,40}\..{1,9}") | numbers_as_text
queries |= st.fixed_dictionaries({"cursor": cursors}, optional={"function": texts, "label": texts, "state": texts})
# Beside a parameter that is unknown none is looked at.
batch_queries = queries | st.dictionaries(st.sampled_from(["workflow", "open", "limit"]), texts | numbers_as_text)
event_queries = queries | st.fixed_dictionaries({}, optional={"runId": texts})
selections = st.dictionaries(st.sampled_from(["ids", "label", "function", "id"]), values | st.lists(texts, max_size=3))

fuzz = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


class CountingClient:
    """A client of an app without a worker; `started` counts the triggers."""

    def __init__(self, runner: asyncio.Runner, flow: Batchflow, http: AsyncClient) -> None:
        self._runner = runner
        self._http = http
        self.started = 0
        publish, open_batch = flow.engine.publish, flow.engine.open_batch

        async def counted_publish(messages: Any) -> Sequence[bool]:
            self.started += 1
            return await publish(messages)

        async def counted_open(batch: Any, messages: Any) -> bool:
            self.started += 1
            return await open_batch(batch, messages)

        flow.engine.publish, flow.engine.open_batch = counted_publish, counted_open

    def __call__(self, method: str, path: str, **options: Any) -> Response:
        return self._runner.run(self._http.request(method, path, **options))


@pytest.fixture
def client() -> Iterator[CountingClient]:
    flow = Batchflow("sqlite://", worker=False)
    serve_all(flow)
    with asyncio.Runner() as runner:
        runner.run(flow.start())
        http = client_of(flow)
        yield CountingClient(runner, flow, http)
        runner.run(http.aclose())
        runner.run(flow.stop())


@fuzz
@given(path=st.sampled_from(POSTS), body=bodies, headers=headers)
def test_any_body_is_answered(client: CountingClient, path: str, body: bytes, headers: Any) -> None:
    """Bytes, JSON and almost right triggers, with any headers."""
    before = client.started
    response = client("POST", path, content=body, headers=headers)
    assert response.status_code in (200, 202, 400, 413, 415, 422)
    assert response.json()["success"] is (response.status_code < 300)
    assert (client.started > before) is (response.status_code == 202)


@fuzz
@given(
    method=st.sampled_from(["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS"]),
    path=st.sampled_from(
        [
            *("/batches/{}", "/batches/{}/items", "/batches/{}/progress", "/batches/{}/cancel"),
            *("/runs/{}", "/runs/{}/cancel", "/webhooks/{}"),
        ]
    ),
    id=ids,
    headers=headers,
    query=queries,
)
def test_any_id_is_answered(
    client: CountingClient, method: str, path: str, id: str, headers: Any, query: dict[str, str]
) -> None:
    """Nothing has that id, or the method or a parameter does not fit."""
    response = client(method, path.format(quote(id, safe="%")), headers=headers, params=query)
    probes = {"HEAD": 200, "OPTIONS": 204} if path.startswith("/webhooks/") else {}
    assert response.status_code in (403, 404, 405, 422, probes.get(method))
    assert client.started == 0


@fuzz
@given(path=st.sampled_from(POSTS), query=queries)
def test_any_query_of_a_trigger_is_answered(client: CountingClient, path: str, query: dict[str, str]) -> None:
    """A trigger takes no parameters; with one, nothing is started."""
    before = client.started
    response = client("POST", path, params=query)
    assert response.status_code in ((422,) if query else (202, 400, 422))
    assert (client.started > before) is (response.status_code == 202)


@fuzz
@given(path=st.sampled_from(["/batches", "/runs"]), query=batch_queries, headers=headers)
def test_any_query_of_the_lists_is_answered(
    client: CountingClient, path: str, query: dict[str, str], headers: Any
) -> None:
    """An empty list, an unknown workflow or function, or a parameter that does not fit."""
    assert client("GET", path, params=query, headers=headers).status_code in (200, 403, 404, 422)


@fuzz
@given(body=bodies | selections.map(lambda it: json.dumps(it).encode()), headers=headers)
def test_any_selection_to_cancel_is_answered(client: CountingClient, body: bytes, headers: Any) -> None:
    """Nothing was started, so nothing is cancelled."""
    response = client("POST", "/runs/cancel", content=body, headers=headers)
    assert response.status_code in (200, 400, 403, 404, 413, 415, 422)
    if response.status_code == 200:
        assert response.json() == {"success": True, "cancelled": 0}


LETTER_NAMES = (
    *("dlqIds", "all", "workflow", "url", "workflowRunId", "batchId", "itemId", "label", "responseStatus", "group"),
    *("fromDate", "toDate", "cursor", "limit", "retries", "flowControl", "id"),
)
times = st.datetimes().map("{}Z".format) | st.sampled_from(["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
letters = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("workflow", "url", "workflowRunId", "batchId", "itemId", "label", "group"), texts),
        "fromDate": times | numbers_as_text,
        "toDate": times | texts,
        "cursor": cursors,
        "limit": numbers_as_text,
        "responseStatus": numbers_as_text,
    },
)
letter_bodies = st.dictionaries(st.sampled_from(LETTER_NAMES), values | times, max_size=4) | letters


@fuzz
@given(path=st.sampled_from(["/dlq", "/dlq/groups"]), query=letters | queries)
def test_any_search_of_dead_letters_is_answered(client: CountingClient, path: str, query: dict[str, str]) -> None:
    """There are none, or a parameter does not fit."""
    assert client("GET", path, params=query).status_code in (200, 422)


@fuzz
@given(
    command=st.sampled_from(["resume", "restart", "callback", "delete"]),
    body=bodies | letter_bodies.map(lambda it: json.dumps(it).encode()),
)
def test_any_command_for_dead_letters_is_answered(client: CountingClient, command: str, body: bytes) -> None:
    """Nothing is dead, so nothing is done."""
    response = client("POST", f"/dlq/{command}", content=body)
    assert response.status_code in (200, 400, 413, 422)
    if response.status_code == 200:
        assert response.json()["count"] == 0


@fuzz
@given(id=event_ids, body=bodies, headers=headers, query=event_queries)
def test_any_event_is_answered(
    client: CountingClient, id: str, body: bytes, headers: Any, query: dict[str, str]
) -> None:
    """No run waits for it."""
    path = f"/events/{quote(id, safe='%/:')}"
    notified = client("POST", path, content=body, headers=headers, params=query)
    assert notified.status_code in (200, 400, 403, 413, 415, 422)
    if notified.status_code == 200:
        assert notified.json()["runIds"] == []
    assert client("GET", f"{path}/waiters", headers=headers, params=query).status_code in (200, 403, 422)
