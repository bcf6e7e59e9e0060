"""Canaries over HTTP: a trigger with one, and its approval."""

import asyncio

import pytest
from httpx import AsyncClient

from tests.http.samples import assert_error, started


async def test_a_batch_with_a_canary_is_approved(idle_http: AsyncClient) -> None:
    """Once; the batch of the answer and lists say whether it needs approval."""
    id = await started(idle_http, canary=2, approveUnder=0.5)
    (listed,) = (await idle_http.get("/batches")).json()["batches"]
    assert (listed["canary"], listed["needsApproval"]) == (2, True)
    answers = await asyncio.gather(*(idle_http.post(f"/batches/{id}/approve") for _ in range(2)))
    assert {answer.status_code for answer in answers} == {200}
    assert sorted(answer.json()["approved"] for answer in answers) == [False, True]
    assert not (await idle_http.get(f"/batches/{id}")).json()["needsApproval"]


async def test_a_batch_without_a_canary_needs_no_approval(idle_http: AsyncClient) -> None:
    """Nothing changes; an unknown batch is 404."""
    id = await started(idle_http)
    answer = (await idle_http.post(f"/batches/{id}/approve")).json()
    assert (answer["approved"], answer["batch"]["canary"]) == (False, None)
    assert (await idle_http.post("/batches/bat_x/approve")).status_code == 404


@pytest.mark.parametrize("wrong", [0, 1_001, "20", 2.5, True])
async def test_a_wrong_canary_is_422(idle_http: AsyncClient, wrong: object) -> None:
    """Nothing is started."""
    response = await idle_http.post("/welcome/process-users", json={"canary": wrong})
    assert_error(response, (422, "'canary' does not fit", "canary"))
    assert (await idle_http.get("/batches")).json()["batches"] == []


@pytest.mark.parametrize("wrong", [-1, 5, "5%"])
async def test_a_wrong_share_of_failures_is_422(idle_http: AsyncClient, wrong: object) -> None:
    """And so is one without a canary."""
    response = await idle_http.post("/welcome/process-users", json={"canary": 2, "approveUnder": wrong})
    assert_error(response, (422, "'approveUnder' does not fit", "approveUnder"))
    response = await idle_http.post("/welcome/process-users", json={"approveUnder": 0.1})
    assert_error(response, (422, "'approveUnder' is of a canary", "approveUnder"))


async def test_a_single_item_has_no_canary(idle_http: AsyncClient) -> None:
    """Its route takes none."""
    response = await idle_http.post("/welcome/generate-user", json={"userId": "u1", "canary": 2})
    assert_error(response, (422, "'canary' cannot be given here", "canary"))
