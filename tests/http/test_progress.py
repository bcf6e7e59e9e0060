"""The progress of a batch as server-sent events."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, cast

import anyio
import pytest
from httpx import AsyncClient
from sse_starlette import ServerSentEvent
from starlette.types import Message

from batchflow import Batchflow
from batchflow.core.batch import Batch
from batchflow.errors import StoreUnavailable
from batchflow.http.answers import BatchAnswer
from batchflow.http.progress import PATIENCE, progress
from tests.http.conftest import app_of, scope_of

ENDLESS_S = 3600.0


def answer(batch: Batch) -> BatchAnswer:
    return BatchAnswer.of(batch, 0, walk_first=False)


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


async def test_the_last_event_is_done(flow: Batchflow, http: AsyncClient) -> None:
    """Statuses as they are answered elsewhere; then the stream ends."""
    id = (await http.post("/welcome/process-users", json={"paidOnly": True})).json()["batchId"]
    response = await http.get(f"/batches/{id}/progress?interval=0.1")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    events = events_of(response.text)
    assert [name for name, _ in events] == ["message"] * (len(events) - 1) + ["done"]
    last = events[-1][1]
    assert last == (await http.get(f"/batches/{id}")).json()
    assert (last["isFinal"], last["counts"]["succeeded"]) == (True, 30)


async def test_a_batch_that_has_ended_is_done_at_once(flow: Batchflow, http: AsyncClient) -> None:
    """One event."""
    id = (await http.post("/welcome/generate-user", json={"userId": "a"})).json()["batchId"]
    await flow.workflows["welcome"].batch(id).wait(30)
    events = events_of((await http.get(f"/batches/{id}/progress?interval=60")).text)
    assert [name for name, _ in events] == ["done"]


async def test_only_changes_are_told(idle: Batchflow) -> None:
    """A batch that stands still is not told again and again."""
    batch, stopping = await pending(idle), anyio.Event()
    looks = 0

    class Store:
        async def batch(self, id: str) -> Batch:
            nonlocal looks
            looks += 1
            if looks == 5:
                stopping.set()
            return batch

    told = [it async for it in progress(cast("Any", Store()), batch, answer, 0.001, stopping)]
    assert (looks, len(told)) == (5, 1)


async def test_a_server_that_stops_ends_the_stream(idle: Batchflow) -> None:
    """Without waiting for the next look."""
    batch, stopping = await pending(idle), anyio.Event()
    events = progress(idle.engine.store, batch, answer, ENDLESS_S, stopping)
    assert (await anext(aiter(events))).event is None
    waiting = asyncio.create_task(anext_of(events))
    await asyncio.sleep(0)
    stopping.set()
    assert await asyncio.wait_for(waiting, 10) is None


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

    await asyncio.wait_for(app_of(idle)(scope_of("GET", f"/batches/{batch.id}/progress"), receive, send), 10)
    assert begun.is_set()


@pytest.mark.parametrize("failures", [PATIENCE - 1, PATIENCE])
async def test_a_store_that_is_away_for_a_moment_is_waited_for(failures: int, idle: Batchflow) -> None:
    """One that stays away ends the stream."""
    batch = await pending(idle)
    looks = 0

    class Store:
        async def batch(self, id: str) -> Batch:
            nonlocal looks
            looks += 1
            if looks <= failures:
                raise StoreUnavailable("busy")
            done = await idle.engine.cancel_batch(id)
            return batch if not done else cast("Any", None)

    told = [it async for it in progress(cast("Any", Store()), batch, answer, 0.001, anyio.Event())]
    assert len(told) == 1
    assert looks == PATIENCE
