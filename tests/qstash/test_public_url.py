"""Without a public URL, work starts where a request has reached the app, or is refused before anything is stored."""

from collections.abc import AsyncIterator

import httpx
import pytest

from batchflow import WorkflowContext
from batchflow.errors import ConfigurationError
from tests.qstash.stage import WireStage

HERE = "http://127.0.0.1:3000"


@pytest.fixture
async def stage(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WireStage]:
    monkeypatch.delenv("APP_URL", raising=False)
    async with WireStage(batches=True) as stage:
        stage.client.url = HERE
        yield stage


async def post(stage: WireStage, path: str, json: object, **headers: str) -> httpx.Response:
    assert stage.client.app is not None
    async with httpx.AsyncClient(transport=httpx.ASGITransport(stage.client.app), base_url=HERE) as http:
        return await http.post(path, json=json, headers=headers)


async def test_a_request_from_this_machine_starts_a_run_there_and_the_runs_that_it_invokes(stage: WireStage) -> None:
    @stage.flow.serve("/child")
    async def child(ctx: WorkflowContext[int]) -> int:
        return ctx.payload * 2

    @stage.flow.serve("/parent")
    async def parent(ctx: WorkflowContext[int]) -> int:
        return await ctx.invoke("invoke", child, ctx.payload)

    await stage.open()
    started = await post(stage, "/parent", 21)
    assert started.status_code == 202, started.text
    await stage.drive()
    assert await stage.flow.run(started.json()["workflowRunId"]).wait() == 42


async def test_a_request_that_names_another_host_starts_nothing_and_is_told_what_to_set(
    stage: WireStage, caplog: pytest.LogCaptureFixture
) -> None:
    @stage.flow.serve("/function")
    async def function(ctx: WorkflowContext[int]) -> None: ...

    await stage.open()
    refused = await post(stage, "/function", 1, Host="evil.example")
    assert refused.status_code == 503
    assert "set APP_URL" in refused.json()["error"]
    assert "Traceback" not in caplog.text
    assert not (await stage.flow.runs()).runs


async def test_a_batch_is_refused_before_it_is_stored(stage: WireStage) -> None:
    @stage.flow.batch(ids=["a"])
    async def job(item: str) -> None: ...

    await stage.open()
    with pytest.raises(ConfigurationError, match="set APP_URL"):
        await job.trigger()
    refused = await post(stage, "/job/process-items", {})
    assert (refused.status_code, "set APP_URL" in refused.json()["error"]) == (503, True)
    assert not await stage.flow.batches()
