"""Requests for messages of batches that are cancelled, as by a time limit of the server, or while the app stops."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from batchflow.engine.push_client import PushError, PushRequest
from batchflow.engine.push_response import PushResponse
from batchflow.qstash.batches import QStashBatches
from batchflow.qstash.engine import QStashEngine
from batchflow.qstash.relay import Relay
from tests.qstash.batch_programs import Greet, nothing, start
from tests.qstash.stage import APP_URL, WireStage


@pytest.fixture(params=["sqlite", "fakeredis"])
async def stage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WireStage]:
    monkeypatch.setenv("APP_URL", f"{APP_URL}/")
    async with WireStage(request.param, batches=True) as stage:
        yield stage


class Held:
    """Items that are executed until `release` is set; the first request for one is cancelled when it has begun."""

    def __init__(self, stage: WireStage) -> None:
        self._stage = stage
        self.starts: list[str] = []
        self.release = asyncio.Event()
        self.repeats = 0
        self._begun = asyncio.Event()
        self._send = stage.client.send
        stage.client.send = self.send  # type: ignore[method-assign]

    async def execute(self, id: str) -> None:
        self.starts.append(id)
        self._begun.set()
        await self.release.wait()

    async def send(self, request: PushRequest) -> PushResponse:
        if self._begun.is_set():
            self.repeats += 1
            repeated = asyncio.ensure_future(self._send(request))
            # It has time enough to execute the item once more.
            for _ in range(20):
                await self._stage.flow.workers()
            self.release.set()
            return await repeated
        request_task = asyncio.ensure_future(self._send(request))
        begun = asyncio.ensure_future(self._begun.wait())
        await asyncio.wait([request_task, begun], return_when=asyncio.FIRST_COMPLETED)
        if not self._begun.is_set():
            begun.cancel()
            return await request_task
        request_task.cancel()
        await asyncio.wait([request_task])
        raise PushError("the time of the request is over", status=504)


def batches_of(stage: WireStage) -> QStashBatches:
    engine = stage.flow.engine
    assert isinstance(engine, QStashEngine)
    assert engine.batches is not None
    return engine.batches


def heartbeats() -> list[str]:
    return [it.name for it in threading.enumerate() if it.name == "batchflow-heartbeat"]


async def test_an_item_whose_request_is_cancelled_is_executed_once_and_the_repeated_request_waits_for_it(
    stage: WireStage,
) -> None:
    held = Held(stage)
    batch = await start(stage, Greet(1, held.execute))
    await stage.drive()
    status = await batch.status()
    assert (status.state, status.counts.succeeded) == ("completed", 1)
    assert held.starts == ["u0"]
    assert held.repeats >= 1
    assert heartbeats() == []


@pytest.mark.parametrize("grace_s", [0, 60])
async def test_an_app_that_stops_ends_what_a_cancelled_request_has_begun_and_leaves_the_store(
    stage: WireStage, grace_s: float
) -> None:
    held = Held(stage)
    batch = await start(stage, Greet(1, held.execute))
    # QStash repeats the request two seconds later.
    await stage.drive(ms=1_000)
    assert held.starts == ["u0"]
    assert heartbeats() != []
    if grace_s:
        asyncio.get_running_loop().call_later(0, held.release.set)
    await batches_of(stage).close(grace_s)
    assert heartbeats() == []
    assert await stage.flow.workers() == []
    assert (await batch.status()).counts.succeeded == (1 if grace_s else 0)


async def test_a_request_that_the_stop_of_the_app_ends_is_sent_again(
    stage: WireStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = asyncio.Event()

    async def never(self: Relay, destination: str = "") -> None:
        silent.set()
        await asyncio.Event().wait()

    await start(stage, Greet(1, nothing))
    for method in ("run", "replace"):
        monkeypatch.setattr(Relay, method, never)
    driving = asyncio.ensure_future(stage.drive(ms=1_000))
    await silent.wait()
    await batches_of(stage).close(0)
    await driving
    assert stage.client.answers == [503]
