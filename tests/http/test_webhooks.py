"""Webhooks: requests of any kind reach the run that made one."""

from typing import Any

import pytest
from httpx import AsyncClient, Response
from structlog.testing import capture_logs

from batchflow import Batchflow
from batchflow.errors import RunFailed, StoreUnavailable
from tests.http.conftest import client_of
from tests.http.samples import PREFIX, refusal, serve_all
from tests.waiting import wait_until

GONE = (404, "there is no such webhook, or its run has ended", None)


async def hooked(http: AsyncClient, count: int) -> tuple[str, str]:
    """A run that waits for so many requests, and its webhook's URL."""
    run: str = (await http.post("/hooked", json=count)).json()["workflowRunId"]
    made: list[str] = []

    async def ready() -> bool:
        steps = (await http.get(f"/runs/{run}")).json()["steps"]
        made[:] = [it["result"]["url"] for it in steps if it["name"] == "make"]
        return bool(made)

    await wait_until(ready, description="the webhook is made")
    return run, made[0]


def token_of(url: str) -> str:
    return url.rpartition("/")[2]


async def test_the_url_is_where_the_run_was_started(flow: Batchflow, http: AsyncClient) -> None:
    """With host and prefix of that request."""
    run, url = await hooked(http, 1)
    assert url.startswith(f"http://test{PREFIX}/webhooks/{run}.")


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PURGE"])
async def test_a_request_of_any_method_is_taken(method: str, flow: Batchflow, http: AsyncClient) -> None:
    """The run gets all of it: method, headers, query, body."""
    run, url = await hooked(http, 1)
    headers = [(b"X-Tag", b"a"), (b"x-tag", b"b"), (b"X-Latin", b"\xfc")]
    response = await http.request(method, f"{url}?a=1&a=%2F", content=b"\x00\xff", headers=headers)
    assert response.status_code == 202
    if method != "HEAD":
        assert response.json() == {"success": True, "workflowRunId": run}
    (request,) = await flow.run(run).wait(30)
    assert (request["method"], request["query"]) == (method, "a=1&a=%2F")
    assert (request["headers"]["x-tag"], request["headers"]["x-latin"]) == ("a, b", "ü")
    assert request["sent"] == {"text": "AP8=", "base64": True}


async def test_requests_are_kept_in_their_order(flow: Batchflow, http: AsyncClient) -> None:
    """The run takes one after the other, whenever it comes to wait; after its end there is nobody."""
    run, url = await hooked(http, 3)
    for number in range(3):
        assert (await http.post(url, json=number)).status_code == 202
    requests = await flow.run(run).wait(30)
    assert [it["sent"]["text"] for it in requests] == ["0", "1", "2"]
    assert refusal(await http.post(url, json=3)) == GONE


async def test_an_unknown_webhook_is_404(idle_http: AsyncClient) -> None:
    """Whatever the method; the answer does not repeat the token."""
    for method in ("GET", "POST", "BREW"):
        assert refusal(await idle_http.request(method, "/webhooks/run_1.abcdef")) == GONE


async def test_a_run_that_takes_nothing_more_is_429(
    flow: Batchflow, http: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too much is kept for it; a sender may come again."""
    _, url = await hooked(http, 1)

    async def full(*_: object) -> Any:
        return ()

    monkeypatch.setattr(flow.engine, "notify", full)
    response = await http.post(url)
    told = "too many requests are kept for the run of this webhook, which has not waited for them yet"
    assert refusal(response) == (429, told, None)
    assert response.headers["Retry-After"] == "10"


async def test_a_run_that_ends_meanwhile_is_404(
    flow: Batchflow, http: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is kept for it."""
    run, url = await hooked(http, 1)

    async def ended(*_: object) -> Any:
        await flow.cancel(run)
        with pytest.raises(RunFailed):
            await flow.run(run).wait(30)
        return ()

    monkeypatch.setattr(flow.engine, "notify", ended)
    assert refusal(await http.post(url)) == GONE


async def test_a_request_that_is_too_large_is_413(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is not told."""
    monkeypatch.setenv("BATCHFLOW_MAX_BODY", "1024")
    flow = Batchflow("sqlite://")
    serve_all(flow)
    async with flow, client_of(flow) as http:
        _, url = await hooked(http, 1)
        assert (await http.post(url, content=b"x" * 1025)).status_code == 413
        assert (await http.post(url, content=b"x" * 1024)).status_code == 202


async def test_the_token_is_in_no_log(flow: Batchflow, http: AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither when it is taken, nor when it is refused, nor when the store fails."""

    async def fail(*_: object) -> Any:
        raise StoreUnavailable("it is busy")

    with capture_logs() as logs:
        run, url = await hooked(http, 1)
        answers: list[Response] = [await http.post(url)]
        await flow.run(run).wait(30)
        answers.append(await http.post(url))
        monkeypatch.setattr(flow.engine.store, "webhook", fail)
        answers.append(await http.post(url))
    assert [it.status_code for it in answers] == [202, 404, 503]
    secret = token_of(url).rpartition(".")[2]
    assert len(secret) == 40
    assert secret not in str(logs) + "".join(it.text for it in answers)
