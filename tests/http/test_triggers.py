"""The three endpoints of a workflow."""

from typing import Any

import pytest
from httpx import AsyncClient

from batchflow import Batchflow
from tests.http.conftest import client_of
from tests.http.samples import PREFIX, assert_error, error_of

PROCESS, PAGINATE, GENERATE = "/welcome/process-users", "/welcome/paginate-users", "/welcome/generate-user"


async def end_of(flow: Batchflow, answer: Any, workflow: str = "welcome") -> Any:
    return await flow.workflows[workflow].batch(answer["batchId"]).wait(30)


async def items_of(flow: Batchflow, answer: Any) -> dict[str, str]:
    return {it.id: it.state async for it in flow.workflows["welcome"].batch(answer["batchId"]).items()}


async def test_a_dry_run_answers_the_statistics(flow: Batchflow, http: AsyncClient) -> None:
    """200 with the statistics under their wire names, and no batch."""
    response = await http.post(PROCESS, json={"dryRun": True, "paidOnly": True})
    assert response.status_code == 200
    body = response.json()
    assert body["success"] is True
    assert (body["totalEligible"], body["toProcess"], body["alreadyProcessed"], body["dryRun"]) == (30, 30, 0, True)
    assert body["message"] == "[DryRun] Would process 30 users"
    assert (await http.get("/batches")).json() == {"batches": [], "nextCursor": None}


async def test_a_trigger_says_where_to_read_on(flow: Batchflow, http: AsyncClient) -> None:
    """202 with the ids, and the status at the URL of the body and of `Location`."""
    response = await http.post(PROCESS, json={"paidOnly": True, "label": "a label"})
    body = response.json()
    assert response.status_code == 202
    assert body == {
        "success": True,
        "workflowRunId": f"{body['batchId']}.e",
        "batchId": body["batchId"],
        "deduplicated": False,
        "statusUrl": f"http://test{PREFIX}/batches/{body['batchId']}",
    }
    assert response.headers["Location"] == body["statusUrl"]
    assert (await end_of(flow, body)).counts.succeeded == 30
    status = (await http.get(body["statusUrl"])).json()
    assert (status["state"], status["label"], status["counts"]["succeeded"]) == ("completed", "a label", 30)


@pytest.mark.parametrize("body", [b"", b"  \n", b"{}"])
async def test_a_trigger_needs_no_body(body: bytes, idle_http: AsyncClient) -> None:
    """The parameters then have their defaults."""
    assert (await idle_http.post(PROCESS, content=body)).status_code == 202


@pytest.mark.parametrize(
    ("body", "field"),
    [(b"null", None), (b'{"limit": true}', "limit"), (b'{"limit": "5"}', "limit"), (b'{"dryRun": 1}', "dryRun")],
)
async def test_a_body_of_another_type_starts_nothing(body: bytes, field: str | None, idle_http: AsyncClient) -> None:
    """A slip in what decides how much is done is not read as something else."""
    refused = await idle_http.post(PROCESS, content=body)
    assert (refused.status_code, refused.json().get("field")) == (422, field)


async def test_the_same_dedup_id_is_the_same_batch(idle_http: AsyncClient) -> None:
    """A trigger that is repeated starts nothing."""
    first = (await idle_http.post(PROCESS, json={"dedupId": "today"})).json()
    again = (await idle_http.post(PROCESS, json={"dedupId": "today", "force": True})).json()
    assert again == first | {"deduplicated": True}
    assert len((await idle_http.get("/batches")).json()["batches"]) == 1


async def test_a_limit_beyond_all_numbers_is_no_limit(flow: Batchflow, http: AsyncClient) -> None:
    """JSON has integers of any size."""
    body = (await http.post(PROCESS, content=b'{"paidOnly": true, "limit": 1%s}' % (b"0" * 40))).json()
    assert (await end_of(flow, body)).counts.succeeded == 30


async def test_paginate_by_hand_runs_exactly_these(flow: Batchflow, http: AsyncClient) -> None:
    """Also ids that `fetch` would not return."""
    response = await http.post(PAGINATE, json={"userIds": ["u001", "someone"], "paidOnly": True})
    assert response.status_code == 202
    await end_of(flow, response.json())
    assert await items_of(flow, response.json()) == {"u001": "succeeded", "someone": "succeeded"}
    assert response.json()["statusUrl"].startswith(f"http://test{PREFIX}/batches/bat_")


async def test_generate_runs_one_item_with_force(flow: Batchflow, http: AsyncClient) -> None:
    """It runs again although it is processed."""
    for _ in range(2):
        response = await http.post(GENERATE, json={"userId": "u001", "label": "by hand"})
        assert response.status_code == 202
        await end_of(flow, response.json())
        assert await items_of(flow, response.json()) == {"u001": "succeeded"}


async def test_a_batch_without_a_source_is_triggered_by_ids(flow: Batchflow, http: AsyncClient) -> None:
    """`@flow.batch` without ids: its triggers name them."""
    refused = await http.post("/greet/process-items")
    assert_error(refused, (422, "'greet' has no source of ids", "itemIds"))
    response = await http.post("/greet/process-items", json={"itemIds": ["ada"]})
    assert (await end_of(flow, response.json(), "greet")).counts.succeeded == 1


MISSING = (400, "Missing userId", None)
REFUSED: list[tuple[str, Any, tuple[int, str, str | None]]] = [
    (PROCESS, {"paidonly": True}, (422, "did you mean 'paidOnly'?", "paidonly")),
    (
        PROCESS,
        {"paidOnly": "maybe"},
        (422, "'paidOnly' does not fit: Input should be a valid boolean", "paidOnly"),
    ),
    (PROCESS, {"limit": 0}, (422, "'limit' does not fit", "limit")),
    (PROCESS, {"userIds": []}, (422, "'userIds' cannot be []", "userIds")),
    (PROCESS, {"userIds": ["a", ""]}, (422, "'userIds' holds ''", "userIds")),
    (PROCESS, {"userIds": ["a", "a"]}, (422, "'userIds' names 'a' twice", "userIds")),
    (PROCESS, {"userIds": "a"}, (422, "'userIds' does not fit: Input should be a valid list", "userIds")),
    (PROCESS, {"userIds": [1]}, (422, "'userIds.0' does not fit: Input should be a valid string", "userIds.0")),
    (
        PROCESS,
        {"userIds": ["a"], "limit": 1},
        (422, "'userIds' and 'limit' exclude each other", "userIds"),
    ),
    (
        PROCESS,
        {"userIds": ["a"], "dryRun": True},
        (422, "'dryRun' and 'userIds' exclude each other", "dryRun"),
    ),
    (PROCESS, ["a"], (422, "the body is a JSON array", None)),
    (PROCESS, "a", (422, "the body is a JSON string", None)),
    (PROCESS, True, (422, "the body is a JSON boolean", None)),
    (PROCESS, 1.5, (422, "the body is a JSON number", None)),
    (
        PAGINATE,
        {},
        (422, f"POST to {PROCESS} to run all", "userIds"),
    ),
    (
        PAGINATE,
        {"cursor": "20"},
        (422, f"POST to {PROCESS} to run all", "cursor"),
    ),
    (
        PAGINATE,
        {"userIds": ["a"], "dryRun": True},
        (422, f"POST to {PROCESS} to run all", "dryRun"),
    ),
    (PAGINATE, {"userIds": []}, (422, "'userIds' cannot be []", "userIds")),
    (GENERATE, {}, MISSING),
    (GENERATE, None, MISSING),
    (GENERATE, {"userId": ""}, MISSING),
    (GENERATE, {"userId": None}, MISSING),
    (GENERATE, {"userId": 5}, (422, "'userId' does not fit", "userId")),
    (
        GENERATE,
        {"userId": "a", "userIds": ["b"]},
        (422, f"POST to {PROCESS} to run all", "userIds"),
    ),
    (
        GENERATE,
        {"userId": "a", "paid": True},
        (422, "did you mean 'paidOnly'?", "paid"),
    ),
]


@pytest.mark.parametrize(("path", "body", "expected"), REFUSED)
async def test_an_invalid_trigger_is_refused_in_one_sentence(
    path: str, body: Any, expected: tuple[int, str, str | None], idle_http: AsyncClient
) -> None:
    """The sentence names the field, and nothing is started."""
    assert_error(await idle_http.post(path, json=body), expected)
    assert (await idle_http.get("/batches")).json() == {"batches": [], "nextCursor": None}


@pytest.mark.parametrize("body", [b"a=1", b"{", b"\xff", b"[" * 5000, b"1" * 5000, b'"\\ud800"'])
async def test_a_body_that_is_not_json_is_400(body: bytes, idle_http: AsyncClient) -> None:
    """For every kind of broken body."""
    for path in (PROCESS, PAGINATE, GENERATE, "/onboarding"):
        status, error, field = error_of(await idle_http.post(path, content=body))
        assert (status, field) == (400, None)
        assert error.startswith("the body is not JSON (")


@pytest.mark.parametrize("number", ["1e999", "NaN", "-Infinity"])
async def test_numbers_that_json_cannot_keep_are_refused(number: str, idle_http: AsyncClient) -> None:
    """They fit the type and have no JSON form."""
    status, error, _ = error_of(await idle_http.post(PROCESS, content=f'{{"ratio": {number}}}'))
    assert status == 422
    assert "Params does not survive JSON: the float at .ratio is" in error


@pytest.mark.parametrize("headers", [{"X\r\nY": "a"}, {"X": "a\r\nb"}, {"X": "\x1b[31m"}, {"": "a"}, {"X Y": "a"}])
async def test_headers_that_are_not_valid_in_http_are_refused(headers: dict[str, str], idle: Batchflow) -> None:
    """422, as for any other field of the body."""
    async with client_of(idle) as http:
        for path, fields in (("/welcome/process-users", {}), ("/welcome/generate-user", {"userId": "a"})):
            response = await http.post(path, json={"headers": headers, **fields})
            assert_error(response, (422, "'headers' has ", "headers"))
    assert await idle.engine.store.batches() == []
