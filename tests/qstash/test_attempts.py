"""Each attempt of a function on QStash is settled or given up, whatever its code does and whatever QStash refuses."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any

import httpx
import pytest
from pydantic import BaseModel, model_validator

from batchflow import Schedule, WorkflowContext
from batchflow.core.message import Claim
from batchflow.core.ports import FailedAttempt, Observer
from batchflow.core.settlement import Settlement
from batchflow.engine.push_client import PushRequest
from batchflow.qstash import attempt
from batchflow.qstash.engine import QStashEngine
from batchflow.wire.signature import SIGNATURE, sign
from tests.qstash.stage import APP_URL, WireStage

MINUTE = 60_000


class Seen(Observer):
    """The events of the attempts of an app."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def claimed(self, claim: Claim) -> None:
        self.events.append("claimed")

    def attempt_failed(self, claim: Claim, attempt: FailedAttempt) -> None:
        self.events.append(f"failed: {attempt.failure.message}")

    def settled(self, claim: Claim, settlement: Settlement) -> None:
        self.events.append(settlement.ending)

    def lost(self, claim: Claim) -> None:
        self.events.append("lost")


@pytest.fixture
async def stage(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WireStage]:
    monkeypatch.setenv("APP_URL", f"{APP_URL}/")
    async with WireStage() as stage:
        yield stage


async def test_code_that_cancels_its_own_task_is_a_failed_attempt(stage: WireStage) -> None:
    times: list[int] = []

    @stage.flow.serve("/own", retries=1)
    async def own(ctx: WorkflowContext[None]) -> None:
        times.append(stage.clock.now())
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    stage.flow.engine.observers.add(seen := Seen())
    await stage.open()
    run = await own.trigger(None)
    await stage.drive()
    assert [later - earlier for earlier, later in pairwise(times)] == [1000]
    assert stage.client.answers[:2] == [500, 500]
    assert seen.events == ["claimed", "failed: CancelledError()", "retry"] * 2
    status = await run.status()
    assert (status.state, "CancelledError" in str(status.error)) == ("failed", True)


async def test_a_function_that_ignores_its_cancellation_is_given_up(
    stage: WireStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "HUNG_GRACE_S", 0.01)
    end = asyncio.Event()

    @stage.flow.serve("/deaf", retries=0, timeout="10ms")
    async def deaf(ctx: WorkflowContext[None]) -> None:
        while not end.is_set():
            try:
                await end.wait()
            except asyncio.CancelledError:
                continue

    stage.flow.engine.observers.add(seen := Seen())
    await stage.open()
    run = await deaf.trigger(None)
    try:
        await stage.drive()
    finally:
        end.set()
    assert stage.client.answers[0] == 500
    assert "it goes on after its timeout of 10ms" in str((await run.status()).error)
    assert seen.events[-1] == "retry"


async def test_a_request_that_nobody_waits_for_leaves_nothing_behind(stage: WireStage) -> None:
    begun = asyncio.Event()

    @stage.flow.serve("/waiting")
    async def waiting(ctx: WorkflowContext[int]) -> None:
        begun.set()
        await asyncio.Event().wait()

    stage.flow.engine.observers.add(seen := Seen())
    await stage.open()
    answering = asyncio.create_task(stage.client.send(delivery(stage, "/waiting")))
    await begun.wait()
    answering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answering
    assert seen.events == ["claimed", "lost"]
    engine = stage.flow.engine
    assert isinstance(engine, QStashEngine)
    assert not engine.runtime.interrupts.requested


def delivery(stage: WireStage, route: str) -> PushRequest:
    """The first request about a run."""
    url, body = f"{APP_URL}{route}", b'[{"messageId":"msg_1","body":"MQ==","callType":"step"}]'
    signature = sign(stage.keys["current"], url, body, now_ms=stage.clock.now(), id="jwt_1")
    headers = {SIGNATURE: signature, "Upstash-Workflow-Sdk-Version": "1", "Upstash-Workflow-RunId": "wfr_1"}
    return PushRequest("POST", url, tuple(headers.items()), body, 30_000)


class Refusing(httpx.ASGITransport):
    """The way to a QStash that does not take some requests, ever."""

    def __init__(self, stage: WireStage, refused: Callable[[str, bytes], bool]) -> None:
        super().__init__(stage.server)
        self._refused = refused
        self.count = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        if self._refused(request.method, body):
            self.count += 1
            return httpx.Response(413, json={"error": "it is beyond the plan"})
        return await super().handle_async_request(request)


REFUSED: dict[str, Callable[[str, bytes], bool]] = {
    "a result": lambda method, _: method == "DELETE",
    "plans": lambda _, body: b'"one' in body and b'"two' in body,
    "a step": lambda _, body: b"recorded" in body,
}


@pytest.mark.parametrize("what", REFUSED)
async def test_a_run_fails_at_once_with_the_reason_if_qstash_will_never_take(stage: WireStage, what: str) -> None:
    transport = Refusing(stage, REFUSED[what])
    flow = stage.flow = stage.again(transport=transport)

    @flow.serve("/refused")
    async def refused(ctx: WorkflowContext[str]) -> str:
        if ctx.payload == "plans":
            await asyncio.gather(ctx.sleep("one", "1s"), ctx.sleep("two", "1s"))
        if ctx.payload == "a step":
            await ctx.run("step", str, "recorded")
        return "done"

    await stage.open()
    run = await refused.trigger(what)
    await stage.drive()
    assert (Counter(stage.client.answers)[489], Counter(stage.client.answers)[500], transport.count) == (1, 0, 1)
    status = await run.status()
    assert (status.state, "it is beyond the plan" in str(status.error)) == ("failed", True)


async def test_a_fire_that_qstash_will_never_take_is_not_repeated(stage: WireStage) -> None:
    declared: list[bool] = []
    transport = Refusing(stage, lambda _, body: bool(declared) and b"to be refused" in body)
    flow = stage.flow = stage.again(transport=transport)

    @flow.serve("/fired", schedule=Schedule("0 * * * *", payload="to be refused"))
    async def fired(ctx: WorkflowContext[str]) -> None: ...

    await stage.open()
    declared.append(True)
    await stage.drive(ms=61 * MINUTE)
    assert (stage.client.answers, transport.count) == ([489], 1)


async def test_a_fire_whose_payload_no_validator_takes_is_refused_whatever_that_raises(
    stage: WireStage, caplog: pytest.LogCaptureFixture
) -> None:
    class Picky(BaseModel):
        word: str

        @model_validator(mode="after")
        def check(self) -> Any:
            if deployed:
                raise RuntimeError("never again")
            return self

    deployed: list[int] = []

    @stage.flow.serve("/picky", schedule=Schedule("0 * * * *", payload=Picky(word="hello")))
    async def picky(ctx: WorkflowContext[Picky]) -> None: ...

    await stage.open()
    deployed.append(1)
    await stage.drive(ms=61 * MINUTE)
    assert stage.client.answers == [489]
    assert "A schedule could start nothing" in caplog.text
    assert "Traceback" not in caplog.text


async def test_a_run_whose_retry_delay_only_qstash_can_read_has_that_of_its_function(
    stage: WireStage, caplog: pytest.LogCaptureFixture
) -> None:
    times: list[int] = []

    @stage.flow.serve("/patient", retry_delay="7s")
    async def patient(ctx: WorkflowContext[None]) -> None:
        times.append(stage.clock.now())
        raise ValueError("no")

    await stage.open()
    send = stage.client.send
    added = (("Upstash-Max-Retries", "1"), ("Upstash-Retry-Delay", "sin(3)"))
    stage.client.send = lambda request: send(request._replace(headers=(*request.headers, *added)))
    await patient.trigger(None, retries=1)
    await stage.drive()
    assert [later - earlier for earlier, later in pairwise(times)] == [7000]
    assert caplog.text.count("a retry delay that only QStash can read") == 1
