"""Publish, enqueue and batch of requests that belong to workflow runs: what is added to a run, and what is refused."""

from typing import Any

import pytest
from httpx import AsyncClient
from pydantic_core import to_json

from batchflow.core.wire_runs import MAX_ENTRIES_SIZE
from batchflow.testing.clock import ManualClock
from tests.server.endpoint import URL, FlowEndpoint, run_headers

ENDED = "the workflow run has ended or does not exist, so nothing can be added to it"


def item(run: str = "wfr_1", *, id: int = 1, init: bool = False, **headers: str) -> dict[str, Any]:
    """An item of a batch: a step of a run."""
    named = {f"Upstash-{name.replace('_', '-')}": value for name, value in headers.items()}
    body = to_json({"stepId": id, "stepName": "é", "stepType": "Run", "concurrent": 1}).decode()
    return {"destination": URL, "headers": {**run_headers(run, URL, init=init), **named}, "body": body}


async def test_a_run_that_goes_on_is_not_begun_again(http: AsyncClient, endpoint: FlowEndpoint) -> None:
    """The answer has the message that has begun it, as deduplicated."""
    first, second = [
        await http.post(f"/v2/publish/{URL}", content=body, headers=run_headers("wfr_1", URL, init=True))
        for body in (b"one", b"two")
    ]
    assert (first.status_code, second.status_code) == (201, 202)
    assert second.json() == {**first.json(), "deduplicated": True}
    assert await endpoint.steps() == ["one"]


async def test_the_steps_of_a_batch_are_added_in_their_order(http: AsyncClient, endpoint: FlowEndpoint) -> None:
    """And one that is published alone after them."""
    await endpoint.begin()
    response = await http.post("/v2/batch", json=[item(id=number) for number in (1, 2, 3)])
    assert (response.status_code, [it["url"] for it in response.json()]) == (201, [URL] * 3)
    alone = item(id=4)
    sent = {"content": alone["body"].encode(), "headers": alone["headers"]}
    assert (await http.post(f"/v2/publish/{URL}", **sent)).status_code == 201
    assert [it["stepId"] for it in (await endpoint.steps())[1:]] == [1, 2, 3, 4]


async def test_nothing_is_added_to_a_run_that_has_ended_is_unknown_or_began_at_another_time(
    http: AsyncClient, endpoint: FlowEndpoint, clock: ManualClock
) -> None:
    """Status 400, by which an SDK knows that the run has ended; a batch answers with an array of errors."""
    await endpoint.begin()
    now = clock.now()
    assert (await http.post("/v2/batch", json=[item(Workflow_CreatedAt=str(now))])).status_code == 201
    other = await http.post("/v2/batch", json=[item(), item(Workflow_CreatedAt=str(now - 1))])
    assert (other.status_code, other.json()) == (400, [{"error": f"item 1: {ENDED}"}])
    unknown = await http.post("/v2/batch", json=[item(), item("wfr_2")])
    assert (unknown.status_code, unknown.json()) == (400, [{"error": f"item 1: {ENDED}"}])
    assert len(await endpoint.steps()) == 2
    await http.delete("/v2/workflows/runs/wfr_1")
    ended = await http.post("/v2/batch", json=[item(id=2)])
    assert (ended.status_code, ended.json()) == (400, [{"error": ENDED}])
    assert (await http.post(f"/v2/publish/{URL}", headers=item()["headers"])).json() == {"error": ENDED}


async def test_a_run_does_not_become_larger_than_its_limit(http: AsyncClient, endpoint: FlowEndpoint) -> None:
    """Status 412, by which an SDK fails the run; the sentence says what to do."""
    await endpoint.begin(body="x" * (MAX_ENTRIES_SIZE - 10))
    response = await http.post("/v2/batch", json=[item()])
    assert (response.status_code, [it.keys() for it in response.json()]) == (412, [{"error"}])
    assert "larger than 8 MiB" in response.json()[0]["error"]
    assert len(await endpoint.steps()) == 1


@pytest.mark.parametrize(
    ("path", "headers", "what"),
    [
        (f"/v2/enqueue/q/{URL}", {}, "queue"),
        ("/v2/publish/group", {}, "URL group"),
        (f"/v2/schedules/{URL}", {"Upstash-Cron": "* * * * *"}, "schedule"),
    ],
)
async def test_runs_have_no_queue_no_group_and_no_schedule(
    http: AsyncClient, path: str, headers: dict[str, str], what: str
) -> None:
    """No SDK sends that: they publish to the endpoint, which begins the run."""
    response = await http.post(path, headers={**run_headers("wfr_1", URL, init=True), **headers})
    assert (response.status_code, f"have no {what}" in response.json()["error"]) == (400, True)
