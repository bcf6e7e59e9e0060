"""A process that is killed between a death and its failure function: the call is not lost."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest

from batchflow import Batchflow, WorkflowContext
from batchflow.core.dead_letters import FailureCall
from tests.engine.http_server import serving
from tests.stores.redis_server import Server, served
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture(params=["sqlite", "redis"])
def store(request: Any, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:////{tmp_path}/failing.db"
        return
    server: Server = request.getfixturevalue("server")
    yield server.url
    server.client().flushdb()


async def run(store: str, log: Path, url: str, mode: str, what: str) -> int:
    """Run the program to its end, and return how it ended."""
    command = [sys.executable, "-m", "tests.scenarios.failing_program", store, str(log), url, mode, what]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    async with asyncio.timeout(60):
        return await process.wait()


async def letters(store: str) -> AsyncGenerator[tuple[str, FailureCall | None]]:
    """The dead letters of a store with their calls."""
    flow = Batchflow(store, worker=False)
    async with flow:
        for letter in await flow.engine.store.dead_letters():
            yield letter.id, letter.failure


@pytest.mark.parametrize("what", ["function", "items"])
@pytest.mark.parametrize("mode", ["before", "during"])
async def test_a_failure_function_is_called_after_a_kill(store: str, tmp_path: Path, mode: str, what: str) -> None:
    """Killed as soon as the death is stored, or in the call: another process calls it, once."""
    log = tmp_path / "log"
    assert await run(store, log, "http://127.0.0.1:1/", mode, what) == -signal.SIGKILL
    assert not log.exists()
    ((id, call),) = [it async for it in letters(store)]
    assert call is not None
    assert call.state == "in_progress"
    assert await run(store, log, "http://127.0.0.1:1/", "rest", what) == 0
    assert log.read_text().splitlines() == [f"{id} closed"]
    ((_, call),) = [it async for it in letters(store)]
    assert call is not None
    assert (call.state, json.loads(call.result or "")) == ("succeeded", "a" if what == "items" else "p")


async def test_a_notification_is_sent_after_a_kill(store: str, tmp_path: Path) -> None:
    """Killed as soon as the end of the batch is stored: the worker of another app on the store sends it."""
    async with serving() as hooks:
        assert await run(store, tmp_path / "log", f"{hooks.url}/ended", "before", "end") == -signal.SIGKILL
        assert hooks.asked == []
        other = Batchflow(store)

        @other.serve("/other")
        async def _(ctx: WorkflowContext[None]) -> None: ...

        async with other:
            await wait_until(lambda: bool(hooks.asked), description="the URL to be called", timeout=50)
        (asked,) = hooks.asked
    fields = json.loads(asked.body)
    assert (asked.path, fields["workflow"], fields["counts"]["failed"]) == ("/ended", "failing", 1)


async def test_a_failure_url_is_reached_though_its_app_is_gone(store: str, tmp_path: Path) -> None:
    """The worker of another app on the store sends it, which knows nothing of the function."""
    async with serving() as hooks:
        assert await run(store, tmp_path / "log", f"{hooks.url}/failed", "before", "url") == -signal.SIGKILL
        other = Batchflow(store)

        @other.serve("/other")
        async def _(ctx: WorkflowContext[None]) -> None: ...

        async with other:
            await wait_until(lambda: bool(hooks.asked), description="the failure URL to be called", timeout=50)
        (asked,) = hooks.asked
    fields = json.loads(asked.body)
    assert (asked.path, fields["status"], fields["url"], fields["maxRetries"]) == ("/failed", 489, "/url", 3)
