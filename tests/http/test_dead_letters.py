"""Dead letters over HTTP."""

from typing import Any

import pytest
from httpx import AsyncClient

from batchflow import Batchflow
from batchflow.core import settlement
from batchflow.core.secrets import MASK
from tests.http.samples import NewUser, assert_error


async def dead(flow: Batchflow, http: AsyncClient, count: int = 1) -> list[str]:
    """Runs that have failed, each a dead letter."""
    ids: list[str] = []
    for number in range(count):
        headers = {"Upstash-Forward-x-token": "s3cr3t-value"}
        answer = await http.post("/onboarding", json={"email": f"nowhere{number}"}, headers=headers)
        ids.append(answer.json()["workflowRunId"])
        with pytest.raises(Exception, match="that is no address"):
            await flow.run(ids[-1]).wait(30)
    return ids


async def test_a_dead_letter_is_whole_where_it_is_read_alone(flow: Batchflow, http: AsyncClient) -> None:
    """With request, attempts, steps and traceback; the values of headers are masked."""
    (id,) = await dead(flow, http)
    (listed,) = (await http.get("/dlq")).json()["deadLetters"]
    whole = (await http.get(f"/dlq/{id}")).json()
    assert listed.keys() < whole.keys()
    assert {name: whole[name] for name in listed} == listed
    assert (listed["dlqId"], listed["route"], listed["responseStatus"]) == (id, "/onboarding", 489)
    assert (whole["body"]["email"], whole["attempts"], len(whole["attemptLog"])) == ("nowhere0", 1, 1)
    assert whole["responseBody"].startswith("NonRetryable: that is no address")
    assert whole["traceback"].startswith("Traceback")
    assert set(whole["headers"].values()) <= {MASK}
    assert "s3cr3t-value" not in str(whole)
    assert whole["failure"] is None


async def test_dead_letters_are_searched_in_pages(flow: Batchflow, http: AsyncClient) -> None:
    """All parts of the filter have to match."""
    ids = await dead(flow, http, 3)
    page = (await http.get("/dlq", params={"limit": 2})).json()
    rest = (await http.get("/dlq", params={"limit": 2, "cursor": page["nextCursor"]})).json()
    found = [letter["dlqId"] for letter in [*page["deadLetters"], *rest["deadLetters"]]]
    assert (found, rest["nextCursor"]) == (ids[::-1], None)
    for filter, count in (
        ({"workflowRunId": ids[0]}, 1),
        ({"url": "http://test/api/workflows/onboarding"}, 3),
        ({"workflow": "/onboarding", "responseStatus": "489"}, 3),
        ({"responseStatus": "504"}, 0),
        ({"fromDate": "2000-01-01T00:00:00Z", "toDate": "2001-01-01T00:00:00Z"}, 0),
        ({"fromDate": "2000-01-01T00:00:00Z", "group": page["deadLetters"][0]["group"]}, 3),
    ):
        assert len((await http.get("/dlq", params=filter)).json()["deadLetters"]) == count, filter


async def test_groups_have_a_size_and_an_example(flow: Batchflow, http: AsyncClient) -> None:
    """The example is the latest one."""
    ids = await dead(flow, http, 2)
    (group,) = (await http.get("/dlq/groups")).json()["groups"]
    assert (group["size"], group["example"], group["type"]) == (2, ids[-1], "NonRetryable")
    assert group["where"].startswith("samples.py:")


async def test_resume_and_restart_act_on_ids_or_on_a_page_of_a_filter(idle: Batchflow, idle_http: AsyncClient) -> None:
    """The answer names those that were done and those that were refused, and leads to the next page."""
    store = idle.engine.store
    ids = await kill(idle, 5)
    answer = (await idle_http.post("/dlq/resume", json={"dlqIds": [ids[0], "unknown"]})).json()
    assert (answer["count"], answer["dlqIds"], answer["refused"]) == (1, [ids[0]], ["unknown"])
    limits = {"key": "slow", "parallelism": 1}
    body: dict[str, Any] = {"workflow": "/onboarding", "limit": 3, "retries": 7, "flowControl": limits}
    answer = (await idle_http.post("/dlq/restart", json=body)).json()
    assert (answer["count"], answer["nextCursor"] is None) == (3, False)
    (slow,) = await store.flows(["slow"])
    assert (slow.waiting, slow.limits.parallelism) == (3, 1)
    body["cursor"] = answer["nextCursor"]
    answer = (await idle_http.post("/dlq/restart", json=body)).json()
    assert (answer["count"], answer["nextCursor"]) == (1, None)
    assert (await idle_http.get("/dlq")).json()["deadLetters"] == []


async def kill(flow: Batchflow, count: int) -> list[str]:
    """Dead letters of a store without a worker."""
    store, ids = flow.engine.store, list[str]()
    await store.register("w", 60_000)
    for _ in range(count):
        run = await flow.served["/onboarding"].trigger(NewUser(email="a@b"))
        (claim,) = (await store.claim("w", ["/onboarding"], 1)).claims
        await store.settle(settlement.dead(claim, "Boom: no"))
        ids.append(run.id)
    return ids


async def test_delete_is_for_one_or_for_many(idle: Batchflow, idle_http: AsyncClient) -> None:
    """What does not exist is a 404 for one, and refused among many."""
    ids = await kill(idle, 4)
    assert (await idle_http.delete(f"/dlq/{ids[0]}")).json()["count"] == 1
    assert_error(await idle_http.delete(f"/dlq/{ids[0]}"), (404, "no dead letter", None))
    assert_error(await idle_http.get(f"/dlq/{ids[0]}"), (404, "no dead letter", None))
    answer = (await idle_http.post("/dlq/delete", json={"dlqIds": ids[:2]})).json()
    assert (answer["dlqIds"], answer["refused"]) == ([ids[1]], [ids[0]])
    assert (await idle_http.post("/dlq/delete", json={"all": True})).json()["count"] == 2


async def test_callback_is_refused_without_a_failure_function(idle: Batchflow, idle_http: AsyncClient) -> None:
    """The dead letter stays as it is."""
    ids = await kill(idle, 1)
    answer = (await idle_http.post("/dlq/callback", json={"dlqIds": ids})).json()
    assert (answer["count"], answer["refused"]) == (0, ids)


@pytest.mark.parametrize(
    ("body", "phrase", "field"),
    [
        ({}, "say which dead letters", "dlqIds"),
        ({"dlqIds": []}, "is empty", "dlqIds"),
        ({"dlqIds": ["a"], "label": "x"}, "not both", "dlqIds"),
        ({"dlqIds": [""]}, "cannot be", "dlqIds"),
        ({"dlq_ids": ["a"]}, "does not fit", "dlq_ids"),
        ({"all": "yes"}, "does not fit", "all"),
        ({"all": True, "cursor": "x"}, "nextCursor", "cursor"),
        ({"all": True, "limit": 0}, "does not fit", "limit"),
        ({"all": True, "retries": -1}, "write a number", "retries"),
        ({"responseStatus": 7}, "write a status", "responseStatus"),
        ({"fromDate": "yesterday"}, "does not fit", "fromDate"),
        ({"all": True, "flowControl": {"key": "a b"}}, "key", "flowControl"),
        ({"all": True, "flowControl": {"parallelism": 1}}, "does not fit", "flowControl.key"),
    ],
)
async def test_a_body_that_does_not_fit_is_refused(
    idle: Batchflow, idle_http: AsyncClient, body: dict[str, Any], phrase: str, field: str
) -> None:
    """422 with the field; nothing is redriven."""
    ids = await kill(idle, 1)
    assert_error(await idle_http.post("/dlq/resume", json=body), (422, phrase, field))
    assert [letter["dlqId"] for letter in (await idle_http.get("/dlq")).json()["deadLetters"]] == ids


async def test_a_filter_that_does_not_fit_is_refused(idle_http: AsyncClient) -> None:
    """422 with the parameter."""
    for name, value in (("responseStatus", "x"), ("fromDate", "yesterday"), ("cursor", "x"), ("limit", "0")):
        response = await idle_http.get("/dlq", params={name: value})
        assert (response.status_code, response.json().get("field")) == (422, name), response.text
