"""Whatever a client sends: never a 500, and nothing is started unless the answer says so."""

import asyncio
import json
from collections.abc import Iterator
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
    *("region", "email", "invited_by", "paid_only", "item_ids", "", "nameless"),
)
POSTS = (
    *("/welcome/process-users", "/welcome/paginate-users", "/welcome/generate-user", "/greet/process-items"),
    *("/onboarding", "/nightly/cleanup"),
)

texts = st.text(st.characters(codec="utf-8"), max_size=20)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts | st.integers(10**18, 10**40)
values = st.recursive(scalars, lambda it: st.lists(it, max_size=4) | st.dictionaries(texts, it, max_size=4))
objects = st.dictionaries(st.sampled_from(NAMES), values | st.lists(texts, max_size=3), max_size=6)
bodies = st.binary(max_size=200) | (values | objects).map(lambda it: json.dumps(it).encode())
tokens = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12)
known_headers = st.sampled_from(["content-type", "content-length", "content-encoding", "host", "accept", "range"])
known_headers |= st.sampled_from(["x-forwarded-proto", "x-forwarded-prefix", "forwarded", "transfer-encoding"])
header_values = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=30).map(
    lambda it: it.encode("latin-1")
)
headers = st.lists(st.tuples(known_headers | tokens, header_values), max_size=4)
# A slash makes another path, which is the app's to answer.
ids = texts.filter(lambda it: it not in ("", ".", "..") and "/" not in it) | st.just("%ff%00")
queries = st.dictionaries(st.sampled_from(["state", "after", "limit", "open", "workflow", "interval"]) | texts, texts)
numbers = st.integers().map(str) | st.floats().map(str)
queries |= st.dictionaries(st.sampled_from(["after", "limit", "interval"]), numbers)

fuzz = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Asked:
    """An app nobody works for, a client of it, and a count of what was started."""

    def __init__(self, runner: asyncio.Runner, flow: Batchflow, http: AsyncClient) -> None:
        self._runner = runner
        self._http = http
        self.started = 0
        publish, open_batch = flow.engine.publish, flow.engine.open_batch

        async def counted_publish(messages: Any) -> None:
            self.started += 1
            await publish(messages)

        async def counted_open(batch: Any, messages: Any) -> bool:
            self.started += 1
            return await open_batch(batch, messages)

        flow.engine.publish, flow.engine.open_batch = counted_publish, counted_open

    def __call__(self, method: str, path: str, **options: Any) -> Response:
        return self._runner.run(self._http.request(method, path, **options))


@pytest.fixture
def asked() -> Iterator[Asked]:
    flow = Batchflow("sqlite://", worker=False)
    serve_all(flow)
    with asyncio.Runner() as runner:
        runner.run(flow.start())
        http = client_of(flow)
        yield Asked(runner, flow, http)
        runner.run(http.aclose())
        runner.run(flow.stop())


@fuzz
@given(path=st.sampled_from(POSTS), body=bodies, headers=headers, query=queries)
def test_any_body_is_answered(asked: Asked, path: str, body: bytes, headers: Any, query: dict[str, str]) -> None:
    """Bytes, JSON and almost right triggers, with any headers."""
    before = asked.started
    response = asked("POST", path, content=body, headers=headers, params=query)
    assert response.status_code in (200, 202, 400, 413, 422)
    assert response.json()["success"] is (response.status_code < 300)
    assert (asked.started > before) is (response.status_code == 202)


@fuzz
@given(
    method=st.sampled_from(["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS"]),
    path=st.sampled_from(
        ["/batches/{}", "/batches/{}/items", "/batches/{}/progress", "/batches/{}/cancel", "/runs/{}"]
    ),
    id=ids,
    headers=headers,
    query=queries,
)
def test_any_id_is_answered(asked: Asked, method: str, path: str, id: str, headers: Any, query: dict[str, str]) -> None:
    """There is no such thing, or the method or a parameter does not fit."""
    response = asked(method, path.format(quote(id, safe="%")), headers=headers, params=query)
    assert response.status_code in (404, 405, 422)
    assert asked.started == 0


@fuzz
@given(query=queries, headers=headers)
def test_any_query_of_the_list_is_answered(asked: Asked, query: dict[str, str], headers: Any) -> None:
    """An empty list, an unknown workflow, or a parameter that does not fit."""
    assert asked("GET", "/batches", params=query, headers=headers).status_code in (200, 404, 422)
