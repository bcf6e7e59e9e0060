"""Batches over HTTP: status, items, lists, files, progress."""

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, cast

import anyio
import pytest
from httpx import AsyncClient
from sse_starlette import ServerSentEvent
from starlette.types import Message

from batchflow import Batchflow
from batchflow.core.batch import Batch
from batchflow.errors import StoreUnavailable
from batchflow.http.batches import BatchEndpoints
from batchflow.http.progress import MAX_FAILED_READS, progress_events
from batchflow.http.schemas.batches import BatchInfo
from tests.http.conftest import app_of, scope_of
from tests.http.samples import assert_error, error_of, started
from tests.waiting import DEADLINE_S


@pytest.fixture
async def ended(flow: Batchflow, http: AsyncClient) -> str:
    """A batch of ten users of whom one has failed."""
    response = await http.post("/welcome/paginate-users", json={"userIds": [f"u{n:03d}" for n in range(10, 20)]})
    id = response.json()["batchId"]
    await flow.workflows["welcome"].batch(id).wait(30)
    return id


async def test_the_status_is_complete(ended: str, http: AsyncClient) -> None:
    """Every field, by its wire name."""
    body = (await http.get(f"/batches/{ended}")).json()
    times = [body.pop(name) for name in ("createdAt", "startedAt", "endedAt")]
    assert all(time.endswith("Z") for time in times)
    assert times == sorted(times)
    assert body.pop("elapsedMs") > 0
    assert body.pop("itemsPerSecond") > 0
    (group,) = body.pop("lastErrors")
    assert group.pop("at").endswith("Z")
    assert group.pop("where").endswith(" in execute")
    assert group == {
        "type": "NonRetryable",
        "attempts": 1,
        "items": 1,
        "message": "NonRetryable: no placeholders for u013",
        "itemId": "u013",
    }
    assert body == {
        "batchId": ended,
        "workflow": "welcome",
        "state": "completed",
        "isFinal": True,
        "counts": {
            "eligible": 10,
            "open": 0,
            "succeeded": 9,
            "failed": 1,
            "cancelled": 0,
            "alreadyProcessed": 0,
            "inFlight": 0,
            "duplicates": 0,
            "leftOut": 0,
            "retrying": 0,
            "parked": 0,
        },
        "total": 10,
        "isTotalKnown": True,
        "percent": 100.0,
        "etaMs": 0,
        "pages": body["pages"],
        "chunks": body["chunks"],
        "force": False,
        "paused": False,
        **dict.fromkeys(("stopReason", "failureBudget")),
        "priority": 0,
        "canary": None,
        "needsApproval": False,
        "label": None,
        "error": None,
        "completionError": None,
        "counted": None,
        "waitReason": None,
        "notification": None,
        "retryOf": None,
        "retries": [],
        "totals": None,
        "params": {"paidOnly": False, "ratio": 1.0, "region": {"name": "all", "within": None}},
        "traceback": None,
    }


async def test_items_come_in_pages(ended: str, http: AsyncClient) -> None:
    """`nextAfter` leads through all of them, and is null at the end."""
    seen: list[str] = []
    after: int | None = -1
    while after is not None:
        page = (await http.get(f"/batches/{ended}/items", params={"after": after, "limit": 4})).json()
        assert len(page["items"]) <= 4
        seen += [item["itemId"] for item in page["items"]]
        after = page["nextAfter"]
    assert seen == [f"u{n:03d}" for n in range(10, 20)]


async def test_items_show_how_they_ended(ended: str, http: AsyncClient) -> None:
    """The sentence of an error, and by state."""
    [failed] = (await http.get(f"/batches/{ended}/items?state=failed")).json()["items"]
    assert (failed["number"], failed["itemId"], failed["state"]) == (3, "u013", "failed")
    assert "no placeholders for u013" in failed["error"]
    page = (await http.get(f"/batches/{ended}/items?state=succeeded&limit=1")).json()
    assert page["nextAfter"] == 0
    assert (page["items"][0]["itemId"], page["items"][0]["error"]) == ("u010", None)
    assert (await http.get(f"/batches/{ended}/items?state=cancelled")).json() == {"items": [], "nextAfter": None}


async def test_an_item_is_whole_where_it_is_read_alone(ended: str, http: AsyncClient) -> None:
    """With its result, or its traceback; the list has neither."""
    (listed, *_) = (await http.get(f"/batches/{ended}/items")).json()["items"]
    whole = (await http.get(f"/batches/{ended}/items/0")).json()
    assert whole == {**listed, "result": "U010", "traceback": None}
    failed = (await http.get(f"/batches/{ended}/items/3")).json()
    assert (failed["itemId"], failed["result"]) == ("u013", None)
    assert failed["traceback"].startswith("Traceback")
    assert "\n" not in failed["error"]


async def test_an_item_is_found_by_its_id(ended: str, http: AsyncClient) -> None:
    """As by its number; ids may be numbers, or have slashes."""
    whole = (await http.get(f"/batches/{ended}/items/3")).json()
    assert (await http.get(f"/batches/{ended}/item", params={"itemId": "u013"})).json() == whole
    unknown = await http.get(f"/batches/{ended}/item", params={"itemId": "a/b"})
    assert_error(unknown, (404, "has started no item 'a/b'", None))
    assert_error(await http.get(f"/batches/{ended}/item?itemId=3"), (404, "has started no item '3'", None))
    assert_error(await http.get("/batches/bat_x/item?itemId=u1"), (404, "there is no batch 'bat_x'", None))
    assert_error(await http.get(f"/batches/{ended}/item"), (422, "", "itemId"))


async def test_an_item_that_does_not_exist_is_404(ended: str, http: AsyncClient) -> None:
    """Its batch or its number."""
    assert_error(await http.get(f"/batches/{ended}/items/10"), (404, "no item number 10", None))
    assert_error(await http.get("/batches/bat_x/items/0"), (404, "there is no batch 'bat_x'", None))
    assert_error(await http.get(f"/batches/{ended}/items/-1"), (422, "", "number"))


async def test_the_history_of_an_item_is_that_of_the_latest_batches(ended: str, http: AsyncClient) -> None:
    """Each with its batch; an item that no batch has started has none, and an unknown workflow is said."""
    history = (await http.get("/items/welcome/u013")).json()
    assert (history["workflow"], history["itemId"]) == ("welcome", "u013")
    [entry] = history["items"]
    assert (entry["batchId"], entry["number"], entry["state"]) == (ended, 3, "failed")
    assert entry["attempts"] >= 1
    assert (await http.get("/items/welcome/a/b")).json()["items"] == []
    assert_error(await http.get("/items/welcom/u013"), (404, "did you mean 'welcome'", "workflow"))


async def test_batches_are_listed_newest_first(idle: Batchflow, idle_http: AsyncClient) -> None:
    """All, by workflow, and the open ones."""
    first, second = await started(idle_http), await started(idle_http)
    third = (await idle_http.post("/greet/paginate-items", json={"itemIds": ["a"]})).json()["batchId"]

    async def listed(**query: Any) -> list[str]:
        return [it["batchId"] for it in (await idle_http.get("/batches", params=query)).json()["batches"]]

    assert sorted(await listed()) == sorted([first, second, third])
    assert sorted(await listed(workflow="welcome")) == sorted([first, second])
    assert await listed(workflow="limited") == []
    assert len(await listed(limit=2)) == 2
    assert len(await listed(open=True)) == 3


async def test_an_unknown_workflow_is_404(idle_http: AsyncClient) -> None:
    """The sentence suggests the right name."""
    response = await idle_http.get("/batches?workflow=welcom")
    assert_error(response, (404, "did you mean 'welcome'?", "workflow"))


async def test_batches_are_listed_page_by_page(idle_http: AsyncClient) -> None:
    """Until `nextCursor` is null."""
    ids = [await started(idle_http) for _ in range(5)]
    pages: list[list[str]] = []
    query = ""
    while query is not None:
        page = (await idle_http.get(f"/batches?limit=2{query}")).json()
        pages.append([it["batchId"] for it in page["batches"]])
        query = f"&cursor={page['nextCursor']}" if page["nextCursor"] else None
    assert pages == [ids[:2:-1], ids[2:0:-1], ids[:1]]
    assert (await idle_http.get("/batches?cursor=bat_x")).json() == {"batches": [], "nextCursor": None}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *[("GET", path) for path in ("", "/why", "/items", "/export", "/progress")],
        *[("POST", path) for path in ("/cancel", "/pause", "/resume")],
    ],
)
@pytest.mark.parametrize("id", ["nope", "bat_0000000000", "%00", "%C3%A9", "a%20b", "x" * 3000, "bat_%ff"])
async def test_an_unknown_batch_is_404(method: str, path: str, id: str, idle_http: AsyncClient) -> None:
    """The sentence names it."""
    status, error, field = error_of(await idle_http.request(method, f"/batches/{id}{path}"))
    assert (status, field) == (404, None)
    assert error.startswith("there is no batch '")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("state=done", "state"),
        ("state=", "state"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=ten", "limit"),
        ("after=-2", "after"),
        (f"after={10**30}", "after"),
    ],
)
async def test_a_parameter_that_does_not_fit_is_422(query: str, field: str, idle_http: AsyncClient) -> None:
    """The sentence names it."""
    status, error, named = error_of(await idle_http.get(f"/batches/nope/items?{query}"))
    assert (status, named) == (422, field)
    assert error.startswith(f"'{field}' does not fit: ")


ENDLESS_S = 3600.0


def answer(batch: Batch) -> tuple[str, bool]:
    info = BatchInfo.of(batch, 0, walk_first=False)
    return info.model_dump_json(by_alias=True), info.is_final


def events_of(text: str) -> list[tuple[str, Any]]:
    """Name and data of every event."""
    events: list[tuple[str, Any]] = []
    for block in text.replace("\r\n", "\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "data" in fields:
            events.append((fields.get("event", "message"), json.loads(fields["data"])))
    return events


async def pending(idle: Batchflow) -> Batch:
    handle = await idle.workflows["welcome"].trigger()
    batch = await idle.engine.store.batch(handle.id)
    assert batch is not None
    return batch


async def test_reason_of_a_wait_is_in_status_and_stream(idle: Batchflow, idle_http: AsyncClient) -> None:
    """Its code and a sentence; a reason that changes is a new event."""
    batch = await pending(idle)
    found = (await idle_http.get(f"/batches/{batch.id}")).json()["waitReason"]
    assert found == {"code": "unserved", "sentence": "nobody serves '/welcome/process-users'"}
    response: Any = await BatchEndpoints(idle.engine, idle.workflows).progress(batch.id, 0.001)
    events = aiter(response.body_iterator)
    codes: list[str] = []
    for _ in range(2):
        event: Any = await anext(events)
        codes.append(json.loads(event.data)["waitReason"]["code"])
        await idle.engine.store.pause_batch(batch.id)
    assert codes == ["unserved", "paused"]
    found = (await idle_http.get(f"/batches/{batch.id}")).json()["waitReason"]
    assert found == {"code": "paused", "sentence": "an operator has paused the batch"}
    assert (await idle_http.get("/batches")).json()["batches"][0]["waitReason"] is None


async def test_the_last_event_is_done(flow: Batchflow, http: AsyncClient) -> None:
    """The documents of `GET /batches/{id}`; then the stream ends."""
    id = (await http.post("/welcome/process-users", json={"paidOnly": True})).json()["batchId"]
    response = await http.get(f"/batches/{id}/progress?interval=0.1")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    events = events_of(response.text)
    assert [name for name, _ in events] == ["message"] * (len(events) - 1) + ["done"]
    last = events[-1][1]
    whole = (await http.get(f"/batches/{id}")).json()
    assert whole.pop("params")["paidOnly"] is True
    assert {**last, "traceback": None, "retries": [], "totals": None} == whole
    assert (last["isFinal"], last["counts"]["succeeded"]) == (True, 30)


async def test_a_batch_that_has_ended_is_done_at_once(flow: Batchflow, http: AsyncClient) -> None:
    """One event."""
    id = (await http.post("/welcome/generate-user", json={"userId": "a"})).json()["batchId"]
    await flow.workflows["welcome"].batch(id).wait(30)
    events = events_of((await http.get(f"/batches/{id}/progress?interval=60")).text)
    assert [name for name, _ in events] == ["done"]


async def test_only_changes_are_sent(idle: Batchflow) -> None:
    """A batch that does not change is sent once."""
    batch, stopping = await pending(idle), anyio.Event()
    looks = 0

    async def read() -> Batch:
        nonlocal looks
        looks += 1
        if looks == 5:
            stopping.set()
        return batch

    events = [it async for it in progress_events(read, batch, answer, 0.001, stopping)]
    assert (looks, len(events)) == (5, 1)


async def test_a_server_that_stops_ends_the_stream(idle: Batchflow) -> None:
    """Without waiting for the next read."""
    batch, stopping = await pending(idle), anyio.Event()
    events = progress_events(partial(idle.engine.store.batch, batch.id), batch, answer, ENDLESS_S, stopping)
    assert (await anext(aiter(events))).event is None
    waiting = asyncio.create_task(anext_of(events))
    await asyncio.sleep(0)
    stopping.set()
    assert await asyncio.wait_for(waiting, DEADLINE_S) is None


async def anext_of(events: AsyncIterator[ServerSentEvent]) -> ServerSentEvent | None:
    return await anext(events, None)


async def test_a_client_that_goes_away_ends_the_stream(idle: Batchflow) -> None:
    """The response returns, although the batch goes on."""
    batch = await pending(idle)
    begun = asyncio.Event()

    async def receive() -> Message:
        await begun.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message.get("body"):
            begun.set()

    await asyncio.wait_for(app_of(idle)(scope_of("GET", f"/batches/{batch.id}/progress"), receive, send), DEADLINE_S)
    assert begun.is_set()


@pytest.mark.parametrize("failures", [MAX_FAILED_READS - 1, MAX_FAILED_READS])
async def test_a_store_that_is_away_for_a_moment_is_waited_for(failures: int, idle: Batchflow) -> None:
    """A store that stays unavailable ends the stream."""
    batch = await pending(idle)
    looks = 0

    async def read() -> Batch:
        nonlocal looks
        looks += 1
        if looks <= failures:
            raise StoreUnavailable("busy")
        done = await idle.engine.cancel_batch(batch.id)
        return batch if not done else cast("Any", None)

    events = [it async for it in progress_events(read, batch, answer, 0.001, anyio.Event())]
    assert len(events) == 1
    assert looks == MAX_FAILED_READS


async def test_a_batch_is_exported_as_a_file(ended: str, http: AsyncClient) -> None:
    """JSON lines or CSV, of one state or of all."""
    answer = await http.get(f"/batches/{ended}/export")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    assert answer.headers["content-disposition"] == 'attachment; filename="items.jsonl"'
    rows = [json.loads(line) for line in answer.text.splitlines()]
    assert [row["key"] for row in rows] == [f"u{n:03d}" for n in range(10, 20)]
    answer = await http.get(f"/batches/{ended}/export?format=csv&state=failed")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert [line.split(",")[:3] for line in answer.text.splitlines()[1:]] == [["u013", "3", "failed"]]
    assert_error(await http.get(f"/batches/{ended}/export?format=xml"), (422, "format", "format"))
