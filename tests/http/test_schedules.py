"""Schedules over HTTP, for operators."""

from typing import Any

import pytest
from httpx import AsyncClient

from batchflow import Batchflow, WorkflowContext
from tests.http.samples import assert_error

NIGHTLY = {"target": "welcome", "cron": "30 2 * * *", "timezone": "Europe/Berlin", "scheduleId": "nightly"}


async def made(http: AsyncClient, **fields: Any) -> Any:
    """A schedule as it is made."""
    response = await http.post("/schedules", json={**NIGHTLY, **fields})
    assert response.status_code == 200, response.text
    return response.json()


async def test_a_schedule_is_made_and_shown(idle: Batchflow, idle_http: AsyncClient) -> None:
    """With its next five fires in its time zone, and whether a worker serves it."""
    document = await made(idle_http, params={"paidOnly": True}, overlap="queue", label="l", headers={"x-a": "b"})
    assert len(document["upcoming"]) == 5
    assert all("T02:30:00+0" in at or "T03:00:00+02:00" in at for at in document["upcoming"])
    expected = {
        "scheduleId": "nightly",
        "target": "welcome",
        "starts": "batch",
        "destination": "/welcome/process-users",
        "cron": "30 2 * * *",
        "timezone": "Europe/Berlin",
        "overlap": "queue",
        "label": "l",
        "declared": False,
        "isPaused": False,
        "isServed": False,
        "fires": 0,
        "skips": 0,
        "lastStartedId": None,
        "error": None,
    }
    assert {name: document[name] for name in expected} == expected
    assert document["payload"]["paidOnly"] is True
    assert "headers" not in document
    assert (await idle_http.get("/schedules/nightly")).json() == document
    await idle.engine.store.register("w1", 30_000, 1, ["/welcome/process-users"])
    assert (await idle_http.get("/schedules/nightly")).json()["isServed"]


async def test_a_schedule_of_a_function_has_a_payload(idle_http: AsyncClient) -> None:
    """Named by its name or its route."""
    by_route = await made(idle_http, target="/nightly/cleanup", payload=7)
    by_name = await made(idle_http, target="nightly.cleanup", payload=7)
    assert (by_route["payload"], by_route["starts"], by_route["target"]) == (7, "run", "nightly.cleanup")
    assert by_name == by_route


async def test_schedules_are_listed_in_pages(idle_http: AsyncClient) -> None:
    """By id."""
    for id in ("c", "a", "b"):
        await made(idle_http, scheduleId=id)
    first = (await idle_http.get("/schedules", params={"limit": 2})).json()
    assert ([it["scheduleId"] for it in first["schedules"]], first["nextCursor"]) == (["a", "b"], "b")
    rest = (await idle_http.get("/schedules", params={"cursor": "b"})).json()
    assert ([it["scheduleId"] for it in rest["schedules"]], rest["nextCursor"]) == (["c"], None)


async def test_a_schedule_is_paused_resumed_and_deleted(idle_http: AsyncClient) -> None:
    """Each may be repeated; a paused one fires at no time."""
    await made(idle_http)
    for _ in range(2):
        paused = (await idle_http.post("/schedules/nightly/pause")).json()
        assert (paused["isPaused"], paused["nextScheduleTime"], paused["upcoming"]) == (True, None, [])
    for _ in range(2):
        resumed = (await idle_http.post("/schedules/nightly/resume")).json()
        assert (resumed["isPaused"], len(resumed["upcoming"])) == (False, 5)
    assert (await idle_http.delete("/schedules/nightly")).json() == {"deleted": True, "scheduleId": "nightly"}
    assert_error(await idle_http.delete("/schedules/nightly"), (404, "no schedule 'nightly'", "id"))


async def test_a_schedule_is_fired_now(idle: Batchflow, idle_http: AsyncClient) -> None:
    """Its batch is known at once; the next one is skipped while it is open."""
    await made(idle_http)
    first = (await idle_http.post("/schedules/nightly/trigger")).json()
    assert first["outcome"] == "fired"
    assert (await idle_http.get(f"/batches/{first['startedId']}")).json()["label"] == "nightly"
    second = (await idle_http.post("/schedules/nightly/trigger")).json()
    assert (second["outcome"], second["startedId"], second["schedule"]["skips"]) == ("skipped", None, 1)


async def test_a_declared_schedule_is_not_deleted(idle: Batchflow, idle_http: AsyncClient) -> None:
    """The next worker would make it again."""

    @idle.serve("/hourly", schedule="0 * * * *")
    async def hourly(ctx: WorkflowContext[Any]) -> None: ...

    await idle.engine.make_cron().declare()
    assert (await idle_http.get("/schedules/hourly")).json()["declared"]
    assert_error(await idle_http.delete("/schedules/hourly"), (409, "pause it", "id"))
    response = await idle_http.post("/schedules", json={**NIGHTLY, "scheduleId": "hourly"})
    assert_error(response, (422, "declares", "scheduleId"))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"cron": "30 2 * *"}, (422, "4 fields", "cron")),
        ({"cron": 5}, (422, "'cron' does not fit", "cron")),
        ({"timezone": "Europe/Berln"}, (422, "'Europe/Berlin'", "timezone")),
        ({"overlap": "never"}, (422, "'overlap' does not fit", "overlap")),
        ({"scheduleId": "a b"}, (422, "'scheduleId'", "scheduleId")),
        ({"target": "welcom"}, (404, "did you mean 'welcome'", "target")),
        ({"params": {"paidOny": True}}, (422, "did you mean 'paidOnly'", "paidOny")),
        ({"params": {"force": True}}, (422, "parameters only", "params")),
        ({"payload": 5}, (422, "'params'", "payload")),
        ({"label": ""}, (422, "label", "label")),
        ({"headers": {"a b": "c"}}, (422, "header", "headers")),
        ({"crn": "x"}, (422, "crn", "crn")),
    ],
)
async def test_a_wrong_schedule_is_refused(
    idle_http: AsyncClient, fields: dict[str, Any], expected: tuple[int, str, str | None]
) -> None:
    """422 with the field at fault; nothing is made."""
    assert_error(await idle_http.post("/schedules", json={**NIGHTLY, **fields}), expected)
    assert (await idle_http.get("/schedules")).json() == {"schedules": [], "nextCursor": None}


@pytest.mark.parametrize("path", ["", "/pause", "/resume", "/trigger"])
async def test_an_unknown_schedule_is_not_found(idle_http: AsyncClient, path: str) -> None:
    """With 404."""
    response = await (idle_http.post if path else idle_http.get)(f"/schedules/nightly{path}")
    assert_error(response, (404, "no schedule 'nightly'", "id"))
