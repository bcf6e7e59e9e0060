"""Events of workflow runs: waited for, notified, kept for a run, listed."""

import asyncio
from base64 import b64encode
from typing import Any

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


async def test_events_may_have_any_name(http: AsyncClient, endpoint: FlowEndpoint) -> None:
    """SDKs write them into the path as they are; what is encoded is the same name."""
    await endpoint.begin()
    names = ("order/7", "a%2Fb", "grüße 1", "a%20b", "100%25", "'\"\\", "wfr_9/x", "%C3%BC")
    for name in names:
        await endpoint.wait(name)
        assert len((await http.get(f"/v2/waiters/{name}")).json()) == 1, name
        assert len(await notify(http, name)) == 1, name
        assert await notify(http, f"wfr_1/{name}", name.encode()) == []
        await endpoint.wait(name)
    assert outs(await endpoint.steps())[1::2] == [base64(name.encode()) for name in names]


async def test_an_event_needs_a_name(http: AsyncClient, endpoint: FlowEndpoint) -> None:
    """Also where the run is there."""
    await endpoint.begin()
    for answer in (await endpoint.wait(""), await http.post("/v2/notify/wfr_1/"), await http.get("/v2/waiters/")):
        assert (answer.status_code, list(answer.json())) == (400, ["error"])


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


async def test_a_wait_that_cannot_be_read_is_refused(http: AsyncClient, endpoint: FlowEndpoint) -> None:
    """With a sentence."""
    await endpoint.begin()
    run = '"timeoutHeaders":{"Upstash-Workflow-RunId":["wfr_1"]}'
    bodies = [
        *(
            "",
            "{",
            "[]",
            "{}",
            f"{{{run}}}",
            f'{{{run},"step":[]}}',
            f'{{{run},"step":{{"stepId":1}},"timeout":"soon"}}',
        ),
        '{"timeoutHeaders":{"Upstash-Workflow-RunId":1},"step":{"stepId":1},"timeout":"1s"}',
        '{"timeoutHeaders":{"Upstash-Workflow-RunId":["wfr_1"],"Upstash-Queue-Name":["q"]},"url":"https://x.example"'
        ',"step":{"stepId":1}}',
        f'{{{run},"url":"https://x.example","step":{{"stepId":1}},"timeout":[1]}}',
        f'{{{run},"url":"https://x.example","step":{{"stepId":1}},"timeout":{{}}}}',
        f'{{{run},"url":"https://x.example","step":{{"stepId":1}},"timeout":true}}',
        f'{{{run},"url":"https://x.example","step":{{"stepId":1}},"timeout":1e300}}',
        '{"timeoutHeaders":[],"step":{"stepId":1},"timeout":"1s"}',
        '{"timeoutHeaders":null,"step":{"stepId":1},"timeout":null}',
    ]
    for body in (*map(str.encode, bodies), b"\xff"):
        answer = await http.post("/v2/wait/e", content=body)
        assert (answer.status_code, list(answer.json())) == (400, ["error"]), body
    assert await endpoint.steps() == [""]


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
