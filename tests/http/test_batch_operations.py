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
