"""Without a public URL, work starts where a request has reached the app, or is refused before anything is stored."""

from collections.abc import AsyncIterator

import httpx
import pytest

from batchflow import WorkflowContext
from batchflow.engine.push_client import PushRequest
from batchflow.engine.push_response import PushResponse
from batchflow.errors import ConfigurationError
from batchflow.wire.signature import SIGNATURE, sign
from batchflow.wire.submissions import wire_id
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


class Customer:
    """Receives the calls of an app."""

    def __init__(self) -> None:
        self.received: list[PushRequest] = []

    async def answer(self, request: PushRequest) -> PushResponse:
        self.received.append(request)
        return PushResponse(200, (), b"{}")


async def send(stage: WireStage, request: PushRequest) -> int:
    assert stage.client.app is not None
    url = f"{HERE}/{request.url.partition('//')[2].partition('/')[2]}"
    headers = {"Host": request.url.split("/")[2], **dict(request.headers)}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(stage.client.app)) as http:
        return (await http.post(url, headers=headers, content=request.body)).status_code


@pytest.mark.parametrize("victim", ["callback", "failure-callback", "unknown-sdk"])
async def test_what_is_signed_for_another_host_reaches_no_run(
    stage: WireStage, caplog: pytest.LogCaptureFixture, victim: str
) -> None:
    """QStash signs what runs call with the keys of deliveries, and signs no header."""
    customer, results = Customer(), list[str]()

    @stage.flow.serve("/a")
    async def function(ctx: WorkflowContext[str]) -> None:
        results.append(f"{ctx.payload} begins")
        await ctx.call("tell", "http://evil.test/a", body=[{"messageId": "1", "body": "MQ==", "callType": "step"}])
        await ctx.wait_for_event("paid", "paid")

    stage.client.elsewhere = customer.answer
    await stage.open()
    run = (await post(stage, "/a", "ada")).json()["workflowRunId"]
    await stage.drive(ms=1000)
    (call,) = customer.received
    before = (await stage.flow.run(run).status()).steps
    added = (("Upstash-Workflow-RunId", wire_id(run)), (f"Upstash-Workflow-{victim}", "true"))
    for _ in range(2):
        assert await send(stage, call._replace(headers=(*call.headers, *added))) == 401
    await stage.drive(ms=1000)
    assert (await stage.flow.run(run).status()).steps == before
    assert set(results) == {"ada begins"}
    assert caplog.text.count("set APP_URL") == 1


async def test_a_message_that_is_signed_for_another_host_executes_no_item(stage: WireStage) -> None:
    await stage.open()
    body = b'{"message":"msg_1","fence":1}'
    # Without APP_URL nothing can be given to QStash either.
    for host, status in (("evil.test", 401), ("127.0.0.1:3000", 503)):
        url = f"http://{host}/deliveries"
        signature = sign(stage.keys["current"], url, body, now_ms=stage.clock.now(), id="jwt_1")
        assert await send(stage, PushRequest("POST", url, ((SIGNATURE, signature),), body, 1000)) == status
