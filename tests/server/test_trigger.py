"""Triggers: they begin workflow runs at the URL of an endpoint."""

import json
from typing import Any

import pytest
from httpx import AsyncClient

from batchflow.testing.clock import ManualClock
from tests.server.endpoint import URL, FlowEndpoint


async def test_a_trigger_begins_a_run_with_its_body(
    http: AsyncClient, endpoint: FlowEndpoint, clock: ManualClock
) -> None:
    """The answer has its id and the time."""
    response = await http.post(f"/v2/trigger/{URL}?a=b", content=b"hello", headers={"Upstash-Retries": "1"})
    assert response.status_code == 201
    run = response.json()["workflowRunId"]
    assert response.json() == {"workflowRunId": run, "workflowCreatedAt": clock.now()}
    assert run.startswith("wfr_")
    assert await endpoint.steps(run) == ["hello"]
    [message] = (await http.get("/v2/logs", params={"state": "CREATED"})).json()["logs"]
    assert (message["url"], message["maxRetries"]) == (f"{URL}?a=b", 1)


@pytest.mark.parametrize("wished", ["mine", "wfr_mine"])
async def test_a_run_may_have_an_id_of_choice(
    http: AsyncClient, endpoint: FlowEndpoint, clock: ManualClock, wished: str
) -> None:
    """While it goes on, it does not begin again."""
    headers, began = {"Upstash-Workflow-RunId": wished}, clock.now()
    first = await http.post(f"/v2/trigger/{URL}", headers=headers)
    clock.advance(5)
    second = await http.post(f"/v2/trigger/{URL}", headers=headers, content=b"again")
    expected = {"workflowRunId": "wfr_mine", "workflowCreatedAt": began}
    assert (first.status_code, first.json()) == (201, expected)
    assert (second.status_code, second.json()) == (202, {**expected, "deduplicated": True})
    assert await endpoint.steps("wfr_mine") == [""]


async def test_a_trigger_that_is_deduplicated_names_the_run_of_the_first(
    http: AsyncClient, endpoint: FlowEndpoint, clock: ManualClock
) -> None:
    """Also after its end, while its deduplication id is known."""
    headers = {"Upstash-Deduplication-Id": "order-7"}
    first = await http.post(f"/v2/trigger/{URL}", headers=headers)
    run = first.json()["workflowRunId"]
    clock.advance(5)
    for _ in range(2):
        second = await http.post(f"/v2/trigger/{URL}", headers=headers)
        assert (second.status_code, second.json()) == (202, {**first.json(), "deduplicated": True})
        await http.delete(f"/v2/workflows/runs/{run}")


async def test_the_endpoint_answers_first_contact_with_the_beginning(http: AsyncClient, endpoint: FlowEndpoint) -> None:
    """The run goes on with the steps of its SDK; a second answer changes nothing."""
    headers = {"Upstash-Workflow-RunId": "wfr_1"}
    assert (await http.post(f"/v2/trigger/{URL}", headers=headers, content=b"hello")).status_code == 201
    for _ in range(2):
        await endpoint.begin(body="hello", Workflow_Trigger_By_Sdk="true")
    assert await endpoint.steps() == ["hello"]
    assert (await endpoint.step()).status_code == 201


async def test_a_batch_of_triggers_begins_all_runs_or_none(
    http: AsyncClient, endpoint: FlowEndpoint, clock: ManualClock
) -> None:
    """With the answer for each of them."""
    items: list[Any] = [
        {"destination": URL, "body": "one", "headers": {"Upstash-Workflow-RunId": "one"}},
        {"destination": URL, "body": {"two": 2}},
        {"destination": URL, "headers": {"Upstash-Workflow-RunId": "one"}},
    ]
    refused = await http.post("/v2/batch/trigger", json=[*items, {"destination": "group"}])
    assert refused.status_code == 400
    assert refused.json()[0]["error"].startswith("item 3: 'destination' is not a URL")
    assert not await endpoint.is_live("wfr_one")
    response = await http.post("/v2/batch/trigger", json=items)
    assert response.status_code == 201
    first, second, third = response.json()
    assert first == {"workflowRunId": "wfr_one", "workflowCreatedAt": clock.now()}
    assert third == {**first, "deduplicated": True}
    assert await endpoint.steps(second["workflowRunId"]) == ['{"two":2}']


async def test_a_wrong_trigger_is_refused(http: AsyncClient) -> None:
    """With a sentence, and in a batch as in a request of its own."""
    cases: list[tuple[str, dict[str, str], int]] = [
        ("my-group", {}, 400),
        ("", {}, 400),
        (URL, {"Upstash-Cron": "* * * * *"}, 400),
        (URL, {"Upstash-Queue-Name": "q"}, 400),
        (URL, {"Upstash-Workflow-RunId": "a/b"}, 400),
        (URL, {"Upstash-Retries": "99"}, 412),
        (URL, {"Upstash-Delay": "soon"}, 400),
    ]
    for destination, headers, status in cases:
        answer = await http.post(f"/v2/trigger/{destination}", headers=headers)
        assert (answer.status_code, list(answer.json())) == (status, ["error"]), (destination, headers)
        batch = await http.post("/v2/batch/trigger", json=[{"destination": destination, "headers": headers}])
        assert (batch.status_code, [list(it) for it in batch.json()]) == (status, [["error"]]), (destination, headers)
    for body in (b"", b"{", b"{}", b"[1]", json.dumps([{"destination": URL, "body": "x" * 9_000_000}]).encode()):
        answer = await http.post("/v2/batch/trigger", content=body)
        assert answer.status_code in (400, 412)
        assert "error" in answer.text
    assert (await http.get("/v2/logs")).json() == {"logs": []}
