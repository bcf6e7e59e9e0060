"""Pausing, resuming and cancelling batches over HTTP, and their priority."""

from typing import Any

from httpx import AsyncClient

from tests.http.samples import assert_error, started


async def test_cancel_ends_a_batch_and_can_be_repeated(idle_http: AsyncClient) -> None:
    """The second one finds it cancelled."""
    id = await started(idle_http)
    first = (await idle_http.post(f"/batches/{id}/cancel")).json()
    assert (first["success"], first["cancelled"]) == (True, True)
    assert first["batch"]["state"] in ("cancelling", "cancelled")
    again = await idle_http.post(f"/batches/{id}/cancel")
    assert (again.status_code, again.json()["cancelled"]) == (200, False)


async def test_a_batch_is_paused_and_resumed(idle_http: AsyncClient) -> None:
    """Each may be repeated."""
    id = await started(idle_http)
    for _ in range(2):
        answer = (await idle_http.post(f"/batches/{id}/pause")).json()
        assert (answer["paused"], answer["batch"]["paused"]) == (True, True)
    for resumed in (True, False):
        answer = (await idle_http.post(f"/batches/{id}/resume")).json()
        assert (answer["resumed"], answer["batch"]["paused"]) == (resumed, False)


async def test_many_batches_are_paused_resumed_and_cancelled(idle_http: AsyncClient) -> None:
    """By id, or all open ones of a label or a workflow."""
    ids = [await started(idle_http) for _ in range(3)]

    async def changed(verb: str, **body: Any) -> int:
        response = await idle_http.post(f"/batches/{verb}", json=body)
        assert response.status_code == 200
        return response.json()[{"pause": "paused", "resume": "resumed", "cancel": "cancelled"}[verb]]

    assert await changed("pause", ids=[*ids[:2], "bat_x"]) == 2
    assert await changed("resume", workflow="welcome") == 2
    assert await changed("pause", label="nobody") == 0
    assert await changed("cancel", workflow="welcome") == 3
    assert await changed("cancel", workflow="welcome") == 0
    assert_error(await idle_http.post("/batches/pause", json={}), (422, "say which batches", "ids"))
    assert_error(await idle_http.post("/batches/pause", json={"ids": []}), (422, "'ids' is empty", "ids"))
    assert_error(
        await idle_http.post("/batches/pause", json={"ids": ["x"], "label": "y"}), (422, "exclude each other", "ids")
    )
    assert_error(await idle_http.post("/batches/cancel", json={"lable": "y"}), (422, "lable", "lable"))
    unknown = await idle_http.post("/batches/cancel", json={"workflow": "welcom"})
    assert_error(unknown, (404, "there is no workflow 'welcom'", "workflow"))


async def test_the_priority_of_a_batch_is_changed(idle_http: AsyncClient) -> None:
    """Until it has ended; the batch of the answer has it, and lists too."""
    id = await started(idle_http, priority=3)
    assert (await idle_http.get(f"/batches/{id}")).json()["priority"] == 3
    answer = (await idle_http.post(f"/batches/{id}/priority", json={"priority": 9})).json()
    assert (answer["success"], answer["changed"], answer["batch"]["priority"]) == (True, True, 9)
    assert [it["priority"] for it in (await idle_http.get("/batches")).json()["batches"]] == [9]
    await idle_http.post(f"/batches/{id}/cancel")
    answer = (await idle_http.post(f"/batches/{id}/priority", json={"priority": 1})).json()
    assert (answer["changed"], answer["batch"]["priority"]) == (False, 9)


async def test_a_wrong_priority_is_422(idle_http: AsyncClient) -> None:
    """Of a trigger as of a batch; an unknown batch is 404."""
    id = await started(idle_http)
    for wrong in (-1, 10, "3", 1.5, True, None):
        response = await idle_http.post(f"/batches/{id}/priority", json={"priority": wrong})
        assert_error(response, (422, "'priority' does not fit", "priority"))
        if wrong is not None:
            response = await idle_http.post("/welcome/process-users", json={"priority": wrong})
            assert_error(response, (422, "'priority' does not fit", "priority"))
    assert_error(await idle_http.post(f"/batches/{id}/priority", json={}), (422, "priority", "priority"))
    assert_error(
        await idle_http.post(f"/batches/{id}/priority", json={"priority": 1, "prio": 1}), (422, "prio", "prio")
    )
    unknown = await idle_http.post("/batches/bat_x/priority", json={"priority": 1})
    assert_error(unknown, (404, "there is no batch 'bat_x'", None))


NO_BREAKER = {"maxInARow": None, "openFor": None}


async def test_the_failure_budget_of_a_batch_is_changed_and_removed(idle_http: AsyncClient) -> None:
    """Until it has ended; that of the trigger comes first."""
    id = await started(idle_http, failureBudget={"maxRate": 0.05})
    budget = {"maxFailures": None, "maxRate": 0.05, "minItems": 50, "action": "pause"} | NO_BREAKER
    found = (await idle_http.get(f"/batches/{id}")).json()
    assert (found["failureBudget"], found["stopReason"]) == (budget, None)

    async def change(budget: Any) -> tuple[bool, Any]:
        answer = (await idle_http.post(f"/batches/{id}/failure-budget", json={"failureBudget": budget})).json()
        return answer["changed"], answer["batch"]["failureBudget"]

    wanted = {"maxFailures": 3, "maxRate": None, "minItems": 50, "action": "cancel"} | NO_BREAKER
    assert await change({"maxFailures": 3.0, "action": "cancel"}) == (True, wanted)
    changed, found = await change({"maxInARow": 5, "openFor": "30s"})
    assert (changed, found["maxInARow"], found["openFor"], found["action"]) == (True, 5, "30s", None)
    assert await change(None) == (True, None)
    await idle_http.post(f"/batches/{id}/cancel")
    assert await change({"maxFailures": 1}) == (False, None)
    unknown = await idle_http.post("/batches/bat_x/failure-budget", json={"failureBudget": None})
    assert_error(unknown, (404, "there is no batch 'bat_x'", None))


async def test_a_wrong_failure_budget_is_422(idle_http: AsyncClient) -> None:
    """Of a trigger as of a batch, with the name of the field."""
    id = await started(idle_http)
    cases: list[tuple[Any, str]] = [
        ({}, "failureBudget"),
        (5, "failureBudget"),
        ({"maxFailures": -1}, "failureBudget.maxFailures"),
        ({"maxFailures": True}, "failureBudget.maxFailures"),
        ({"maxFailures": "3"}, "failureBudget.maxFailures"),
        ({"maxRate": 5}, "failureBudget.maxRate"),
        ({"maxRate": 0.1, "minItems": 0}, "failureBudget.minItems"),
        ({"maxFailures": 1, "action": "stop"}, "failureBudget.action"),
        ({"maxFailures": 1, "rate": 1}, "failureBudget.rate"),
    ]
    for wrong, field in cases:
        for path in (f"/batches/{id}/failure-budget", "/welcome/process-users"):
            response = await idle_http.post(path, json={"failureBudget": wrong})
            assert_error(response, (422, "", field))
    assert_error(
        await idle_http.post(f"/batches/{id}/failure-budget", json={}), (422, "failureBudget", "failureBudget")
    )
