"""Events over HTTP: who waits for one, and what reaches them."""

from typing import Any

import pytest
from httpx import AsyncClient

from batchflow import Batchflow
from batchflow.core.run import NEVER, Waiter
from batchflow.http.run_answers import WaiterAnswer
from tests.http.conftest import app_of, client_of
from tests.http.samples import refusal, serve_all
from tests.waiting import wait_until

EVENT = "approval:7/1"


async def started(http: AsyncClient) -> str:
    return (await http.post("/approvals", json="7")).json()["workflowRunId"]


async def waits(http: AsyncClient, count: int = 1) -> list[Any]:
    """Who waits for the event, once so many do."""
    found: list[Any] = []

    async def enough() -> bool:
        found[:] = (await http.get(f"/events/{EVENT}/waiters")).json()["waiters"]
        return len(found) == count

    await wait_until(enough, description=f"{count} runs wait")
    return found


@pytest.mark.parametrize(
    ("body", "data"),
    [
        (b'{"ok": true}', {"ok": True}),
        (b"", None),
        (b" 5 ", 5),
        ("gewährt".encode(), "gewährt"),
        (b'{"half":', '{"half":'),
        (b"NaN", "NaN"),
    ],
)
async def test_an_event_reaches_those_that_wait(body: bytes, data: object, flow: Batchflow, http: AsyncClient) -> None:
    """JSON as what it says, and anything else as text; ids hold slashes and colons."""
    runs = [await started(http), await started(http)]
    waiters = await waits(http, 2)
    assert {it["workflowRunId"] for it in waiters} == set(runs)
    assert [(it["step"], it["until"]) for it in waiters] == [("decided", None)] * 2
    response = await http.post(f"/events/{EVENT}", content=body)
    assert (response.status_code, sorted(response.json()["runIds"])) == (200, sorted(runs))
    assert response.json() | {"runIds": []} == {"success": True, "eventId": EVENT, "runIds": []}
    for run in runs:
        assert await flow.run(run).wait(30) == data
    assert await waits(http, 0) == []


async def test_an_event_for_one_run_is_kept_for_it(flow: Batchflow, http: AsyncClient) -> None:
    """Those beside it go on waiting; one that is not known gets nothing."""
    runs = [await started(http), await started(http)]
    await waits(http, 2)
    answer = (await http.post(f"/events/{EVENT}", params={"runId": runs[0]}, json="only you")).json()
    assert answer["runIds"] == [runs[0]]
    assert await flow.run(runs[0]).wait(30) == "only you"
    assert [it["workflowRunId"] for it in await waits(http)] == [runs[1]]
    assert (await http.post(f"/events/{EVENT}", params={"runId": "run_nope"})).json()["runIds"] == []


async def test_an_encoded_id_is_the_same(idle_http: AsyncClient) -> None:
    """Clients that encode a path differ in what they leave as it is."""
    answer = (await idle_http.post("/events/approval%3A7%2F1")).json()
    assert (answer["eventId"], answer["runIds"]) == (EVENT, [])


@pytest.mark.parametrize(
    ("id", "told"),
    [
        ("", "an event id is a text of 1 to 500 characters, not ''"),
        ("x" * 501, f"an event id is a text of 1 to 500 characters, not '{'x' * 99}…"),
        (
            "batchflow:webhook:x",
            "the event id 'batchflow:webhook:x' begins with 'batchflow:', which is batchflow's own",
        ),
    ],
)
async def test_an_id_that_is_none(id: str, told: str, idle_http: AsyncClient) -> None:
    """Webhooks cannot be reached by their event."""
    assert refusal(await idle_http.post(f"/events/{id}")) == (422, told, "eventId")
    assert refusal(await idle_http.get(f"/events/{id}/waiters")) == (422, told, "eventId")


async def test_data_that_is_neither_json_nor_text(idle_http: AsyncClient) -> None:
    """Bytes are refused."""
    expected = (400, "the body is neither JSON nor UTF-8 text", None)
    assert refusal(await idle_http.post(f"/events/{EVENT}", content=b"\xff\xfe")) == expected


@pytest.mark.parametrize("content_type", ["application/json", "application/cloudevents+json; charset=utf-8"])
async def test_what_is_said_to_be_json_and_is_none_is_refused(
    content_type: str, flow: Batchflow, http: AsyncClient
) -> None:
    """400, and whoever waits goes on waiting; without a body there is no data."""
    run = await started(http)
    await waits(http)
    headers = {"Content-Type": content_type}
    status, told, _ = refusal(await http.post(f"/events/{EVENT}", content=b'{"amount": 5', headers=headers))
    assert status == 400
    assert told == (
        "the body is not JSON (EOF while parsing an object at line 1 column 12), which its Content-Type says it is; "
        "send JSON, or text as text/plain"
    )
    assert [it["workflowRunId"] for it in await waits(http)] == [run]
    assert (await http.post(f"/events/{EVENT}", headers=headers)).json()["runIds"] == [run]
    assert await flow.run(run).wait(30) is None


async def test_data_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for every body."""
    monkeypatch.setenv("BATCHFLOW_MAX_BODY", "1024")
    flow = Batchflow("sqlite://", worker=False)
    serve_all(flow)
    async with flow, client_of(flow) as http:
        assert (await http.post(f"/events/{EVENT}", content=b"x" * 1025)).status_code == 413


def test_a_waiter_shows_until_when_it_waits() -> None:
    """A time that no clock has is none."""
    found = WaiterAnswer.of(Waiter("run_1", "a", 0, 1000))
    assert found.until is not None
    assert found.until.isoformat() == "1970-01-01T00:00:01+00:00"
    assert WaiterAnswer.of(Waiter("run_1", "a", 0, NEVER)).until is None


def test_the_document_shows_json_and_text(idle: Batchflow) -> None:
    """The body may be left out."""
    body = app_of(idle).openapi()["paths"]["/api/workflows/events/{id}"]["post"]["requestBody"]
    assert (body["required"], set(body["content"])) == (False, {"application/json", "text/plain"})
