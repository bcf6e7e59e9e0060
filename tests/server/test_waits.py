"""Events of workflow runs: waited for, notified, kept for a run, listed."""

import asyncio
from base64 import b64encode
from typing import Any

import pytest
from httpx import AsyncClient

from batchflow.testing.clock import ManualClock
from tests.server.endpoint import URL, FlowEndpoint


async def notify(http: AsyncClient, path: str, data: bytes = b"") -> list[Any]:
    """Notify; the runs that were."""
    response = await http.post(f"/v2/notify/{path}", content=data)
    assert response.status_code == 200, response.text
    return response.json()


def outs(steps: list[Any]) -> list[Any]:
    """The data that the waits among these steps have got."""
    return [it.get("out") for it in steps[1:]]


def base64(data: bytes) -> str:
    return b64encode(data).decode()


async def test_an_event_is_a_step_of_all_runs_that_wait(
    http: AsyncClient, endpoint: FlowEndpoint, clock: ManualClock
) -> None:
    """Each is answered with its waiter, its message and its run."""
    began = clock.now()
    for run in ("wfr_1", "wfr_2"):
        await endpoint.begin(run)
        assert (await endpoint.wait("paid", run, timeout="60s")).status_code == 201
    [waiter, _] = (await http.get("/v2/waiters/paid")).json()
    assert (waiter["url"], waiter["timeoutUrl"], waiter["deadline"]) == (URL, URL, began // 1000 + 60)
    found = await notify(http, "paid", b'{"sum": 3}')
    assert [(it["workflowRunId"], it["workflowCreatedAt"], it["error"]) for it in found] == [
        ("wfr_1", began, ""),
        ("wfr_2", began, ""),
    ]
    assert found[0]["waiter"] == waiter
    [_, step] = await endpoint.steps()
    assert (step["stepType"], step["waitEventId"], step["out"]) == ("Wait", "paid", base64(b'{"sum": 3}'))
    assert (await http.get("/v2/waiters/paid")).json() == await notify(http, "paid") == []


async def test_an_event_for_one_run_is_kept_until_it_waits(http: AsyncClient, endpoint: FlowEndpoint) -> None:
    """Each wait gets one, the oldest first; an event for all is lost."""
    await endpoint.begin()
    assert await notify(http, "paid", b"lost") == []
    for data in (b"one", b"two"):
        assert await notify(http, "wfr_1/paid", data) == []
    for _ in range(3):
        await endpoint.wait("paid")
    assert outs(await endpoint.steps()) == [base64(b"one"), base64(b"two")]
    assert [it["workflowRunId"] for it in await notify(http, "wfr_1/paid", b"three")] == ["wfr_1"]
    assert outs(await endpoint.steps())[2] == base64(b"three")


@pytest.mark.parametrize("name", ["order/7", "a%2Fb", "grüße 1", "a%20b", "100%25", "'\"\\", "wfr_9/x", "%C3%BC"])
async def test_events_may_have_any_name(http: AsyncClient, endpoint: FlowEndpoint, name: str) -> None:
    """SDKs write them into the path as they are; what is encoded is the same name."""
    await endpoint.begin()
    await endpoint.wait(name)
    assert len((await http.get(f"/v2/waiters/{name}")).json()) == 1
    assert len(await notify(http, name)) == 1
    assert await notify(http, f"wfr_1/{name}", b"kept") == []
    await endpoint.wait(name)
    assert outs(await endpoint.steps())[1] == base64(b"kept")


@pytest.mark.parametrize("path", ["wait/", "notify/wfr_1/", "waiters/"])
async def test_an_event_needs_a_name(http: AsyncClient, endpoint: FlowEndpoint, path: str) -> None:
    """Also where the run is there."""
    await endpoint.begin()
    response = await (
        endpoint.wait("") if path == "wait/" else http.request("GET" if path == "waiters/" else "POST", f"/v2/{path}")
    )
    assert (response.status_code, list(response.json())) == (400, ["error"])


async def test_a_run_of_another_tenant_gets_no_event(
    http: AsyncClient, other_http: AsyncClient, endpoint: FlowEndpoint
) -> None:
    """Nor does another tenant see who waits."""
    await endpoint.begin()
    await endpoint.wait("paid")
    assert (await FlowEndpoint(other_http).wait("paid")).status_code == 400
    assert (await other_http.get("/v2/waiters/paid")).json() == []
    assert await notify(other_http, "paid") == await notify(other_http, "wfr_1/paid") == []
    assert len((await http.get("/v2/waiters/paid")).json()) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"timeoutHeaders":{"Upstash-Workflow-RunId":["wfr_1"]}}',
        b'{"timeoutHeaders":{"Upstash-Workflow-RunId":["wfr_1"]},"step":[]}',
        b'{"timeoutHeaders":{"Upstash-Workflow-RunId":["wfr_1"]},"step":{"stepId":1},"timeout":"soon"}',
        b'{"timeoutHeaders":{"Upstash-Workflow-RunId":1},"step":{"stepId":1},"timeout":"1s"}',
        b'{"timeoutHeaders":[],"step":{"stepId":1},"timeout":"1s"}',
        b'{"timeoutHeaders":null,"step":{"stepId":1},"timeout":null}',
        b"\xff",
    ],
)
async def test_a_wait_that_cannot_be_read_is_refused(http: AsyncClient, endpoint: FlowEndpoint, body: bytes) -> None:
    """With a sentence."""
    await endpoint.begin()
    response = await http.post("/v2/wait/e", content=body)
    assert (response.status_code, list(response.json())) == (400, ["error"])


async def test_a_run_that_ends_waits_no_more(http: AsyncClient, endpoint: FlowEndpoint) -> None:
    """Whether it is ended or notified first, nothing goes wrong; one of them counts."""
    for number in range(10):
        run = await endpoint.begin(f"wfr_{number}")
        await endpoint.wait("paid", run)
        requests = [http.delete(f"/v2/workflows/runs/{run}"), http.post("/v2/notify/paid"), endpoint.wait("paid", run)]
        answers = await asyncio.gather(*(requests if number % 2 else reversed(requests)))
        assert all(it.status_code in (200, 201, 400) for it in answers)
        assert (await http.get("/v2/waiters/paid")).json() == []
        assert await notify(http, "paid") == await notify(http, f"{run}/paid") == []


async def test_an_event_that_no_run_has_room_for_is_refused(http: AsyncClient, endpoint: FlowEndpoint) -> None:
    """The run waits on."""
    await endpoint.begin()
    await endpoint.wait("paid")
    response = await http.post("/v2/notify/paid", content=b"x" * 7_000_000)
    assert (response.status_code, "8 MiB" in response.json()["error"]) == (413, True)
    assert len((await http.get("/v2/waiters/paid")).json()) == 1
