"""The options of a batch over HTTP: fields of the body, and Upstash headers."""

from typing import Any

import pytest
from httpx import AsyncClient

from batchflow import Batchflow
from batchflow.core.message import Message
from batchflow.serve.app_url import ROOT_HEADER
from tests.http.samples import PREFIX, assert_error

PROCESS, PAGINATE, EXECUTE = "/welcome/process-users", "/welcome/paginate-users", "/welcome/generate-user"
BODIES: dict[str, dict[str, Any]] = {PROCESS: {}, PAGINATE: {"userIds": ["u1"]}, EXECUTE: {"userId": "u1"}}


@pytest.fixture
def published(idle: Batchflow, monkeypatch: pytest.MonkeyPatch) -> list[Message]:
    """The first messages of each batch."""
    found: list[Message] = []
    opened = idle.engine.open_batch

    async def open_batch(batch: Any, messages: Any) -> bool:
        found.extend(messages)
        return await opened(batch, messages)

    monkeypatch.setattr(idle.engine, "open_batch", open_batch)
    return found


@pytest.mark.parametrize("route", BODIES)
async def test_a_body_sets_the_options_of_a_batch(
    idle: Batchflow, idle_http: AsyncClient, published: list[Message], route: str
) -> None:
    """An id, a time, a label and headers, on each route."""
    options = {"batchId": "bat_mine", "delay": "1h", "label": "first", "headers": {"x-trace": "7"}}
    answer = (await idle_http.post(route, json=BODIES[route] | options)).json()
    assert (answer["batchId"], answer["deduplicated"]) == ("bat_mine", False)
    batch = await idle.engine.store.batch("bat_mine")
    assert batch is not None
    assert (batch.label, batch.headers["x-trace"]) == ("first", "7")
    assert batch.headers[ROOT_HEADER] == f"http://test{PREFIX}"
    assert {message.not_before - batch.created_at >= 3_599_000 for message in published} == {True}
    again = (await idle_http.post(route, json=BODIES[route] | options)).json()
    assert (again["batchId"], again["deduplicated"]) == ("bat_mine", True)
    assert "x-trace" not in (await idle_http.get("/batches/bat_mine")).text


@pytest.mark.parametrize("route", BODIES)
async def test_headers_set_the_options_of_a_batch(
    idle: Batchflow, idle_http: AsyncClient, published: list[Message], route: str
) -> None:
    """The Upstash headers that batches support."""
    headers = {
        "Upstash-Label": "first",
        "Upstash-Deduplication-Id": "today",
        "Upstash-Not-Before": "4102444800",
        "Upstash-Delay": "1s",
        "Upstash-Forward-X-Trace": "7",
        "Upstash-Method": "POST",
    }
    first = (await idle_http.post(route, json=BODIES[route], headers=headers)).json()
    again = (await idle_http.post(route, json=BODIES[route], headers=headers)).json()
    assert (again["batchId"], again["deduplicated"]) == (first["batchId"], True)
    batch = await idle.engine.store.batch(first["batchId"])
    assert batch is not None
    assert (batch.label, batch.headers["x-trace"]) == ("first", "7")
    assert {message.not_before for message in published} == {4_102_444_800_000}


async def test_an_open_dedup_id_over_http(idle: Batchflow, idle_http: AsyncClient) -> None:
    """It holds until the batch ends."""
    body = {"dedupId": "chat", "dedup": "open"}
    first, again = [(await idle_http.post(PROCESS, json=body)).json() for _ in range(2)]
    assert (again["batchId"], again["deduplicated"]) == (first["batchId"], True)
    await idle_http.post(f"/batches/{first['batchId']}/cancel")
    after = (await idle_http.post(PROCESS, json=body)).json()
    assert after["deduplicated"] is False
    assert after["batchId"] != first["batchId"]


async def test_a_run_that_was_there_says_so(idle_http: AsyncClient) -> None:
    """`deduplicated` is true, as for a batch."""
    headers = {"Upstash-Deduplication-Id": "x"}
    user = {"email": "ada@example.org"}
    answers = [(await idle_http.post("/onboarding", json=user, headers=headers)).json() for _ in range(2)]
    assert [answer["deduplicated"] for answer in answers] == [False, True]
    assert answers[0]["workflowRunId"] == answers[1]["workflowRunId"]


@pytest.mark.parametrize("route", BODIES)
@pytest.mark.parametrize(
    ("body", "headers", "phrase", "field"),
    [
        ({}, {"Upstash-Retries": "3"}, "is not supported for a batch", "Upstash-Retries"),
        ({}, {"Upstash-Flow-Control-Key": "x"}, "is not supported for a batch", "Upstash-Flow-Control-Key"),
        ({}, {"Upstash-Workflow-RunId": "x"}, "in the body, as 'batchId'", "Upstash-Workflow-RunId"),
        ({}, {"Upstash-Cron": "* * * * *"}, "'upstash-cron' is not supported", "upstash-cron"),
        ({}, {"Upstash-Dealy": "1s"}, "did you mean 'Upstash-Delay'?", "upstash-dealy"),
        ({}, {"Upstash-Delay": "soon"}, "'Upstash-Delay' cannot be 'soon'", "Upstash-Delay"),
        ({"label": "a"}, {"Upstash-Label": "b"}, "'label' is in the body and as the header 'Upstash-Label'", "label"),
        ({"delay": "soon"}, {}, "'delay' cannot be 'soon'", "delay"),
        ({"delay": True}, {}, "'delay' does not fit: Input should be a text or a whole number", "delay"),
        ({"delay": 1.5}, {}, "'delay' does not fit: Input should be a text or a whole number", "delay"),
        ({"delay": 10**30}, {}, "'delay' cannot be 1000000000000000000000000000000", "delay"),
        ({"notBefore": "2030-01-01T00:00:00"}, {}, "write a time with its offset", "notBefore"),
        ({"notBefore": 1_900_000_000}, {}, "'notBefore' cannot be 1900000000, which looks like seconds", "notBefore"),
        (
            {"delay": "1s", "notBefore": "2030-01-01T00:00:00Z"},
            {},
            "'delay' and 'notBefore' exclude each other",
            "delay",
        ),
        ({"batchId": "mine"}, {}, "'batchId' cannot be 'mine'", "batchId"),
        ({"dedup": "open"}, {}, "'dedupId'", "dedup"),
        ({"dedup": "x", "dedupId": "y"}, {}, "'dedup' does not fit: Input should be 'kept' or 'open'", "dedup"),
        ({"headers": {"a": 7}}, {}, "'headers.a' does not fit", "headers.a"),
        ({"batchId": "bat_1", "dedupId": "y"}, {}, "'batchId' and 'dedupId' exclude each other", "batchId"),
    ],
)
async def test_an_option_of_a_batch_that_does_not_fit_is_refused(
    idle_http: AsyncClient, route: str, body: dict[str, Any], headers: dict[str, str], phrase: str, field: str
) -> None:
    """422 with a sentence in the names of the request, and nothing is started."""
    response = await idle_http.post(route, json=BODIES[route] | body, headers=headers)
    assert_error(response, (422, phrase, field))
    assert (await idle_http.get("/batches")).json()["batches"] == []


async def test_a_start_time_long_ago_is_now(idle_http: AsyncClient) -> None:
    """The header is in seconds: a small number is a time that has passed, and no mistake."""
    answer = await idle_http.post("/welcome/process-users", json={}, headers={"Upstash-Not-Before": "8432"})
    assert answer.status_code == 202
    answer = await idle_http.post("/welcome/process-users", json={"notBefore": "1970-01-01T00:00:00Z"})
    assert answer.status_code == 202
