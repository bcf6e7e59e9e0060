"""The log of workflow runs: newest first, filtered, in pages, of one tenant, and fast for a long run."""

from collections import Counter
from typing import Any

import pytest
from httpx import AsyncClient

from batchflow.engine.engine import Engine
from batchflow.server import run_logs
from batchflow.testing.clock import ManualClock
from tests.server.failing_runs import FLOW_URL, FailingRuns, callback_id, plan, result

LOGS = "/v2/workflows/events?groupBy=workflowRunId"


@pytest.fixture
def runs(engine: Engine, clock: ManualClock) -> FailingRuns:
    """Workflow runs."""
    return FailingRuns(engine, clock)


async def shown(http: AsyncClient, route: str = LOGS, /, **query: Any) -> list[dict[str, Any]]:
    """The runs of a page."""
    response = await http.get(route, params={"groupBy": "workflowRunId", **query})
    assert response.status_code == 200, response.text
    return response.json()["runs"]


async def ids(http: AsyncClient, **query: Any) -> list[str]:
    """The ids of the runs of a page."""
    return [it["workflowRunId"] for it in await shown(http, **query)]


async def test_a_run_is_shown_with_its_steps_and_its_failure(http: AsyncClient, runs: FailingRuns) -> None:
    """On both paths, also once it has ended."""
    await runs.delivered(await runs.begin(Label="one", Failure_Callback="https://app.example/failed", Retries="0"))
    first, second = await runs.step(plan(1)), await runs.step(plan(2))
    await runs.delivered(first, await runs.step(result(1, 2, '"a"')))
    await runs.fail(second)
    await runs.delivered(callback_id(second))
    (run,) = await shown(http)
    assert (run["workflowState"], run["dlqId"], run["labels"]) == ("RUN_FAILED", second, ["one"])
    assert (run["workflowUrl"], run["workflowRunCallerIp"]) == (FLOW_URL, "10.0.0.1")
    init, parallel = run["steps"]
    assert (init["steps"][0]["out"], parallel["type"]) == ("hello", "parallel")
    steps = [(it["stepName"], it["state"], it.get("out")) for it in parallel["steps"]]
    assert steps == [("step 1", "STEP_SUCCESS", '"a"'), ("step 2", "STEP_FAILED", None)]
    (error,) = parallel["steps"][1]["errors"]
    assert error.items() >= {"error": "failed", "status": 500, "body": "sorry"}.items()
    failure = run["failureFunction"]
    assert (failure["state"], failure["failStatus"], failure["dlqId"]) == ("CALLBACK_SUCCESS", 500, second)
    assert await shown(http, "/v2/workflows/logs") == [run]


async def test_runs_are_filtered(http: AsyncClient, runs: FailingRuns) -> None:
    """By one of the values of each filter, and by all filters."""
    failed = await runs.failed("wfr_1", Label="one,two")
    await runs.begin("wfr_2", url="https://other.example:8080/a,b", Flow_Control_Key="k", Flow_Control_Value="rate=1")
    began = (await runs.run("wfr_2")).created_at
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({}, ["wfr_2", "wfr_1"]),
        ({"workflowRunId": ["wfr_1", "wfr_none"]}, ["wfr_1"]),
        ({"workflowRunId": "wfr_1", "workflowCreatedAt": began}, []),
        ({"workflowCreatedAt": began}, ["wfr_2"]),
        ({"workflowRuns": f"wfr_1@{began},wfr_2@{began},x"}, ["wfr_2"]),
        ({"workflowUrl": "https://other.example:8080/a,b"}, ["wfr_2"]),
        ({"workflowUrl": [FLOW_URL, "https://x.example"]}, ["wfr_1"]),
        ({"host": "other.example:8080"}, ["wfr_2"]),
        ({"path": "/flow"}, ["wfr_1"]),
        ({"state": "RUN_FAILED"}, ["wfr_1"]),
        ({"state": ["RUN_STARTED", "RUN_CANCELED"]}, ["wfr_2"]),
        ({"label": ["two", "three"]}, ["wfr_1"]),
        ({"flowControlKey": "k"}, ["wfr_2"]),
        ({"callerIp": "10.0.0.1", "label": "one"}, ["wfr_1"]),
        ({"callerIp": "10.0.0.2"}, []),
        ({"messageId": failed}, ["wfr_1"]),
        ({"messageId": [failed, "msg_none"], "state": "RUN_STARTED"}, []),
        ({"fromDate": began}, ["wfr_2"]),
        ({"toDate": began - 1}, ["wfr_1"]),
        ({"count": 100}, ["wfr_2", "wfr_1"]),
    ]
    for query, found in cases:
        assert await ids(http, **query) == found, query


async def test_pages_of_runs_follow_each_other(
    http: AsyncClient, runs: FailingRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten at most; the last one has no cursor, and long ones are short pages."""
    for number in range(12):
        await runs.begin(f"wfr_{number:02}", Label="odd" if number % 2 else "even")
    page = (await http.get(LOGS)).json()
    assert [it["workflowRunId"] for it in page["runs"]] == [f"wfr_{number:02}" for number in range(11, 1, -1)]
    page = (await http.get(LOGS, params={"cursor": page["cursor"]})).json()
    assert [it["workflowRunId"] for it in page["runs"]] == ["wfr_01", "wfr_00"]
    assert "cursor" not in page
    named = [f"wfr_{number:02}" for number in range(12)]
    page = (await http.get(LOGS, params={"workflowRunId": named, "count": 7})).json()
    assert await ids(http, workflowRunId=named, cursor=page["cursor"]) == named[4::-1]
    for name, most in (("MAX_LOOKED_AT", 3), ("_MAX_CHARS", 10)):
        monkeypatch.setattr(run_logs, name, most)
        query, found = {"label": "odd"}, list[str]()
        while True:
            page = (await http.get(LOGS, params=query)).json()
            found += [it["workflowRunId"] for it in page["runs"]]
            if "cursor" not in page:
                break
            query["cursor"] = page["cursor"]
        assert found == named[11::-2]


async def test_bodies_are_trimmed_and_redacted(http: AsyncClient, runs: FailingRuns) -> None:
    """As the request, and as the sender of the run asks for."""
    await runs.begin("wfr_1", body=b"a long text")
    await runs.begin("wfr_2", body=b"secret", Redact_Fields="body,header", Forward_X_Key="secret")
    await runs.step(result(1, out="secret"), "wfr_2")
    redacted, plain = await shown(http, trimBody=6)
    assert plain["steps"][0]["steps"][0]["out"] == "a long"
    assert "secret" not in str(redacted)
    assert "secret" not in str(await shown(http, workflowRunId="wfr_2"))


async def test_a_run_that_has_ended_is_shown_until_its_retention(
    http: AsyncClient, runs: FailingRuns, engine: Engine, clock: ManualClock
) -> None:
    """With its steps, and whether or not its entry in the DLQ was deleted."""
    id = await runs.failed()
    assert (await http.delete(f"/v2/workflows/dlq/{id}")).status_code == 200
    for wait, found in (("23h", ["wfr_1"]), ("2h", [])):
        clock.advance(wait)
        while await engine.store.prune(86_400_000):
            pass
        assert await ids(http) == await ids(http, workflowRunId="wfr_1") == found
        assert [len(run["steps"]) for run in await shown(http)] == [2] * len(found)


async def test_runs_are_those_of_the_tenant(http: AsyncClient, other_http: AsyncClient, runs: FailingRuns) -> None:
    """Nobody else sees one, whatever is named."""
    id = await runs.begin()
    for query in ({}, {"workflowRunId": "wfr_1"}, {"messageId": id}):
        assert await shown(other_http, **query) == []
        assert await ids(http, **query) == ["wfr_1"]


async def test_a_wrong_filter_of_runs_is_refused(http: AsyncClient) -> None:
    """An unknown one too: it would show too much."""
    for query in ("lable=one", "groupBy=x", "state=RUN_FALED", "cursor=x", "count=0", "trimBody=x", "dlqIds=1"):
        response = await http.get(f"/v2/workflows/logs?{query}")
        assert (response.status_code, list(response.json())) == (400, ["error"])


async def test_a_long_run_is_read_with_few_queries(
    http: AsyncClient, runs: FailingRuns, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as a short one; nothing is read for each of its steps."""
    store: Any = engine.store
    calls: Counter[str] = Counter()
    for name in ("run_entries", "run_members", "created_entries", "latest_entries", "log_entries"):
        verb = getattr(store, name)

        async def counted(*given: Any, name: str = name, verb: Any = verb, **named: Any) -> Any:
            calls[name] += 1
            return await verb(*given, **named)

        monkeypatch.setattr(store, name, counted)
    await runs.delivered(await runs.begin())
    for number in range(1, 101):
        await runs.delivered(await runs.step(result(number)))
    calls.clear()
    (run,) = await shown(http)
    assert len(run["steps"]) == 101
    assert calls == {"run_entries": 1, "run_members": 1, "created_entries": 1, "latest_entries": 1}
