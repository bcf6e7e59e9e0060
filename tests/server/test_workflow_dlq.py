"""The DLQ of workflow runs: entries with their failure callbacks, resumed and restarted runs."""

import asyncio
import json
from typing import Any

import pytest
from httpx import AsyncClient

from batchflow.engine.engine import Engine
from batchflow.testing.clock import ManualClock
from batchflow.wire.run_config import RunConfig
from tests.server.failing_runs import FLOW_URL, FailingRuns, callback_id, plan, result

DLQ = "/v2/workflows/dlq"
CALLBACK = {"Failure_Callback": "https://app.example/failed", "Failure_Callback_Retries": "0"}


@pytest.fixture
def runs(engine: Engine, clock: ManualClock) -> FailingRuns:
    """Workflow runs that fail."""
    return FailingRuns(engine, clock)


async def listed(http: AsyncClient, path: str = DLQ, **query: Any) -> list[str]:
    """The runs of the entries of a page."""
    response = await http.get(path, params=query)
    assert response.status_code == 200, response.text
    return [it["workflowRunId"] for it in response.json()["messages"]]


async def again(http: AsyncClient, path: str, **options: Any) -> list[str]:
    """Resume or restart; the ids of the new runs."""
    response = await http.post(f"{DLQ}/{path}", **options)
    assert response.status_code == 200, response.text
    found = response.json()
    return [it["workflowRunId"] for it in found.get("workflowRuns", [found])]


async def test_an_entry_has_its_run_and_its_failure_callback(http: AsyncClient, runs: FailingRuns) -> None:
    """Alone and in both lists; the state is that of the latest delivery of the callback."""
    id = await runs.failed(Retries="0", Label="one", **CALLBACK)
    run = await runs.run()
    expected: dict[str, Any] = {
        "messageId": id,
        "dlqId": id,
        "url": FLOW_URL,
        "maxRetries": 0,
        "label": "one",
        "callerIP": "10.0.0.1",
        "workflowRunId": "wfr_1",
        "workflowUrl": FLOW_URL,
        "workflowCreatedAt": run.created_at,
        "responseStatus": 500,
        "responseBody": "sorry",
        "failureCallback": "https://app.example/failed",
        "failureCallbackInfo": {"state": "CALLBACK_INPROGRESS"},
    }
    for path in (f"{DLQ}/{id}", f"/v2/dlq/{id}"):
        entry = (await http.get(path)).json()
        assert entry.items() >= expected.items()
    assert (await http.get(DLQ)).json() == (await http.get("/v2/dlq?source=workflow")).json() == {"messages": [entry]}
    await runs.delivered(callback_id(id))
    info = (await http.get(f"{DLQ}/{id}")).json()["failureCallbackInfo"]
    headers = {"X-Why": ["because"]}
    assert info == {
        "state": "CALLBACK_SUCCESS",
        "responseStatus": 200,
        "responseHeaders": headers,
        "responseBody": "sorry",
    }


async def test_entries_are_filtered_by_their_run(http: AsyncClient, runs: FailingRuns) -> None:
    """In both lists; messages that belong to no run are not among them."""
    await runs.failed("wfr_1", Label="one", **CALLBACK)
    await runs.failed("wfr_2", url="https://app.example/other,flow")
    other = await http.post("/v2/publish/https://app.example/flow")
    await runs.fail(other.json()["messageId"], None)
    began = (await runs.run("wfr_2")).created_at
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({}, ["wfr_2", "wfr_1"]),
        ({"workflowRunId": "wfr_1"}, ["wfr_1"]),
        ({"workflowUrl": "https://app.example/other,flow"}, ["wfr_2"]),
        ({"workflowUrl": [FLOW_URL, "https://x.example"]}, ["wfr_1"]),
        ({"workflowCreatedAt": began}, ["wfr_2"]),
        ({"failureFunctionState": "CALLBACK_INPROGRESS"}, ["wfr_1"]),
        ({"failureFunctionState": "CALLBACK_FAIL"}, []),
        ({"label": "one", "responseStatus": "500"}, ["wfr_1"]),
        ({"label": "one", "responseStatus": "404"}, []),
    ]
    for query, found in cases:
        assert await listed(http, **query) == found, query
        assert await listed(http, "/v2/dlq", source="workflow", **query) == found, query
    assert len((await http.get("/v2/dlq")).json()["messages"]) == 3


async def test_a_resumed_run_goes_on_with_the_results_that_there_are(http: AsyncClient, runs: FailingRuns) -> None:
    """As a new run: the members without a result are delivered, the others are not."""
    await runs.delivered(await runs.begin(Label="one", Retries="5", Forward_X_User="17"))
    first, second = await runs.step(plan(1)), await runs.step(plan(2))
    await runs.delivered(second, await runs.step(result(2, 2)))
    await runs.fail(first)
    (id,) = await again(http, f"resume/{first}")
    assert id.startswith("wfr_")
    assert id != "wfr_1"
    delivered = await runs.waiting()
    expected = ["hello", json.dumps(plan(2)), json.dumps(result(2, 2)), json.dumps(plan(1))]
    assert [await runs.entries(id, it) for it in delivered] == [expected]
    (envelope,) = delivered.values()
    assert (envelope.retries, envelope.labels, dict(envelope.headers)["X-User"]) == (5, ("one",), "17")
    run = await runs.run(id)
    assert (run.state, run.url, RunConfig.of_text(run.config).resumed) == ("RUN_STARTED", FLOW_URL, first)
    assert await listed(http) == []
    assert (await http.post(f"{DLQ}/resume/{first}")).status_code == 404


async def test_several_members_without_a_result_are_delivered_each(http: AsyncClient, runs: FailingRuns) -> None:
    """With the entries up to its own."""
    await runs.delivered(await runs.begin())
    first, _ = await runs.step(plan(1)), await runs.step(plan(2))
    await runs.fail(first)
    (id,) = await again(http, "resume", params={"dlqIds": first})
    texts = ["hello", json.dumps(plan(1)), json.dumps(plan(2))]
    assert sorted([await runs.entries(id, it) for it in await runs.waiting(id)], key=len) == [texts[:2], texts]


async def test_a_restarted_run_begins_with_the_same_body(http: AsyncClient, runs: FailingRuns) -> None:
    """And without steps."""
    await runs.delivered(await runs.begin(body=b"\xff", Label="one"))
    failed = await runs.step(result(1))
    await runs.fail(failed)
    answer = (await http.post(f"{DLQ}/restart/{failed}")).json()
    run = await runs.run(answer["workflowRunId"])
    assert answer == {"workflowRunId": run.id, "workflowCreatedAt": run.created_at}
    (entry,) = await runs.wire.run_entries("ours", run.id)
    assert entry.body.content == b"\xff"
    assert RunConfig.of_text(run.config).labels == ("one",)
    assert await listed(http) == []


async def test_the_headers_of_a_request_change_the_new_run(
    http: AsyncClient, runs: FailingRuns, clock: ManualClock
) -> None:
    """All of its posts have them; what they do not name stays."""
    id = await runs.failed(Retries="1", Label="one", Forward_X_User="17")
    headers = {
        "Upstash-Retries": "7",
        "Upstash-Retry-Delay": "1000",
        "Upstash-Label": "two",
        "Upstash-Flow-Control-Key": "jobs",
        "Upstash-Flow-Control-Value": "rate=2",
        "Upstash-Failure-Callback": "https://app.example/other",
        "Upstash-Delay": "1h",
    }
    (new,) = await again(http, "restart", params={"dlqIds": id}, headers=headers)
    assert await runs.waiting() == {}
    clock.advance("1h")
    (envelope,) = (await runs.waiting()).values()
    assert (envelope.retries, envelope.retry_delay, envelope.labels) == (7, "1000", ("two",))
    assert (envelope.flow_key, envelope.rate, dict(envelope.headers)["X-User"]) == ("jobs", 2, "17")
    config = RunConfig.of_text((await runs.run(new)).config)
    assert (config.retries, config.labels, config.flow_key) == (7, ("two",), "jobs")
    assert config.failure_callback is not None
    assert config.failure_callback.url == "https://app.example/other"


@pytest.mark.parametrize("path", ["resume", "restart"])
async def test_requests_at_the_same_time_begin_one_run(http: AsyncClient, runs: FailingRuns, path: str) -> None:
    """Each that is answered has the same."""
    id = await runs.failed()
    answers = await asyncio.gather(*(http.post(f"{DLQ}/{path}", params={"dlqIds": id}) for _ in range(5)))
    found = [it for answer in answers for it in answer.json()["workflowRuns"]]
    assert len({(it["workflowRunId"], it["workflowCreatedAt"]) for it in found}) == 1
    assert len(await runs.waiting()) == 1


async def test_runs_are_resumed_in_pages_of_fifty(http: AsyncClient, runs: FailingRuns) -> None:
    """All of them, by the cursor; each request names at most so many."""
    for number in range(53):
        await runs.failed(f"wfr_{number}")
    first = (await http.post(f"{DLQ}/resume", params={"count": 100})).json()
    second = (await http.post(f"{DLQ}/resume", params={"count": 100, "cursor": first["cursor"]})).json()
    assert (len(first["workflowRuns"]), len(second["workflowRuns"])) == (50, 3)
    assert "cursor" not in second
    assert await listed(http) == []
    ids = [it["workflowRunId"] for it in (*first["workflowRuns"], *second["workflowRuns"])]
    assert len(set(ids)) == 53


async def test_a_run_that_was_removed_cannot_be_resumed(
    http: AsyncClient, runs: FailingRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was begun anew with its id is another one; several are passed over."""
    id = await runs.failed()
    await runs.begin()
    response = await http.post(f"{DLQ}/resume/{id}")
    sentence = f"the workflow run of the entry '{id}' was removed; begin a new one at its endpoint"
    assert (response.status_code, response.json()) == (404, {"error": sentence})
    assert await again(http, "resume", params={"dlqIds": id}) == []
    assert await listed(http) == ["wfr_1"]


async def test_a_failure_callback_that_has_failed_is_retried(http: AsyncClient, runs: FailingRuns) -> None:
    """As often as it fails; the entry of its run stays."""
    id = await runs.failed(**CALLBACK)
    run = await runs.run()
    for attempt in range(2):
        await runs.fail(callback_id(id, attempt), None)
        assert await listed(http, failureFunctionState="CALLBACK_FAIL") == ["wfr_1"]
        answer = (await http.post(f"{DLQ}/callback/{id}")).json()
        assert answer == {"workflowRunId": "wfr_1", "workflowCreatedAt": run.created_at}
        assert await listed(http, failureFunctionState="CALLBACK_INPROGRESS") == ["wfr_1"]
        refused = await http.post(f"{DLQ}/callback/{id}")
        assert (refused.status_code, "is CALLBACK_INPROGRESS" in refused.text) == (400, True)
    envelope = (await runs.waiting())[callback_id(id, 2)]
    assert (envelope.url, dict(envelope.headers)["Upstash-Workflow-Is-Failure"]) == (
        "https://app.example/failed",
        "true",
    )
    assert json.loads(envelope.body.text)["dlqId"] == id


async def test_a_failure_callback_is_cancelled(http: AsyncClient, runs: FailingRuns) -> None:
    """While it is under way."""
    id = await runs.failed(**CALLBACK)
    assert (await http.delete(f"{DLQ}/callback/{id}")).status_code == 200
    assert await listed(http, failureFunctionState="CALLBACK_CANCELED") == ["wfr_1"]
    assert (await http.delete(f"{DLQ}/callback/{id}")).status_code == 404


async def test_a_run_without_a_failure_callback_has_none_to_retry(http: AsyncClient, runs: FailingRuns) -> None:
    """The sentence says so."""
    id = await runs.failed()
    response = await http.post(f"{DLQ}/callback/{id}")
    assert (response.status_code, "has no failure callback" in response.text) == (400, True)
    assert (await http.delete(f"{DLQ}/callback/{id}")).status_code == 404


async def test_entries_are_deleted(http: AsyncClient, runs: FailingRuns) -> None:
    """One, those that are named, all; other messages stay."""
    ids = [await runs.failed(f"wfr_{number}") for number in range(4)]
    message = (await http.post("/v2/publish/https://app.example/flow")).json()["messageId"]
    await runs.fail(message, None)
    assert (await http.delete(f"{DLQ}/{message}")).status_code == 404
    assert (await http.delete(f"{DLQ}/{ids[0]}")).status_code == 200
    assert (await http.delete(f"{DLQ}/{ids[0]}")).status_code == 404
    named = await http.request("DELETE", DLQ, json={"dlqIds": [ids[1], message]})
    assert named.json() == {"deleted": 1}
    assert (await http.delete(DLQ, params={"dlqIds": ids[2]})).json() == {"deleted": 1}
    assert (await http.delete(DLQ)).json() == {"deleted": 1}
    assert [it["dlqId"] for it in (await http.get("/v2/dlq")).json()["messages"]] == [message]


async def test_a_retry_of_messages_leaves_runs_alone(http: AsyncClient, runs: FailingRuns) -> None:
    """One that is named is refused, with what to do."""
    id = await runs.failed()
    response = await http.post(f"/v2/dlq/retry/{id}")
    assert response.status_code == 400
    assert f"POST /v2/workflows/dlq/resume/{id} or /v2/workflows/dlq/restart/{id}" in response.json()["error"]
    for query in ({}, {"dlqIds": id}):
        assert (await http.post("/v2/dlq/retry", params=query)).json() == {"responses": []}
    assert await listed(http) == ["wfr_1"]


async def test_entries_are_those_of_the_tenant(http: AsyncClient, other_http: AsyncClient, runs: FailingRuns) -> None:
    """Nobody else sees, deletes or begins one."""
    id = await runs.failed(**CALLBACK)
    await runs.fail(callback_id(id), None)
    for method, path in [
        ("GET", id),
        ("DELETE", id),
        ("POST", f"resume/{id}"),
        ("POST", f"restart/{id}"),
        ("POST", f"callback/{id}"),
        ("DELETE", f"callback/{id}"),
    ]:
        assert (await other_http.request(method, f"{DLQ}/{path}")).status_code == 404
    for path in ("resume", "restart"):
        assert await again(other_http, path) == await again(other_http, path, params={"dlqIds": id}) == []
    assert await listed(http) == ["wfr_1"]


async def test_a_wrong_filter_is_refused(http: AsyncClient, runs: FailingRuns) -> None:
    """If it were passed over, too much would begin or be deleted."""
    await runs.failed()
    for query in ("lable=one", "count=0", "cursor=x", "source=message", "source=a&source=b"):
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/resume"), ("POST", "/restart")):
            response = await http.request(method, f"{DLQ}{path}?{query}")
            assert (response.status_code, list(response.json())) == (400, ["error"])
    assert await listed(http) == ["wfr_1"]


async def test_a_wrong_header_begins_nothing(http: AsyncClient, runs: FailingRuns) -> None:
    """The entry stays."""
    id = await runs.failed()
    response = await http.post(f"{DLQ}/resume/{id}", headers={"Upstash-Retries": "x"})
    assert (response.status_code, await listed(http), await runs.waiting()) == (400, ["wfr_1"], {})
