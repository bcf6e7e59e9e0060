"""Workflow runs: their steps are shown, they succeed and are cancelled, and the run that waits for one goes on."""

import asyncio
import json
from typing import Any

import pytest
from httpx import AsyncClient

from batchflow.core.wire_runs import MAX_ENTRIES_SIZE
from batchflow.engine.engine import Engine
from batchflow.server.context import wire_store
from batchflow.testing.clock import ManualClock
from tests.server.endpoint import URL, FlowEndpoint

RUNS = "/v2/workflows/runs"


async def ended(engine: Engine, run: str = "wfr_1") -> tuple[str, str | None]:
    """The state and the result of a run."""
    found = await wire_store(engine).wire_run("ours", run)
    assert found is not None
    return found.state, found.result


async def cancel(http: AsyncClient, query: str = "", **options: Any) -> int:
    """Cancel runs; the number of them."""
    response = await http.request("DELETE", f"{RUNS}{query}", **options)
    assert response.status_code == 200, response.text
    return response.json()["cancelled"]


async def test_the_steps_of_a_run_are_shown_as_they_are_delivered(http: AsyncClient, endpoint: FlowEndpoint) -> None:
    """The initial body and then each step, with the messages that deliver them."""
    await endpoint.begin(body='{"x": 1}')
    sent = await endpoint.step()
    steps = (await http.get(f"{RUNS}/wfr_1")).json()
    assert [it["callType"] for it in steps] == ["step", "step"]
    assert steps[1]["messageId"] == sent.json()[0]["messageId"]
    assert (await endpoint.steps())[0] == '{"x": 1}'


async def test_a_step_that_is_sent_again_is_recorded_once(endpoint: FlowEndpoint) -> None:
    """The SDK repeats a request whose answer is lost, and executes a step again whose delivery is repeated."""
    await endpoint.begin()
    ids = [(await endpoint.step()).json()[0]["messageId"] for _ in range(2)]
    assert (len(set(ids)), len(await endpoint.steps())) == (1, 2)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("?cancel=false", ("RUN_SUCCESS", '{"done":1}')),
        ("?cancel=true", ("RUN_CANCELED", None)),
        ("", ("RUN_CANCELED", None)),
    ],
)
async def test_a_run_ends_with_its_result_or_without(
    http: AsyncClient, endpoint: FlowEndpoint, engine: Engine, query: str, expected: Any
) -> None:
    """It is then not found, and takes no step: the SDK knows a run that was cancelled by the status 400."""
    await endpoint.begin()
    for _ in range(2):
        assert (await http.request("DELETE", f"{RUNS}/wfr_1{query}", content=b'{"done":1}')).status_code == 200
    assert await ended(engine) == expected
    assert (await http.get(f"{RUNS}/wfr_1")).json() == {"error": "the workflow run 'wfr_1' has ended"}
    for refused in (await endpoint.step(), await endpoint.wait("e")):
        assert refused.status_code == 400
        assert "the workflow run has ended or does not exist" in refused.text


async def test_the_end_of_an_unknown_run_changes_nothing(http: AsyncClient) -> None:
    """SDKs end runs twice, so it is a success."""
    assert (await http.get(f"{RUNS}/wfr_none")).status_code == 404
    for query in ("?cancel=false", "?cancel=true", ""):
        assert (await http.delete(f"{RUNS}/wfr_none{query}")).status_code == 200


async def test_a_run_of_the_same_id_that_began_later_goes_on(
    http: AsyncClient, endpoint: FlowEndpoint, clock: ManualClock
) -> None:
    """A request from before neither ends it nor adds to it."""
    began = clock.now()
    await endpoint.begin()
    await http.delete(f"{RUNS}/wfr_1")
    clock.advance(1)
    await endpoint.begin()
    earlier = {"Upstash-Workflow-CreatedAt": str(began)}
    assert (await http.delete(f"{RUNS}/wfr_1", headers=earlier)).status_code == 200
    assert await endpoint.is_live()
    assert (await endpoint.step(Workflow_CreatedAt=str(began))).status_code == 400
    assert (await endpoint.step(Workflow_CreatedAt=str(began + 1000))).status_code == 201
    assert (await http.delete(f"{RUNS}/wfr_1", headers={"Upstash-Workflow-CreatedAt": "x"})).status_code == 400
    await http.delete(f"{RUNS}/wfr_1", headers={"Upstash-Workflow-CreatedAt": str(clock.now())})
    assert not await endpoint.is_live()


@pytest.mark.parametrize(
    ("query", "out"),
    [
        ("?cancel=false", {"body": "42", "isCanceled": False, "isFailed": False}),
        ("?cancel=true", {"isCanceled": True, "isFailed": False}),
    ],
)
async def test_the_run_that_waits_for_another_one_goes_on_with_its_end(
    http: AsyncClient, endpoint: FlowEndpoint, query: str, out: Any
) -> None:
    """Once, however often the end is told."""
    await endpoint.begin()
    assert (await endpoint.invoke("wfr_2")).status_code == 201
    assert (await endpoint.steps("wfr_2"))[0] == "hello"
    for _ in range(2):
        await http.request("DELETE", f"{RUNS}/wfr_2{query}", content=b"42")
    _, *steps = await endpoint.steps()
    assert [json.loads(it["out"]) for it in steps] == [out]
    assert steps[0]["stepType"] == "Invoke"


@pytest.mark.parametrize("child", ["wfr_1", "wfr_top", "wfr_2"])
async def test_a_run_that_goes_on_is_not_invoked(
    http: AsyncClient, endpoint: FlowEndpoint, clock: ManualClock, child: str
) -> None:
    """Neither the one that invokes, nor the one that has invoked it, nor another one: nobody would tell of its end.

    The status is one with which an SDK fails the run. An invoke that is sent again has begun its run.
    """
    began = clock.now()
    await endpoint.begin("wfr_top")
    for _ in range(2):
        assert (await endpoint.invoke("wfr_1", "wfr_top", workflowRunCreatedAt=began)).status_code == 201
    await endpoint.begin("wfr_2")
    refused = await endpoint.invoke(child, workflowRunCreatedAt=began)
    assert (refused.status_code, "goes on already" in refused.json()["error"]) == (412, True)
    await http.delete("/v2/workflows/runs/wfr_2")
    assert (await endpoint.invoke("wfr_2", workflowRunCreatedAt=began)).status_code == 201


async def test_a_run_ends_whatever_is_said_of_the_run_that_waits_for_it(
    http: AsyncClient, endpoint: FlowEndpoint
) -> None:
    """A time that no store can hold is not that of a run."""
    await endpoint.begin()
    assert (await endpoint.invoke("wfr_2", workflowRunCreatedAt=10**30)).status_code == 201
    assert (await http.delete(f"{RUNS}/wfr_2?cancel=false")).status_code == 200
    assert len(await endpoint.steps()) == 2


async def test_a_result_that_no_run_has_room_for_is_refused(http: AsyncClient, endpoint: FlowEndpoint) -> None:
    """The run goes on, and the sentence says what to do."""
    await endpoint.begin()
    response = await http.request("DELETE", f"{RUNS}/wfr_1?cancel=false", content=b"x" * (MAX_ENTRIES_SIZE + 1))
    assert (response.status_code, "larger than 8 MiB" in response.json()["error"]) == (412, True)
    assert await endpoint.is_live()


async def test_a_result_that_the_waiting_run_has_no_room_for_is_refused(
    http: AsyncClient, endpoint: FlowEndpoint
) -> None:
    """That the other one was cancelled is told even to a run that is full."""
    await endpoint.begin(body="x" * MAX_ENTRIES_SIZE)
    await endpoint.invoke("wfr_2")
    response = await http.request("DELETE", f"{RUNS}/wfr_2?cancel=false", content=b"x" * 1000)
    assert (response.status_code, "no room for its result" in response.json()["error"]) == (412, True)
    assert await endpoint.is_live("wfr_2")
    await http.delete(f"{RUNS}/wfr_2")
    assert len(await endpoint.steps()) == 2


async def test_a_run_is_that_of_its_tenant(http: AsyncClient, other_http: AsyncClient, endpoint: FlowEndpoint) -> None:
    """Others neither see, nor end, nor extend it; the same id is another run there."""
    await endpoint.begin(body="secret")
    theirs = FlowEndpoint(other_http)
    assert not await theirs.is_live()
    assert (await theirs.step()).status_code == 400
    assert (await other_http.delete(f"{RUNS}/wfr_1")).status_code == 200
    assert await cancel(other_http) == 0
    assert await cancel(other_http, "?workflowRunIds=wfr_1") == 0
    await theirs.begin(body="another")
    assert await theirs.steps() == ["another"]
    assert await endpoint.steps() == ["secret"]


async def test_each_filter_selects_runs(http: AsyncClient, endpoint: FlowEndpoint) -> None:
    """In the query as the SDKs send them now, and in a body as they did; the other run goes on."""
    other = FlowEndpoint(http, "https://app.example/other?a=b,c")
    await other.begin("wfr_2", Label="yours")
    queries = [
        *("workflowRunIds=wfr_1&workflowRunIds=wfr_none&count=100", "workflowRunIds=wfr_1,wfr_none", "label=mine"),
        *(f"workflowUrl={URL[:-2]}", f"workflowUrl={URL}&workflowUrlExactMatch=true", "flowControlKey=key"),
        "callerIp=127.0.0.1&label=mine,other",
    ]
    sent: list[Any] = [{"params": it} for it in queries]
    sent += [{"json": {"workflowRunIds": ["wfr_1"]}}, {"json": {"workflowUrl": URL}}]
    for options in sent:
        await endpoint.begin(Label="mine", Flow_Control_Key="key", Flow_Control_Value="parallelism=1")
        assert await cancel(http, **options) == 1, options
        assert not await endpoint.is_live(), options
        assert await cancel(http, **options) == 0, options
    assert await other.is_live("wfr_2")
    assert await cancel(http, f"?workflowUrl={URL[:-2]}&workflowUrlExactMatch=true") == 0
    assert await cancel(http, "?workflowUrl=https://app.example/other?a=b,c") == 1


async def test_dates_and_a_count_select_runs(http: AsyncClient, endpoint: FlowEndpoint, clock: ManualClock) -> None:
    """Dates are in ms, and inclusive; the newest runs go first."""
    first = clock.now()
    for number in (1, 2, 3):
        await endpoint.begin(f"wfr_{number}")
        clock.advance(1)
    assert await cancel(http, f"?toDate={first}") == 1
    assert await cancel(http, "?count=1") == 1
    assert (await endpoint.is_live("wfr_2"), await endpoint.is_live("wfr_3")) == (True, False)


@pytest.mark.parametrize("options", [{}, {"json": {}}])
async def test_without_filters_all_runs_are_cancelled(http: AsyncClient, endpoint: FlowEndpoint, options: Any) -> None:
    """However many pages they are."""
    await asyncio.gather(*(endpoint.begin(f"wfr_{number}") for number in range(120)))
    assert await cancel(http, **options) == 120


async def test_what_is_not_understood_cancels_no_run(http: AsyncClient, endpoint: FlowEndpoint) -> None:
    """Least of all every run."""
    await endpoint.begin()
    queries = ("?lable=mine", "?all=true", "?count=x", "?workflowUrlExactMatch=maybe", "/wfr_1?cancel=maybe")
    queries = (*queries, "?count=", "?fromDate=", "?toDate=", "?workflowUrlExactMatch=")
    bodies = (b"{", b"[]", b'{"ids":["wfr_1"]}', b'{"workflowRunIds":[{}]}')
    for query, body in [*((it, b"") for it in queries), *(("", it) for it in bodies)]:
        answer = await http.request("DELETE", f"{RUNS}{query}", content=body)
        assert (answer.status_code, list(answer.json())) == (400, ["error"]), (query, body)
    for query in ("?workflowRunIds=", "?workflowUrl=", "?label="):
        assert await cancel(http, query) == 0, query
    assert await endpoint.is_live()
