"""Whoever waits for a run on QStash waits while QStash is away, and learns that nothing will change."""

from collections.abc import AsyncIterator

import httpx
import pytest

from batchflow import WorkflowContext
from batchflow.errors import StoreUnavailable
from batchflow.qstash import engine
from batchflow.serve.runs import RunHandle
from tests.qstash.stage import APP_URL, WireStage


class Answers(httpx.AsyncBaseTransport):
    """The way to a QStash that answers some requests with a status of its own, or (0) not at all."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self.inner = inner
        self.next: list[int] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if not self.next:
            return await self.inner.handle_async_request(request)
        if (status := self.next.pop(0)) == 0:
            raise httpx.ConnectError("away")
        return httpx.Response(status, json={"error": "no"})


@pytest.fixture
async def stage(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WireStage]:
    monkeypatch.setenv("APP_URL", f"{APP_URL}/")
    monkeypatch.setattr(engine, "FIRST_POLL_S", 0.001)
    stage = WireStage()
    stage.transport = Answers(stage.transport)
    async with stage:
        yield stage


async def triggered(stage: WireStage, *answers: int) -> tuple[RunHandle[str], Answers]:
    """A run, and the way to QStash, which has these answers next."""

    @stage.flow.serve("/orders")
    async def orders(ctx: WorkflowContext[None]) -> str:
        return "done"

    await stage.open()
    run = await orders.trigger(None)
    await stage.drive()
    transport = stage.transport
    assert isinstance(transport, Answers)
    transport.next = [*answers]
    return run, transport


@pytest.mark.parametrize("status", [401, 403])
async def test_a_wait_ends_when_qstash_does_not_accept_the_token(stage: WireStage, status: int) -> None:
    run, transport = await triggered(stage, 0, status, 503)
    with pytest.raises(StoreUnavailable, match="does not accept the token; check QSTASH_TOKEN"):
        await run.wait()
    assert transport.next == [503]


async def test_a_wait_goes_on_while_qstash_is_away_and_the_log_says_it_once(
    stage: WireStage, caplog: pytest.LogCaptureFixture
) -> None:
    run, transport = await triggered(stage, 0, 503, 0, 503)
    assert await run.wait() == "done"
    assert transport.next == []
    assert caplog.text.count("QStash cannot be asked for what somebody waits for") == 1
    transport.next = [0]
    assert await run.wait() == "done"
    assert caplog.text.count("QStash cannot be asked for what somebody waits for") == 2, "it had answered meanwhile"
