"""What QStash refuses of an app: its schedule, or the messages of a workflow."""

import json
from collections import Counter
from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from batchflow.qstash import relay
from tests.qstash.batch_programs import Greet, Onboard, nothing
from tests.qstash.stage import APP_URL, WireStage

DAY_MS = 86_400_000


class Refusing(httpx.AsyncBaseTransport):
    """The way to a QStash that refuses what `refuses` says, by the path and the body."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self.inner = inner
        self.refuses: Callable[[str, str], bool] = lambda path, body: False
        self.status = 400
        self.refused = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        if request.method == "POST" and self.refuses(request.url.path, request.content.decode()):
            self.refused += 1
            return httpx.Response(self.status, json={"error": "beyond the limits of your plan"})
        return await self.inner.handle_async_request(request)


@pytest.fixture
async def stage(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WireStage]:
    monkeypatch.setenv("APP_URL", f"{APP_URL}/")
    stage = WireStage(batches=True)
    stage.transport = Refusing(stage.transport)
    async with stage:
        yield stage


def refusing(stage: WireStage) -> Refusing:
    assert isinstance(stage.transport, Refusing)
    return stage.transport


async def test_items_that_sleep_wake_though_qstash_has_refused_the_schedule(
    stage: WireStage, caplog: pytest.LogCaptureFixture
) -> None:
    refusing(stage).status = 412
    refusing(stage).refuses = lambda path, body: path.startswith("/v2/schedules")
    steps: Counter[str] = Counter()
    onboard = stage.flow.add(Onboard(steps))
    await stage.open()
    batch = await onboard.trigger(ids=["ada"])
    assert "could not be told to call this app regularly" in caplog.text
    await stage.drive(ms=11 * DAY_MS)
    status = await batch.status()
    assert (status.state, status.counts.succeeded) == ("completed", 1)


class Refused(Greet):
    """Has limits that QStash refuses."""

    name = "refused"


async def test_messages_that_qstash_refuses_hold_up_no_others_and_are_given_again(
    stage: WireStage, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "SLICE", 10)
    refusing(stage).refuses = lambda path, body: (
        path == "/v2/batch"
        and any(it["headers"].get("upstash-label", "").startswith("refused") for it in json.loads(body))
    )
    refused = stage.flow.add(Refused(1, nothing))
    greet = stage.flow.add(Greet(5, nothing))
    await stage.open()
    many = [await refused.trigger() for _ in range(12)]
    assert "beyond the limits of your plan" in caplog.text
    # The refused ones are due again, all at the same time, with a batch that is behind them.
    await stage.drive(ms=61_000)
    batch = await greet.trigger()
    await stage.drive(ms=10_000)
    assert (await batch.status()).counts.succeeded == 5
    assert [(await it.status()).pages for it in many] == [0] * 12

    refusing(stage).refuses = lambda path, body: False
    await stage.drive(ms=900_000)
    assert {(await it.status()).state for it in many} == {"completed"}
