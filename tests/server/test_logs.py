"""The log: newest first, filtered, in pages, of one tenant."""

import json
from typing import Any

import pytest
from httpx import AsyncClient

from batchflow.core.posts import LogEntry, LogState
from batchflow.engine.engine import Engine
from batchflow.server import logs
from batchflow.server.context import wire_store
from batchflow.testing.clock import ManualClock
from tests.server.test_messages import URL, publish


async def write(engine: Engine, id: str, *states: LogState, **detail: Any) -> None:
    """Write entries of a message, as a delivery does."""
    entries = [LogEntry(id, "ours", state, engine.now(), json.dumps(detail)) for state in states]
    await wire_store(engine).log(entries)


async def events(http: AsyncClient, path: str = "/v2/events", **params: Any) -> list[dict[str, Any]]:
    """The events of the last page."""
    response = await http.get(path, params=params)
    assert response.status_code == 200, response.text
    (only,) = response.json()
    return response.json()[only]


async def test_events_tell_what_happened(http: AsyncClient, engine: Engine, clock: ManualClock) -> None:
    """The newest first, each with its message and its response."""
    id = await publish(http, Label="one", Retries="2")
    clock.advance(1)
    await write(engine, id, "ACTIVE")
    await write(engine, id, "DELIVERED", responseStatus=200, responseBody="done")
    delivered, active, created = await events(http)
    assert [it["state"] for it in (created, active, delivered)] == ["CREATED", "ACTIVE", "DELIVERED"]
    assert {it["messageId"] for it in (created, active, delivered)} == {id}
    assert (created["time"], delivered["time"]) == (clock.now() - 1000, clock.now())
    assert (delivered["url"], delivered["maxRetries"], delivered["label"]) == (URL, 2, "one")
    assert (delivered["responseStatus"], delivered["responseBody"]) == (200, "done")
    assert created["body"] == "e30="
    assert await events(http, "/v2/logs") == [delivered, active, created]


@pytest.mark.parametrize(
    ("query", "states"),
    [
        ({"state": "ERROR"}, ["ERROR"]),
        ({"state": "ERROR,CREATED"}, ["ERROR", "CREATED"]),
        ({"state": ["ERROR", "CREATED"]}, ["ERROR", "CREATED"]),
        ({"state": "IN_PROGRESS"}, ["RETRY", "ERROR", "CREATED"]),
        ({"label": "one", "host": "example.com"}, ["RETRY", "ERROR", "CREATED"]),
        ({"label": "one", "host": "other.example"}, []),
        ({"count": 2000}, ["RETRY", "ERROR", "CREATED"]),
        ({"order": "earliestFirst"}, ["CREATED", "ERROR", "RETRY"]),
        ({"order": "latestFirst"}, ["RETRY", "ERROR", "CREATED"]),
        ({"fromDate": 1_700_000_000_001}, ["RETRY", "ERROR"]),
        ({"toDate": 1_700_000_000_000}, ["CREATED"]),
        ({"messageId": "msg_none"}, []),
        ({"messageIds": "msg_none,msg_other"}, []),
        ({"cursor": ""}, ["RETRY", "ERROR", "CREATED"]),
    ],
)
async def test_filters_select_events(
    http: AsyncClient, engine: Engine, clock: ManualClock, query: dict[str, Any], states: list[str]
) -> None:
    """By their message, their state and their time."""
    id = await publish(http, Label="one")
    clock.advance(1)
    await write(engine, id, "ERROR", "RETRY")
    assert [it["state"] for it in await events(http, **query)] == states


@pytest.mark.parametrize("name", ["messageId", "messageIds"])
async def test_events_of_one_message(http: AsyncClient, name: str) -> None:
    """And of no other."""
    ids = [await publish(http) for _ in range(3)]
    assert [it["messageId"] for it in await events(http, **{name: ids[1]})] == [ids[1]]
    both = await events(http, **{name: f"{ids[0]},{ids[2]}"})
    assert [it["messageId"] for it in both] == [ids[2], ids[0]]


@pytest.mark.parametrize("order", ["latestFirst", "earliestFirst"])
async def test_pages_follow_each_other(http: AsyncClient, order: str) -> None:
    """Each event is on one of them, and the last has no cursor."""
    ids = [await publish(http) for _ in range(6)]
    seen: list[str] = []
    params: dict[str, Any] = {"count": 2, "order": order}
    pages = 0
    while True:
        page = (await http.get("/v2/events", params=params)).json()
        seen += [it["messageId"] for it in page["events"]]
        pages += 1
        if "cursor" not in page:
            break
        params["cursor"] = page["cursor"]
        # What comes later is on no page of those who went on.
        if order == "latestFirst":
            await publish(http)
    assert seen == (ids[::-1] if order == "latestFirst" else ids)
    assert pages == 3


async def test_a_request_looks_at_a_limited_number_of_entries(
    http: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cursor leads on, also where nothing was found."""
    monkeypatch.setattr(logs, "MAX_LOOKED_AT", 4)
    wanted = await publish(http, Label="wanted")
    for _ in range(9):
        await publish(http)
    params, found, pages = {"label": "wanted"}, list[str](), 0
    while True:
        page = (await http.get("/v2/events", params=params)).json()
        found += [it["messageId"] for it in page["events"]]
        pages += 1
        if "cursor" not in page:
            break
        params["cursor"] = page["cursor"]
    assert (found, pages) == ([wanted], 3)
    response = await http.get("/v2/events", params={"order": "earliestFirst"})
    assert response.status_code == 400
    assert "give 'messageId' or a later 'fromDate'" in response.json()["error"]


@pytest.mark.parametrize(
    "query",
    ["stat=ERROR", "state=NONE", "order=up", "count=0", "cursor=x", "fromDate=x", "cursor=1&cursor=2", "dlqIds=1"],
)
@pytest.mark.parametrize("path", ["/v2/events", "/v2/logs"])
async def test_what_is_not_understood_is_refused(http: AsyncClient, path: str, query: str) -> None:
    """With a sentence."""
    response = await http.get(f"{path}?{query}")
    assert response.status_code == 400
    assert list(response.json()) == ["error"]


async def test_a_log_is_that_of_its_tenant(http: AsyncClient, other_http: AsyncClient) -> None:
    """Nobody else sees an entry."""
    await publish(http)
    assert await events(other_http) == []


async def test_large_messages_make_short_pages(http: AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no answer is larger than a process can hold."""
    monkeypatch.setattr(logs, "_MAX_CHARS", 100)
    for _ in range(3):
        await publish(http)
    page = (await http.get("/v2/events")).json()
    assert len(page["events"]) == 1
    assert "cursor" in page
