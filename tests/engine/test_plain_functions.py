"""Plain functions that hang: they are given up, and neither the worker nor its end waits for them."""

import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from batchflow import Batchflow, RetryPolicy, WorkflowContext
from batchflow.errors import RunFailed
from batchflow.serve.functions import ServedFunction
from tests.waiting import wait_until


class Hanging:
    """An app with two threads: steps of `/hang` hang until `go`, those of `/work` do not."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.begun = 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("BATCHFLOW_THREADS", "2")
            self.flow = Batchflow("sqlite://", grace=timedelta(0))
        self.hang = self._served("/hang", self.wait, retries=0)
        self.work = self._served("/work", lambda: "done", retries=0)

    def wait(self) -> str:
        self.begun += 1
        self.go.wait(60)
        return "came back"

    def _served(self, route: str, fn: Any, **options: Any) -> ServedFunction[None, str]:
        @self.flow.serve(route, **options)
        async def served(ctx: WorkflowContext[None]) -> str:
            return await ctx.step(timeout="50ms", retry=RetryPolicy.none()).run("step", fn)

        return served


@pytest.fixture
async def app() -> AsyncIterator[Hanging]:
    made = Hanging()
    yield made
    made.go.set()
    await made.flow.stop()


async def test_other_plain_functions_run_when_all_threads_hang(app: Hanging) -> None:
    """Each thread that hangs is told of with function, run and step, counted, and replaced."""
    await app.flow.start()
    with capture_logs() as logs:
        runs = [await app.hang.trigger(None) for _ in range(3)]
        for run in runs:
            with pytest.raises(RunFailed, match="took longer than 50ms$"):
                await run.wait(30)
        assert await (await app.work.trigger(None)).wait(30) == "done"
    told = [line for line in logs if line["log_level"] == "warning"]
    assert [(it["event"], it["function"], it["step"], it["hanging"]) for it in told] == [
        (
            "[batchflow] A plain function hangs; its thread is replaced",
            "Hanging.wait",
            "step",
            number,
        )
        for number in (1, 2, 3)
    ]
    assert {it["run"] for it in told} == {run.id for run in runs}
    assert app.flow.engine.hanging_threads == 3
    app.go.set()
    await wait_until(lambda: app.flow.engine.hanging_threads == 0, description="they have come back")


async def test_workers_tell_how_many_threads_hang(app: Hanging, monkeypatch: pytest.MonkeyPatch) -> None:
    """To whoever looks at the store, with the next heartbeat."""
    monkeypatch.setattr("batchflow.engine.worker.BEATS_PER_LEASE", 1_000)
    await app.flow.start()
    for run in [await app.hang.trigger(None) for _ in range(2)]:
        with pytest.raises(RunFailed, match="took longer than 50ms$"):
            await run.wait(30)

    async def told(count: int) -> bool:
        return [it.hanging for it in await app.flow.workers()] == [count]

    await wait_until(lambda: told(2), description="the heartbeat tells of two")
    app.go.set()
    await wait_until(lambda: told(0), description="the heartbeat tells that they have come back")


async def test_what_waits_for_a_thread_is_not_blamed(app: Hanging) -> None:
    """Its time begins when it has one."""
    await app.flow.start()

    @app.flow.serve("/hold", retries=0)
    async def hold(ctx: WorkflowContext[None]) -> str:
        return await ctx.run("hold", app.wait)

    holding = [await hold.trigger(None) for _ in range(2)]
    await wait_until(lambda: app.begun == 2, description="both threads are taken")
    waiting = await app.work.trigger(None)
    with pytest.raises(TimeoutError):
        await waiting.wait(0.3)
    app.go.set()
    assert await waiting.wait(30) == "done"
    assert [await run.wait(30) for run in holding] == ["came back"] * 2


PROGRAM = """
import asyncio, threading
from batchflow import Batchflow, WorkflowContext

begun = threading.Event()
flow = Batchflow("sqlite://", grace=0)

def hang() -> None:
    begun.set()
    threading.Event().wait()

@flow.serve("/hang")
async def hanging(ctx: WorkflowContext[None]) -> None:
    await ctx.run("hang", hang)

async def main() -> None:
    async with flow:
        await hanging.trigger(None)
        while not begun.is_set():
            await asyncio.sleep(0.01)
    print("stopped")

asyncio.run(main())
"""


def test_a_program_ends_though_plain_functions_hang() -> None:
    """The log names them."""
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, timeout=60, check=True, text=True)
    assert ended.stdout == "stopped\n"
    assert "Stopped while plain functions still run; they end with the process at the latest" in ended.stderr
    assert "functions=['hang']" in ended.stderr
