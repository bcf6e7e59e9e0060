"""Plain durable functions over HTTP."""

from typing import Any

import pytest
from httpx import AsyncClient

from batchflow import Batchflow
from tests.http.samples import PREFIX, refusal
from tests.waiting import wait_until


async def ended(http: AsyncClient, answer: Any) -> Any:
    run: Any = {}

    async def over() -> bool:
        run.update((await http.get(answer["statusUrl"])).json())
        return run["endedAt"] is not None

    await wait_until(over, description="the run has ended")
    return run


async def test_a_post_starts_a_run(flow: Batchflow, http: AsyncClient) -> None:
    """202 with its id, and its state, result and error at the URL."""
    response = await http.post("/onboarding", json={"email": "ada@example.org"})
    body = response.json()
    assert response.status_code == 202
    assert body["statusUrl"] == f"http://test{PREFIX}/runs/{body['workflowRunId']}" == response.headers["Location"]
    run = await ended(http, body)
    assert (run["workflowRunId"], run["route"]) == (body["workflowRunId"], "/onboarding")
    assert (run["state"], run["result"], run["error"]) == ("completed", {"welcomed": "ada@example.org"}, None)


async def test_a_failed_run_shows_its_error(flow: Batchflow, http: AsyncClient) -> None:
    """Result null, and the sentence of the error."""
    run = await ended(http, (await http.post("/onboarding", json={"email": "nowhere"})).json())
    assert (run["state"], run["result"]) == ("failed", None)
    assert "that is no address" in run["error"]


async def test_the_entry_of_a_batch_is_a_run_too(flow: Batchflow, http: AsyncClient) -> None:
    """`workflowRunId` of a trigger can be read like any other."""
    started = (await http.post("/welcome/process-users", json={"paidOnly": True})).json()
    await flow.workflows["welcome"].batch(started["batchId"]).wait(30)
    run = (await http.get(f"/runs/{started['workflowRunId']}")).json()
    assert (run["route"], run["state"], run["batchId"]) == ("/welcome/process-users", "completed", started["batchId"])
    assert run["result"]["success"] is True


async def test_a_function_without_a_payload_needs_no_body(flow: Batchflow, http: AsyncClient) -> None:
    """A route of several parts works like one."""
    run = await ended(http, (await http.post("/nightly/cleanup")).json())
    assert (run["state"], run["result"]) == ("completed", [0])


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", (422, "'email' does not fit: Field required", "email")),
        (b'{"mail": "a@b"}', (422, "'email' does not fit: Field required", "email")),
        (b'{"email": 5}', (422, "'email' does not fit: Input should be a valid string", "email")),
        (b"[]", (422, "Input should be an object", None)),
    ],
)
async def test_a_payload_that_does_not_fit_is_422(
    body: bytes, expected: tuple[int, str, str | None], idle_http: AsyncClient
) -> None:
    """The sentence names the field."""
    assert refusal(await idle_http.post("/onboarding", content=body)) == expected


async def test_an_unknown_run_is_404(idle_http: AsyncClient) -> None:
    """In a sentence that names it."""
    expected = (404, "there is no run 'run_nope'; retention may have removed it", None)
    assert refusal(await idle_http.get("/runs/run_nope")) == expected
