"""The programs that batchflow was made for, on QStash, used as their clients use them: by their routes."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest
from pydantic import BaseModel
from pydantic_core import from_json

from batchflow import RunFailure, WorkflowContext
from batchflow.engine.push_client import PushError, PushRequest
from batchflow.engine.push_response import PushResponse
from batchflow.qstash.run_options import FAILURE
from batchflow.serve.runs import RunHandle
from tests.qstash.stage import APP_URL, AppClient, WireStage

DAY = 86_400_000
MODEL = "https://ai.example.com/v1/complete"


class NewUser(BaseModel):
    name: str
    email: str


class Completion(BaseModel):
    text: str


@pytest.fixture(params=["sqlite", "fakeredis"])
async def stage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WireStage]:
    monkeypatch.setenv("APP_URL", f"{APP_URL}/")
    async with WireStage(request.param) as stage:
        yield stage


async def post(stage: WireStage, path: str, body: object) -> RunHandle[Any]:
    """Start a run, as a client of the app does."""
    assert stage.client.app is not None
    async with httpx.AsyncClient(transport=httpx.ASGITransport(stage.client.app), base_url=APP_URL) as http:
        response = await http.post(path, json=body)
    assert response.status_code == 202, response.text
    return stage.flow.run(response.json()["workflowRunId"])


async def test_onboarding_welcomes_waits_three_days_and_sends_what_the_model_wrote(stage: WireStage) -> None:
    """Each mail is sent once, the model is asked once, and by QStash."""
    mails: list[tuple[str, str]] = []
    prompts: list[tuple[str, Any]] = []

    async def model(request: PushRequest) -> PushResponse:
        assert request.url == MODEL
        prompts.append((dict(request.headers)["authorization"], from_json(request.body)))
        if len(prompts) == 1:
            return PushResponse(503, (), b"busy")
        return PushResponse(200, (("Content-Type", "application/json"),), b'{"text":"How do you like it, Ada?"}')

    stage.client.elsewhere = model

    @stage.flow.serve("/onboarding")
    async def onboarding(ctx: WorkflowContext[NewUser]) -> str:
        user = ctx.payload

        async def send(text: str) -> None:
            mails.append((user.email, text))

        await ctx.run("welcome", send, f"Welcome, {user.name}!")
        await ctx.sleep("three days", "3d")
        written = await ctx.call(
            "write the follow-up",
            MODEL,
            body={"prompt": f"Ask {user.name} how it goes"},
            headers={"authorization": "Bearer key"},
            retries=2,
            response=Completion,
        )
        await ctx.run("follow-up", send, written.body.text)
        return written.body.text

    await stage.open()
    run = await post(stage, "/onboarding", {"name": "Ada", "email": "ada@example.com"})
    await stage.drive(ms=3 * DAY - 1_000)
    assert (mails, prompts) == ([("ada@example.com", "Welcome, Ada!")], [])
    await stage.drive()
    assert mails[1:] == [("ada@example.com", "How do you like it, Ada?")]
    assert prompts == [("Bearer key", {"prompt": "Ask Ada how it goes"})] * 2
    assert await run.wait() == "How do you like it, Ada?"


class Tracker:
    """A tracker of errors that keeps one event per id, as such services do, and is away when it is first asked."""

    def __init__(self) -> None:
        self.requests = 0
        self.events: dict[str, Mapping[str, Any]] = {}

    async def capture(self, event: Mapping[str, Any]) -> None:
        self.requests += 1
        await asyncio.sleep(0)
        if self.requests == 1:
            raise ConnectionError("the tracker is away")
        assert self.events.setdefault(event["event_id"], event) == event


class Repeating:
    """Delivers each request twice at once, or the failure again whose answer is lost; or neither."""

    def __init__(self, inner: AppClient, how: str) -> None:
        self.inner = inner
        self.how = how
        self.loses = how == "answer lost"

    async def send(self, request: PushRequest) -> PushResponse:
        if self.how == "twice at once":
            return (await asyncio.gather(self.inner.send(request), self.inner.send(request)))[1]
        answer = await self.inner.send(request)
        if self.loses and any(name.lower() == FAILURE for name, _ in request.headers) and answer.status == 200:
            self.loses = False
            raise PushError("the answer is lost", status=503)
        return answer

    async def close(self) -> None:
        await self.inner.close()


@pytest.mark.parametrize("how", ["once", "twice at once", "answer lost"])
async def test_a_run_that_fails_for_good_is_one_event_of_the_tracker(stage: WireStage, how: str) -> None:
    """With the error of the step and the payload, though the first report fails; the id of the run makes it one."""
    tracker = Tracker()
    stage.qstash.engine.push_client = Repeating(stage.client, how)
    charged: list[str] = []

    async def report(failure: RunFailure[NewUser]) -> str:
        await tracker.capture(
            {
                "event_id": failure.run_id,
                "message": f"{failure.error}: {failure.response}",
                "transaction": failure.url,
                "user": {"email": failure.payload.email},
                "extra": {"status": failure.status},
            }
        )
        return failure.run_id

    @stage.flow.serve("/subscribe", retries=2, retry_delay="1s", failure_function=report)
    async def subscribe(ctx: WorkflowContext[NewUser]) -> None:
        async def charge() -> None:
            charged.append(ctx.payload.email)
            raise ConnectionError("the bank is down")

        await ctx.run("charge", charge)
        raise AssertionError("the step has failed for good")

    await stage.open()
    run = await post(stage, "/subscribe", {"name": "Ada", "email": "ada@example.com"})
    await stage.drive()
    assert (await run.status()).state == "failed"
    assert tracker.events == {
        run.id: {
            "event_id": run.id,
            "message": "ConnectionError: the bank is down",
            "transaction": f"{APP_URL}/subscribe",
            "user": {"email": "ada@example.com"},
            "extra": {"status": 500},
        }
    }
    assert tracker.requests == {"once": 2, "answer lost": 3}.get(how, tracker.requests)
    assert len(charged) == (6 if how == "twice at once" else 3)
