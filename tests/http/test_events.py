"""Events and webhooks over HTTP."""

import gzip
from typing import Any

import pytest
from httpx import AsyncClient, Response
from structlog.testing import capture_logs

from batchflow import Batchflow
from batchflow.core.run import NEVER, Waiter
from batchflow.errors import RunFailed, StoreUnavailable
from batchflow.http.schemas.events import WaiterInfo
from tests.http.conftest import app_of, client_of, webhook_of
from tests.http.samples import PREFIX, assert_error, serve_all
from tests.waiting import wait_until

EVENT = "approval:7/1"


async def started(http: AsyncClient) -> str:
    return (await http.post("/approvals", json="7")).json()["workflowRunId"]


async def waits(http: AsyncClient, count: int = 1) -> list[Any]:
    """The runs that wait for the event, once there are so many."""
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
    """JSON is parsed, anything else is text; ids contain slashes and colons."""
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
    """Other runs go on waiting; an unknown run receives nothing."""
    runs = [await started(http), await started(http)]
    await waits(http, 2)
    answer = (await http.post(f"/events/{EVENT}", params={"runId": runs[0]}, json="only you")).json()
    assert answer["runIds"] == [runs[0]]
    assert await flow.run(runs[0]).wait(30) == "only you"
    assert [it["workflowRunId"] for it in await waits(http)] == [runs[1]]
    assert (await http.post(f"/events/{EVENT}", params={"runId": "run_nope"})).json()["runIds"] == []


async def test_an_encoded_id_is_the_same(idle_http: AsyncClient) -> None:
    """Clients differ in the characters of a path that they encode."""
    answer = (await idle_http.post("/events/approval%3A7%2F1")).json()
    assert (answer["eventId"], answer["runIds"]) == (EVENT, [])


@pytest.mark.parametrize(
    ("id", "phrase"),
    [
        ("", "1 to 500 characters"),
        ("x" * 501, "1 to 500 characters"),
        ("batchflow:webhook:x", "begins with 'batchflow:'"),
    ],
)
async def test_an_invalid_event_id(id: str, phrase: str, idle_http: AsyncClient) -> None:
    """The events of webhooks are out of reach."""
    assert_error(await idle_http.post(f"/events/{id}"), (422, phrase, "eventId"))
    assert_error(await idle_http.get(f"/events/{id}/waiters"), (422, phrase, "eventId"))


async def test_data_that_is_neither_json_nor_text(idle_http: AsyncClient) -> None:
    """Bytes are refused."""
    response = await idle_http.post(f"/events/{EVENT}", content=b"\xff\xfe")
    assert_error(response, (400, "neither JSON nor UTF-8", None))


@pytest.mark.parametrize("content_type", ["application/json", "application/cloudevents+json; charset=utf-8"])
async def test_a_body_with_a_json_content_type_that_is_not_json_is_refused(
    content_type: str, flow: Batchflow, http: AsyncClient
) -> None:
    """400, and the runs go on waiting; without a body the data is null."""
    run = await started(http)
    await waits(http)
    headers = {"Content-Type": content_type}
    response = await http.post(f"/events/{EVENT}", content=b'{"amount": 5', headers=headers)
    assert_error(response, (400, "the body is not JSON (EOF while parsing an object at line 1 column 12)", None))
    assert [it["workflowRunId"] for it in await waits(http)] == [run]
    assert (await http.post(f"/events/{EVENT}", headers=headers)).json()["runIds"] == [run]
    assert await flow.run(run).wait(30) is None


async def test_data_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """413, as for every body."""
    monkeypatch.setenv("BATCHFLOW_MAX_BODY", "1024")
    flow = Batchflow("sqlite://", worker=False)
    serve_all(flow)
    async with flow, client_of(flow) as http:
        assert (await http.post(f"/events/{EVENT}", content=b"x" * 1025)).status_code == 413


def test_a_waiter_shows_the_end_of_its_wait() -> None:
    """A time after the year 9999 is null, and so is a beginning that nobody knows."""
    assert WaiterInfo.of(Waiter("run_1", "a", None, 1000)).since is None
    found = WaiterInfo.of(Waiter("run_1", "a", 0, 1000))
    assert found.until is not None
    assert found.until.isoformat() == "1970-01-01T00:00:01+00:00"
    assert WaiterInfo.of(Waiter("run_1", "a", 0, NEVER)).until is None


def test_the_document_shows_json_and_text(idle: Batchflow) -> None:
    """The body may be left out."""
    body = app_of(idle).openapi()["paths"]["/api/workflows/events/{id}"]["post"]["requestBody"]
    assert (body["required"], set(body["content"])) == (False, {"application/json", "text/plain"})


GONE = (404, "there is no such webhook", None)


async def hooked(flow: Batchflow, http: AsyncClient, count: int) -> tuple[str, str]:
    """A run that waits for so many requests, and the URL of its webhook."""
    run: str = (await http.post("/hooked", json=count)).json()["workflowRunId"]
    return run, await webhook_of(flow, run)


def token_of(url: str) -> str:
    return url.rpartition("/")[2]


async def test_the_url_is_where_the_run_was_started(flow: Batchflow, http: AsyncClient) -> None:
    """It has host and prefix of that request."""
    run, url = await hooked(flow, http, 1)
    assert url.startswith(f"http://test{PREFIX}/webhooks/{run}.")


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "PURGE"])
async def test_a_request_of_any_method_is_taken(method: str, flow: Batchflow, http: AsyncClient) -> None:
    """The run receives method, headers, query and body."""
    run, url = await hooked(flow, http, 1)
    headers = [(b"X-Tag", b"a"), (b"x-tag", b"b"), (b"X-Latin", b"\xfc")]
    response = await http.request(method, f"{url}?a=1&a=%2F", content=b"\x00\xff", headers=headers)
    assert response.status_code == 202
    assert response.json() == {"success": True, "workflowRunId": run}
    (request,) = await flow.run(run).wait(30)
    assert (request["method"], request["query"]) == (method, "a=1&a=%2F")
    assert (request["headers"]["x-tag"], request["headers"]["x-latin"]) == ("a, b", "ü")
    assert request["sent"] == {"text": "AP8=", "base64": True}


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("OPTIONS", 204), ("TRACE", 405)])
async def test_a_probe_of_a_webhook_is_not_an_event(
    method: str, status: int, flow: Batchflow, http: AsyncClient
) -> None:
    """The run receives the request that follows; the answer is the same for a webhook that does not exist."""
    run, url = await hooked(flow, http, 1)
    probes = [await http.request(method, it, content=b"x") for it in (url, f"{url}0")]
    assert [(it.status_code, it.content, "POST" in it.headers["allow"]) for it in probes] == [(status, b"", True)] * 2
    assert (await http.post(url, json=1)).status_code == 202
    (request,) = await flow.run(run).wait(30)
    assert (request["method"], request["sent"]["text"]) == ("POST", "1")


async def test_a_webhook_gets_a_packed_body_unpacked(flow: Batchflow, http: AsyncClient) -> None:
    """Its headers stay as they came; one that cannot be unpacked is refused, and the webhook waits on."""
    run, url = await hooked(flow, http, 1)
    assert (await http.post(url, content=b"x", headers={"content-encoding": "br"})).status_code == 415
    assert (await http.post(url, content=b"x", headers={"content-encoding": "gzip"})).status_code == 400
    sent = await http.post(url, content=gzip.compress(b"[1]"), headers={"content-encoding": "gzip"})
    assert sent.status_code == 202
    (request,) = await flow.run(run).wait(30)
    assert (request["sent"]["text"], request["headers"]["content-encoding"]) == ("[1]", "gzip")


async def test_requests_are_kept_in_their_order(flow: Batchflow, http: AsyncClient) -> None:
    """The run takes one after the other; after its end the webhook is gone."""
    run, url = await hooked(flow, http, 3)
    for number in range(3):
        assert (await http.post(url, json=number)).status_code == 202
    requests = await flow.run(run).wait(30)
    assert [it["sent"]["text"] for it in requests] == ["0", "1", "2"]
    assert_error(await http.post(url, json=3), GONE)


async def test_an_unknown_webhook_is_404(idle_http: AsyncClient) -> None:
    """By every method; the response does not repeat the token."""
    for method in ("GET", "POST", "BREW"):
        assert_error(await idle_http.request(method, "/webhooks/run_1.abcdef"), GONE)


async def test_a_run_that_takes_nothing_more_is_429(
    flow: Batchflow, http: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too many requests are kept for it; the sender may try again."""
    _, url = await hooked(flow, http, 1)

    async def full(*_: object) -> Any:
        return ()

    monkeypatch.setattr(flow.engine, "notify", full)
    response = await http.post(url)
    assert_error(response, (429, "too many requests are kept for the run", None))
    assert response.headers["Retry-After"] == "10"


async def test_a_run_that_ends_meanwhile_is_404(
    flow: Batchflow, http: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its requests are not kept."""
    run, url = await hooked(flow, http, 1)

    async def ended(*_: object) -> Any:
        await flow.cancel(run)
        with pytest.raises(RunFailed):
            await flow.run(run).wait(30)
        return ()

    monkeypatch.setattr(flow.engine, "notify", ended)
    assert_error(await http.post(url), GONE)


async def test_a_request_that_is_too_large_is_413(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run does not receive it."""
    monkeypatch.setenv("BATCHFLOW_MAX_BODY", "1024")
    flow = Batchflow("sqlite://")
    serve_all(flow)
    async with flow, client_of(flow) as http:
        _, url = await hooked(flow, http, 1)
        assert (await http.post(url, content=b"x" * 1025)).status_code == 413
        assert (await http.post(url, content=b"x" * 1024)).status_code == 202


async def test_the_token_is_in_no_log(flow: Batchflow, http: AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither when a request is stored, nor when it is refused, nor when the store fails."""

    async def fail(*_: object) -> Any:
        raise StoreUnavailable("it is busy")

    with capture_logs() as logs:
        run, url = await hooked(flow, http, 1)
        answers: list[Response] = [await http.post(url)]
        await flow.run(run).wait(30)
        answers.append(await http.post(url))
        monkeypatch.setattr(flow.engine.store, "webhook", fail)
        answers.append(await http.post(url))
    assert [it.status_code for it in answers] == [202, 404, 503]
    secret = token_of(url).rpartition(".")[2]
    assert secret.startswith("whk_")
    assert secret not in str(logs) + "".join(it.text for it in answers)
