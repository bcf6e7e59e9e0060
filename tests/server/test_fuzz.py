"""Random requests: every one is answered with JSON, and none is a mistake of the server."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any, NamedTuple, cast
from urllib.parse import unquote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.types import Message

from batchflow.engine.engine import Engine
from batchflow.engine.options import EngineOptions
from batchflow.server.app import QStashServer
from batchflow.stores.sqlite import SqliteStore
from batchflow.testing.clock import FixedEntropy, ManualClock

fuzz = settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])

BEGINNINGS = (
    *("publish/", "publish/https://example.com/", "enqueue/", "enqueue/q/https://", "batch", "batch/", "messages"),
    *("messages/", "events", "logs", "dlq/", "queues/", "topics/", "schedules/", "flowControl/", "keys", ""),
    *("wait/", "notify/", "notify/wfr_1/", "waiters/", "workflows/runs", "workflows/runs/", "workflows/hooks/ours/"),
    *("workflows/dlq", "workflows/dlq/resume", "workflows/dlq/callback/", "workflows/events", "workflows/logs"),
    *("workflows/hooks/ours/wfr_1/evt_abcdefgh", "trigger/", "trigger/https://example.com/", "batch/trigger"),
)
METHODS = ("GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS")
HEADERS = (
    *("delay", "not-before", "retries", "retry-delay", "method", "timeout", "callback", "callback-retries", "label"),
    *("failure-callback", "deduplication-id", "content-based-deduplication", "flow-control-key", "cron"),
    *("flow-control-value", "redact-fields", "forward-x", "forward-", "queue-name", "schedule-id", "telemetry-sdk"),
    *("workflow-runid", "workflow-init", "workflow-calltype", "workflow-invoke", "workflow-createdat", "feature-set"),
)
FILTERS = ("messageIds", "label", "state", "cursor", "count", "fromDate", "order", "host", "url", "dlqIds")

texts = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=20)
raw = st.binary(max_size=20).map(lambda it: it.replace(b"?", b"").replace(b"#", b""))
paths = st.tuples(st.sampled_from(BEGINNINGS).map(str.encode), raw | texts.map(str.encode)).map(b"".join)
values = texts | st.integers().map(str) | st.sampled_from(["https://example.com", "5s", "pow(2,retried)", "rate=1"])
pairs = st.tuples(st.sampled_from(FILTERS) | st.sampled_from(HEADERS).map("upstash-{}".format), values)
queries = raw | st.lists(pairs, max_size=3).map(lambda it: "&".join(f"{name}={value}" for name, value in it).encode())
headers = st.lists(st.tuples(st.sampled_from(HEADERS).map("upstash-{}".format), values), max_size=4)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda it: st.lists(it, max_size=3) | st.dictionaries(texts, it, max_size=3),
    max_leaves=6,
)
items = st.fixed_dictionaries(
    {"destination": st.sampled_from(["https://example.com", "group", ""]) | json_values},
    optional={
        "headers": st.dictionaries(st.sampled_from(HEADERS).map("upstash-{}".format), values) | json_values,
        "body": json_values,
        "queue": st.none() | texts | json_values,
    },
)
bodies = st.binary(max_size=50) | json_values.map(lambda it: json.dumps(it).encode())


class Answer(NamedTuple):
    """The answer to a request."""

    status: int
    body: bytes


class Sender:
    """Sends requests to a server, as they are."""

    def __init__(self, runner: asyncio.Runner, server: QStashServer, token: str) -> None:
        self._runner = runner
        self._server = server
        self._token = token

    def __call__(self, method: str, path: bytes, query: bytes = b"", headers: Any = (), body: bytes = b"") -> Answer:
        return self._runner.run(self._send(method, path, query, headers, body))

    async def _send(self, method: str, path: bytes, query: bytes, headers: Any, body: bytes) -> Answer:
        sent: list[Message] = []
        received = iter([{"type": "http.request", "body": body}, {"type": "http.disconnect"}])

        async def receive() -> Message:
            return next(received)

        async def send(message: Message) -> None:
            sent.append(message)

        encoded = [(name.encode(), value.encode()) for name, value in headers]
        scope = {
            "type": "http",
            "http_version": "1.1",
            "scheme": "http",
            "server": ("test", 80),
            "client": ("127.0.0.1", 1),
            "method": method,
            "path": unquote(path.decode("latin-1"), errors="replace"),
            "raw_path": path,
            "query_string": query,
            "headers": [(b"authorization", f"Bearer {self._token}".encode()), *encoded],
        }
        await self._server(scope, receive, send)
        return Answer(sent[0]["status"], b"".join(it.get("body", b"") for it in sent))


@pytest.fixture(scope="module")
def sender() -> Iterator[Sender]:
    clock = ManualClock()
    options = EngineOptions(concurrency=10, grace_s=1, retention_ms=86_400_000, threads=1)
    engine = Engine(SqliteStore(":memory:", clock=clock), {}, [], clock=clock, entropy=FixedEntropy(), options=options)
    with asyncio.Runner() as runner:
        runner.run(engine.open())
        server = QStashServer(engine)
        yield Sender(runner, server, runner.run(server.tokens.create("ours")))
        runner.run(engine.close())


def check(answer: Answer) -> None:
    """An answer is JSON, or empty; an error is a sentence, or several."""
    assert answer.status < 500, answer
    if answer.body:
        found: Any = json.loads(answer.body)
        if answer.status >= 400:
            errors = cast("list[Any]", found) if isinstance(found, list) else [found]
            assert all(list(it) == ["error"] and it["error"] for it in errors)


@fuzz
@given(method=st.sampled_from(METHODS), path=paths, query=queries, headers=headers, body=bodies)
def test_any_request_is_answered(
    sender: Sender, method: str, path: bytes, query: bytes, headers: Any, body: bytes
) -> None:
    """Whatever bytes its path and its query have."""
    check(sender(method, b"/v2/" + path, query, headers, body))


@fuzz
@given(path=raw)
def test_any_path_is_answered(sender: Sender, path: bytes) -> None:
    """Also one that is not of the API."""
    check(sender("POST", path))


@fuzz
@given(destination=raw | texts.map(str.encode), query=queries, headers=headers, body=bodies)
def test_any_destination_is_published_as_sent_or_refused(
    sender: Sender, destination: bytes, query: bytes, headers: Any, body: bytes
) -> None:
    """The answer has the URL that was sent."""
    path = b"https://example.com/" + destination
    answer = sender("POST", b"/v2/publish/" + path, query, headers, body)
    check(answer)
    if answer.status == 201 and "upstash-cron" not in dict(headers) and b"upstash-cron" not in query:
        url = json.loads(answer.body)["url"]
        if path.isascii():
            assert url.encode().startswith(path)


@fuzz
@given(items=st.lists(items | json_values, max_size=3))
def test_any_batch_is_published_as_a_whole_or_refused(sender: Sender, items: list[Any]) -> None:
    """With an answer for each item, or an error."""
    answer = sender("POST", b"/v2/batch", body=json.dumps(items).encode())
    check(answer)
    if answer.status in (201, 202):
        assert len(json.loads(answer.body)) == len(items)
