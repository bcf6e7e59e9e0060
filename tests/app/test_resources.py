"""`flow.resource`: opened before work, closed after it, in every process that works."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import structlog
from fastapi import FastAPI

from batchflow import Batchflow, BatchWorkflow, NoParams, Page, WorkflowContext
from batchflow.errors import ConfigurationError, ResourceError
from batchflow.testing import FlowEnv
from tests.engine.http_server import serving


class Recorder:
    """Resources that note what happens to them."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def make(self, name: str, error: Exception | None = None) -> Callable[[], AsyncGenerator[str]]:
        async def opener() -> AsyncGenerator[str]:
            if error is not None:
                raise error
            self.events.append(f"open {name}")
            try:
                yield name
            finally:
                self.events.append(f"close {name}")

        opener.__name__ = name
        return opener


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def flow() -> Batchflow:
    return Batchflow("sqlite://")


class Shout(BatchWorkflow[NoParams, str, str]):
    """One item, with what its constructor was given."""

    entry_flow = paginate_flow = execute_flow = None

    def __init__(self, voice: Callable[[], str]) -> None:
        self.voice = voice

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page([f"fetched by {self.voice()}"])

    def execute(self, item_id: str) -> str:
        return f"{item_id}, executed by {self.voice()}"


async def test_resources_are_open_in_hooks_async_and_sync(flow: Batchflow, recorder: Recorder) -> None:
    """A class gets the resource in its constructor, and calls it."""
    shout = flow.add(Shout(flow.resource(recorder.make("voice"))))
    async with flow:
        batch = await shout.trigger()
        await batch.wait(timeout=30, check=True)
        assert [text async for _, text in batch.results()] == ["fetched by voice, executed by voice"]


async def test_resources_close_in_reverse_after_the_work(flow: Batchflow, recorder: Recorder) -> None:
    """A run that ends in the grace of the stop still has them, and one may use those before it."""
    first = flow.resource(recorder.make("first"))

    @flow.resource
    async def second() -> AsyncGenerator[str]:
        recorder.events.append(f"open second on {first()}")
        yield "second"
        recorder.events.append(f"close second on {first()}")

    started, may_end = asyncio.Event(), asyncio.Event()

    @flow.serve("/slow")
    async def slow(ctx: WorkflowContext[None]) -> None:
        started.set()
        await may_end.wait()
        recorder.events.append(f"work with {second()}")

    async with flow:
        await slow.trigger(None)
        await started.wait()
        # While the app stops.
        asyncio.get_running_loop().call_later(0.05, may_end.set)
    assert recorder.events == [
        "open first",
        "open second on first",
        "work with second",
        "close second on first",
        "close first",
    ]


async def test_resources_are_opened_again_at_each_start(flow: Batchflow, recorder: Recorder) -> None:
    """With a worker or without: a dry run and the app's routes use them too."""
    voice = flow.resource(recorder.make("voice"))
    shout = flow.add(Shout(voice))
    await flow.start(worker=False)
    assert (await shout.dry_run()).total_eligible == 1
    await flow.start()
    await flow.stop()
    async with flow:
        assert voice() == "voice"
    assert recorder.events == ["open voice", "close voice"] * 2


async def test_a_resource_outside_of_the_app_says_when_it_is_open(flow: Batchflow, recorder: Recorder) -> None:
    voice = flow.resource(recorder.make("voice"))
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="the resource 'voice' is not open"):
            voice()
        async with flow:
            pass


async def test_a_resource_that_does_not_open_stops_the_start(flow: Batchflow, recorder: Recorder) -> None:
    """In one sentence; what was open is closed, the store too, and a later start tries again."""
    first = flow.resource(recorder.make("first"))
    flow.resource(recorder.make("database", OSError("connection refused")))
    flow.resource(recorder.make("third"))
    for _ in range(2):
        with pytest.raises(ResourceError, match="the resource 'database' cannot be opened: OSError: connection") as got:
            await flow.start()
        assert isinstance(got.value.__cause__, OSError)
        assert (got.value.resource, flow.engine.loop) == ("database", None)
    assert recorder.events == ["open first", "close first"] * 2
    with pytest.raises(ConfigurationError):
        first()


async def test_a_resource_that_does_not_close_leaves_no_other_open(flow: Batchflow, recorder: Recorder) -> None:
    """Its error is logged: the work is done all the same."""
    flow.resource(recorder.make("first"))

    @flow.resource
    def stubborn() -> Generator[int]:
        yield 1
        raise OSError("stuck")

    with structlog.testing.capture_logs() as logs:
        async with flow:
            assert stubborn() == 1
    assert recorder.events == ["open first", "close first"]
    assert [(it["resource"], it["error"]) for it in logs if "resource" in it] == [("stubborn", "OSError: stuck")]


async def test_a_start_that_is_cancelled_closes_what_is_open(flow: Batchflow, recorder: Recorder) -> None:
    """As a signal does while a server does not answer."""
    flow.resource(recorder.make("first"))
    reached = asyncio.Event()

    @flow.resource
    async def hanging() -> AsyncGenerator[None]:
        reached.set()
        await asyncio.Event().wait()
        yield

    starting = asyncio.create_task(flow.start())
    await reached.wait()
    starting.cancel()
    await asyncio.wait([starting])
    assert (starting.cancelled(), flow.engine.loop) == (True, None)
    assert recorder.events == ["open first", "close first"]
    assert hanging.name == "hanging"


async def test_a_task_group_may_be_a_resource(flow: Batchflow) -> None:
    """Another task may stop the app than the one that started it."""
    group = flow.resource(anyio.create_task_group)
    done: list[int] = []

    async def note() -> None:
        done.append(1)

    await asyncio.create_task(flow.start())
    group().start_soon(note)
    await asyncio.create_task(flow.stop())
    assert done == [1]


async def test_a_client_of_the_app_works_in_tests_after_each_other(tmp_path: Path) -> None:
    """Each start has its own event loop and its own client."""
    flow = Batchflow(f"sqlite:///{tmp_path / 'a.db'}")
    client = flow.resource(lambda: httpx.AsyncClient(trust_env=False))
    seen: list[httpx.AsyncClient] = []

    @flow.batch
    async def status(item_id: str) -> int:
        seen.append(client())
        return (await client().get(item_id)).status_code

    async def test() -> None:
        async with serving() as server, flow:
            batch = await status.trigger(ids=[server.url])
            await batch.wait(timeout=30, check=True)

    for _ in range(2):
        await asyncio.to_thread(asyncio.run, test())
    assert len(seen) == len({id(it) for it in seen}) == 2
    assert all(it.is_closed for it in seen)


async def test_resources_are_open_in_a_test_environment(flow: Batchflow, recorder: Recorder, flow_env: FlowEnv) -> None:
    """Also where the test enters the app's lifespan inside of it."""
    shout = flow.add(Shout(flow.resource(recorder.make("voice"))))
    async with flow_env(flow) as env:
        assert recorder.events == ["open voice"]
        async with flow.lifespan():
            batch = await env.trigger(shout)
        await env.drive()
        batch.assert_completed()
    assert recorder.events == ["open voice", "close voice"] * 2


async def test_a_test_replaces_a_resource(flow: Batchflow, recorder: Recorder, flow_env: FlowEnv) -> None:
    """The real one is not opened, and is back after the block."""
    voice = flow.resource(recorder.make("voice"))
    shout = flow.add(Shout(voice))
    with voice.override("fake"):
        assert voice() == "fake"
        async with flow_env(flow) as env:
            batch = await env.run(shout)
    assert list(batch.results.values()) == ["fetched by fake, executed by fake"]
    assert recorder.events == []
    with pytest.raises(ConfigurationError):
        voice()


async def test_resources_are_open_while_an_asgi_app_runs(flow: Batchflow, recorder: Recorder) -> None:
    """Its routes use them as well."""
    voice = flow.resource(recorder.make("voice"))
    app = FastAPI(lifespan=flow.lifespan)

    @app.get("/")
    def read() -> str:  # pyright: ignore[reportUnusedFunction]: is served
        return voice()

    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            assert (await client.get("/")).json() == "voice"
    assert recorder.events == ["open voice", "close voice"]


@contextmanager
def _with_argument(url: str) -> Generator[str]:
    yield url


async def _returns() -> int:
    return 1


@pytest.mark.parametrize(
    ("opener", "said"),
    [
        (None, "flow.resource cannot take None; write a function that yields it"),
        (3, "flow.resource cannot take 3"),
        (_returns, "the resource '_returns' returns where it has to yield"),
        (_with_argument, "the resource '_with_argument' is opened without arguments"),
    ],
)
def test_what_cannot_be_a_resource_is_refused(opener: Any, said: str, flow: Batchflow) -> None:
    """When it is declared."""
    with pytest.raises(ConfigurationError, match=said):
        flow.resource(opener)


async def test_a_value_that_cannot_be_closed_is_refused(flow: Batchflow) -> None:
    """A plain value needs no resource."""
    flow.resource(lambda: 3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]: it is refused
    with pytest.raises(ResourceError, match="returned 3, which cannot be closed; write a function that yields it"):
        await flow.start()


async def test_a_resource_is_declared_before_the_app_runs(flow: Batchflow, recorder: Recorder) -> None:
    """Later it would not be open."""
    flow.resource(recorder.make("first"))
    async with flow:
        with pytest.raises(ConfigurationError, match="'late' is declared while the app runs"):
            flow.resource(recorder.make("late"))


PROGRAM = """
from batchflow import Batchflow, WorkflowContext

flow = Batchflow()

@flow.resource
def voice():
    print("open voice", flush=True)
    yield "voice"
    print("close voice", flush=True)

@flow.batch(ids=["a"])
def shout(item_id: str) -> str:
    print("work with", voice(), flush=True)
    return item_id

@flow.serve("/hello")
async def hello(ctx: WorkflowContext[None]) -> str:
    return voice()

{more}
"""


def _command(folder: Path, *arguments: str, more: str = "") -> "subprocess.CompletedProcess[str]":
    (folder / "job.py").write_text(PROGRAM.format(more=more))
    return subprocess.run(
        [sys.executable, "-m", "batchflow.cli", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _said(ended: "subprocess.CompletedProcess[str]") -> list[str]:
    lines = [*ended.stdout.splitlines(), *ended.stderr.splitlines()]
    return [line for line in lines if line.endswith(" voice")]


def test_the_command_opens_resources_where_it_works(tmp_path: Path) -> None:
    """For a batch, a dry run and a run that is waited for; a trigger alone opens none."""
    assert _said(_command(tmp_path, "run", "job:flow")) == ["open voice", "work with voice", "close voice"]
    opened = ["open voice", "close voice"]
    assert _said(_command(tmp_path, "run", "job:flow", "--dry-run")) == opened
    assert _said(_command(tmp_path, "runs", "trigger", "job:flow", "/hello", "--wait")) == opened
    assert _said(_command(tmp_path, "runs", "trigger", "job:flow", "/hello")) == []


def test_a_worker_whose_resource_does_not_open_ends_with_a_sentence(tmp_path: Path) -> None:
    """And exit code 1: whoever keeps it running starts it again."""
    broken = "@flow.resource\ndef database():\n    raise OSError('refused')\n    yield"
    ended = _command(tmp_path, "worker", "job:flow", more=broken)
    assert ended.returncode == 1
    assert _said(ended) == ["open voice", "close voice"]
    assert "error: the resource 'database' cannot be opened: OSError: refused" in ended.stderr
    assert "Traceback" not in ended.stderr
