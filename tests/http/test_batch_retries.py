"""Running a part of a batch again over HTTP."""

from typing import Any

import pytest
from httpx import AsyncClient

from batchflow import Batchflow
from batchflow.batch.handle import BatchHandle
from tests.http.samples import Welcome, assert_error


@pytest.fixture
async def ended(flow: Batchflow, http: AsyncClient) -> BatchHandle[str]:
    """A batch of three users of whom one has failed."""
    response = await http.post("/welcome/paginate-users", json={"userIds": ["u012", "u013", "u014"]})
    batch: BatchHandle[str] = flow.workflows["welcome"].batch(response.json()["batchId"])
    await batch.wait(30)
    return batch


async def test_retry_without_a_body_lets_what_has_failed_go_on(ended: BatchHandle[str], http: AsyncClient) -> None:
    """The batch is open again."""
    requests: list[dict[str, Any]] = [{}, {"json": {"failed": True, "restart": True}}]
    for body in requests:
        response = await http.post(f"/batches/{ended.id}/retry", **body)
        answer = response.json()
        assert (response.status_code, answer["resumed"], answer["linkedBatchId"]) == (202, 1, None)
        assert answer["batch"]["batchId"] == ended.id
        assert (await ended.wait(30)).counts.failed == 1


async def test_retry_of_ids_starts_a_linked_batch(
    ended: BatchHandle[str], http: AsyncClient, flow: Batchflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the batch's retry, and the batch shows it."""

    async def execute(self: Welcome, user_id: str) -> str:
        return user_id

    monkeypatch.setattr(flow.workflows["welcome"].instance.__class__, "execute", execute)
    answer = (await http.post(f"/batches/{ended.id}/retry", json={"ids": ["u012"]})).json()
    assert (answer["skipped"], answer["linkedBatchId"]) == (1, None)
    answer = (await http.post(f"/batches/{ended.id}/retry", json={"ids": ["u012", "u014"], "force": True})).json()
    linked = answer["linkedBatchId"]
    await flow.workflows["welcome"].batch(linked).wait(30)
    assert (await http.get(f"/batches/{linked}")).json()["retryOf"] == ended.id
    found = (await http.get(f"/batches/{ended.id}")).json()
    assert [(it["batchId"], it["state"], it["recovered"]) for it in found["retries"]] == [(linked, "completed", 0)]
    assert found["totals"] == {"open": 0, "succeeded": 2, "failed": 1, "cancelled": 0, "recovered": 0}


async def test_retry_refuses_what_it_cannot_do(ended: BatchHandle[str], http: AsyncClient) -> None:
    """One sentence each, with the field."""
    path = f"/batches/{ended.id}/retry"
    refusals: list[tuple[dict[str, Any], str, str | None]] = [
        ({"missing": True}, "trigger listed", None),
        ({"ids": ["u999"]}, "has started no item 'u999'", "ids"),
        ({"ids": []}, "ids", "ids"),
        ({"ids": [7]}, "ids", "ids.0"),
        ({"failed": True, "ids": ["u012"]}, "exclude each other", "failed"),
        ({"force": True}, "not for failed items", "force"),
        ({"missing": "yes"}, "missing", "missing"),
        ({"mising": True}, "mising", "mising"),
    ]
    for body, phrase, field in refusals:
        assert_error(await http.post(path, json=body), (422, phrase, field))
    assert_error(await http.post("/batches/bat_x/retry"), (404, "bat_x", None))
    assert_error(await http.post(path, json=[]), (422, "JSON array", None))


async def test_retry_of_a_batch_whose_workflow_the_app_does_not_have_is_that_of_dead_letters(
    ended: BatchHandle[str], flow: Batchflow, http: AsyncClient
) -> None:
    """Others need the workflow."""
    workflows = vars(flow)["_workflows"]
    known = workflows.pop("welcome")
    assert_error(await http.post(f"/batches/{ended.id}/retry", json={"ids": ["u013"]}), (422, "no workflow", "id"))
    assert (await http.post(f"/batches/{ended.id}/retry")).json()["resumed"] == 1
    workflows["welcome"] = known
