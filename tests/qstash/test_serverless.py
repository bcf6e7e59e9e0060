"""An app without a process that lives on: AWS Lambda, by Mangum, and containers that scale to zero."""

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Literal

import httpx
import pytest
from fastapi import FastAPI
from sse_starlette import EventSourceResponse

from batchflow import (
    Batchflow,
    BatchSummary,
    BatchWorkflow,
    FlowControl,
    NoParams,
    Page,
    QStash,
    RetryAfter,
    WorkflowContext,
)
from batchflow.engine.push_client import PushRequest
from tests.qstash.invocations import ContainerClient, LambdaClient, OtherLoop, served
from tests.qstash.stage import APP_URL, AppClient, WireStage


@pytest.fixture
async def stage(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WireStage]:
    monkeypatch.setenv("APP_URL", APP_URL)
    async with WireStage() as stage:
        stage.transport = OtherLoop(stage.transport)
        yield stage


class Greet(BatchWorkflow[NoParams, str, str]):
    """Greets users, of whom one is there at the second try only."""

    name = "greet"
    entity = "user"
    page_size = 3
    execute_flow = FlowControl(parallelism=2)

    def __init__(self, calls: list[str], wait_s: int = 90) -> None:
        self._calls = calls
        self._wait_s = wait_s

    def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        ids = [f"user-{number}" for number in range(7)]
        first = int(cursor or 0)
        return Page(ids[first : first + limit], next_cursor=str(first + limit) if first + limit < 7 else None)

    def execute(self, user_id: str) -> str:
        self._calls.append(user_id)
        if user_id == "user-3" and self._calls.count(user_id) == 1:
            raise RetryAfter(self._wait_s, "not there yet")
        return f"hello {user_id}"

    def on_complete(self, summary: BatchSummary) -> None:
        self._calls.append(f"{summary.counts.succeeded} greeted")


def new_flow(stage: WireStage, store: str | None = None) -> Batchflow:
    """The workflows of a process that has just begun."""
    return Batchflow(
        QStash(
            url="http://qstash.test",
            token=stage.token,
            current_signing_key=stage.keys["current"],
            next_signing_key=stage.keys["next"],
            transport=stage.transport,
            store=store,
        ),
        clock=stage.clock,
    )


def factory(stage: WireStage, calls: list[str]) -> Callable[[], FastAPI]:
    """Makes the app of a process."""

    def make() -> FastAPI:
        flow = new_flow(stage)

        @flow.resource
        def greeting() -> Iterator[str]:
            calls.append("open")
            yield "hello"
            calls.append("close")

        def greet(name: str) -> str:
            calls.append("greet")
            return f"{greeting()} {name}"

        @flow.serve("/child")
        async def child(ctx: WorkflowContext[int]) -> int:
            return ctx.payload * 2

        @flow.serve("/onboarding")
        async def onboarding(ctx: WorkflowContext[str]) -> str:
            text = await ctx.run("greet", greet, ctx.payload)
            await ctx.sleep("three days", "3d")
            async with asyncio.TaskGroup() as group:
                doubled = group.create_task(ctx.invoke("double", child, 21))
                again = group.create_task(ctx.run("again", greet, "again"))
            return f"{text}, {doubled.result()}, {again.result()}"

        app = FastAPI(lifespan=flow.lifespan)
        app.include_router(flow.router, prefix="/workflows")
        return app

    return make


def start(path: str = "/workflows/onboarding", body: bytes = b'"ada"') -> PushRequest:
    """A request that starts a run."""
    return PushRequest("POST", f"{APP_URL}{path}", (("Content-Type", "application/json"),), body, 30_000)


async def check_run(stage: WireStage, client: AppClient, calls: list[str]) -> None:
    """Start a run by a request, and see that it does what it has to."""
    stage.qstash.engine.push_client = client
    begun = stage.clock.now()
    await client.send(start())
    await stage.drive()
    assert stage.clock.now() - begun >= 3 * 86_400_000
    assert client.answers == [202] + [200] * (len(client.answers) - 1)
    assert calls.count("greet") == 2
    assert calls.count("open") == calls.count("close") == len(client.answers)
    (run,) = [it for it in (await stage.flow.runs()).runs if it.destination.endswith("/onboarding")]
    assert (run.state, run.result) == ("completed", '"hello ada, 42, hello again"')


@pytest.mark.parametrize("image", ["new", "kept", "new loop"])
@pytest.mark.parametrize("lifespan", ["auto", "off"])
async def test_a_run_needs_nothing_but_its_requests(
    stage: WireStage, lifespan: Literal["auto", "off"], image: str
) -> None:
    """Nothing in memory, on disk or of an event loop, nor the lifespan of ASGI; nothing runs between the requests."""
    calls: list[str] = []
    client = LambdaClient(factory(stage, calls), lifespan, image)
    await check_run(stage, client, calls)
    assert client.left == []


@pytest.mark.parametrize(("lifespan", "image"), [("auto", "new"), ("off", "kept")])
async def test_a_batch_needs_its_store_and_its_requests(
    stage: WireStage, lifespan: Literal["auto", "off"], image: str, tmp_path: Path
) -> None:
    """And no worker: pages, items, a retry and the end of the batch come by a message each."""
    calls: list[str] = []
    store = f"sqlite:///{tmp_path}/batches.db"

    def make() -> FastAPI:
        flow = new_flow(stage, store)
        flow.add(Greet(calls))
        app = FastAPI(lifespan=flow.lifespan)
        app.include_router(flow.router, prefix="/workflows")
        return app

    client = LambdaClient(make, lifespan, image)
    stage.qstash.engine.push_client = client
    assert (await client.send(start("/workflows/greet/process-users", b"{}"))).status == 202
    await stage.drive(ms=300_000)
    assert Counter(calls) == {f"user-{it}": 2 if it == 3 else 1 for it in range(7)} | {"7 greeted": 1}
    assert set(client.answers) == {200, 202}
    assert client.left == []
    # The entry, pages, items and the end.
    messages = Counter(it.body.split(b".")[1][:1] for it in client.requests if b"message" in it.body)
    assert messages == {b"e": 1, b"p": 3, b"r": 7 + 1, b"z": 1}


async def test_a_process_that_has_told_qstash_of_its_schedule_relies_on_it_in_later_requests(
    stage: WireStage, tmp_path: Path
) -> None:
    """While an item waits until after the next of its times, its requests ask QStash for nothing."""
    calls: list[str] = []
    transport = stage.transport
    assert isinstance(transport, OtherLoop)
    flow = new_flow(stage, f"sqlite:///{tmp_path}/batches.db")
    flow.add(Greet(calls, 1_200))
    app = FastAPI()
    app.include_router(flow.router, prefix="/workflows")
    client = LambdaClient(lambda: app, "off", "kept")
    stage.qstash.engine.push_client = client
    await client.send(start("/workflows/greet/process-users", b"{}"))
    await stage.drive(ms=120_000)
    assert len(calls) == 7
    transport.paths.clear()
    await stage.drive(ms=800_000)
    assert (client.answers[-2:], transport.paths) == ([200, 200], [])
    await stage.drive(ms=900_000)
    assert calls[-1] == "7 greeted"


async def test_a_run_needs_a_container_for_its_requests_only(stage: WireStage) -> None:
    calls: list[str] = []
    await check_run(stage, ContainerClient(factory(stage, calls)), calls)


async def test_requests_that_overlap_share_what_is_opened_for_them(stage: WireStage) -> None:
    """Until the last of them has ended."""
    calls: list[str] = []
    app = factory(stage, calls)()
    entered, gate = asyncio.Event(), asyncio.Event()

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=APP_URL) as http:

        async def body() -> AsyncIterator[bytes]:
            yield b'"ada'
            entered.set()
            await gate.wait()
            yield b'"'

        slow = asyncio.create_task(http.post("/workflows/onboarding", content=body()))
        await entered.wait()
        quick = await http.post("/workflows/onboarding", json="grace")
        assert (quick.status_code, calls) == (202, ["open"])
        gate.set()
        assert (await slow).status_code == 202
    assert calls == ["open", "close"]


async def test_an_app_that_its_server_has_started_stays_open(stage: WireStage) -> None:
    calls: list[str] = []
    app = factory(stage, calls)()
    async with app.router.lifespan_context(app):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=APP_URL) as http:
            for _ in range(2):
                assert (await http.post("/workflows/onboarding", json="ada")).status_code == 202
        assert calls == ["open"]
    assert calls == ["open", "close"]


async def test_what_qstash_is_told_of_the_code_is_told_once_in_a_process(stage: WireStage, tmp_path: Path) -> None:
    """An app that is opened for each request would tell it each time."""
    flow = new_flow(stage, f"sqlite:///{tmp_path}/batches.db")
    flow.add(Greet([]))

    @flow.serve("/report", schedule="0 3 * * *")
    async def report(ctx: WorkflowContext[None]) -> None: ...

    app = FastAPI(lifespan=flow.lifespan)
    app.include_router(flow.router)
    assert isinstance(stage.transport, OtherLoop)
    told: list[int] = []
    for _ in range(2):
        async with app.router.lifespan_context(app):
            told.append(sum("schedules" in it for it in stage.transport.paths))
    assert told[0] > 0
    assert told[1] == told[0]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
async def test_runs_are_started_from_one_event_loop_after_the_other(stage: WireStage) -> None:
    """By handlers that have an `asyncio.run` each: whatever is kept from the first is of no use to the second."""
    async with served(stage.server) as url:
        flow = Batchflow(QStash(url=url, token=stage.token, verify=False), clock=stage.clock)

        @flow.serve("/onboarding", url=f"{APP_URL}/onboarding")
        async def onboarding(ctx: WorkflowContext[str]) -> None: ...

        async def left_open() -> str:
            await flow.start()
            return (await onboarding.trigger("ada")).id

        async def closed() -> str:
            async with flow:
                return (await onboarding.trigger("ada")).id

        runs = [await asyncio.to_thread(asyncio.run, it()) for it in (left_open, left_open, closed, closed)]
        runs.append(await asyncio.to_thread(lambda: flow.trigger_sync(onboarding, "ada").id))
        assert len({*runs}) == 5
    # A loop that has ended without a stop has left a connection.
    gc.collect()


async def test_a_stream_goes_on_though_servers_of_its_process_have_stopped_in_the_order_of_their_starts() -> None:
    """As those of containers do whose requests overlap."""

    async def events() -> AsyncIterator[dict[str, str]]:
        for number in range(3):
            yield {"data": str(number)}
            for _ in range(10):
                await asyncio.sleep(0)

    async with AsyncExitStack() as second, served(FastAPI()):
        await second.enter_async_context(served(FastAPI()))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(EventSourceResponse(events()))) as http:
        found = (await http.get("http://app.test")).text
    assert found.count("data") == 3
