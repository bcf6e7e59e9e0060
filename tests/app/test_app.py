"""`Batchflow`: what is put together, and the errors of putting it together wrongly."""

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from batchflow import Batchflow, BatchWorkflow, FlowControl, NoParams, Page, WorkflowContext
from batchflow.errors import (
    ConfigurationError,
    DuplicateNameError,
    InputError,
    RunFailed,
    StoreIncompatible,
    StoreUnavailable,
)


class Greet(BatchWorkflow[NoParams, str, str]):
    """Three ids."""

    entry_flow = paginate_flow = execute_flow = None

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page(["a", "b", "c"])

    async def execute(self, item_id: str) -> str:
        return f"hello {item_id}"


async def test_app_runs_a_batch_and_a_durable_function(tmp_path: Path) -> None:
    flow = Batchflow(f"sqlite:///{tmp_path / 'a.db'}")
    greet = flow.add(Greet())

    @flow.serve("/double")
    async def double(ctx: WorkflowContext[int]) -> int:
        def twice(number: int) -> int:
            return number * 2

        return await ctx.run("twice", twice, ctx.payload)

    async with flow:
        batch = await greet.trigger()
        summary = await batch.wait(timeout=30)
        assert (summary.state, summary.counts.succeeded) == ("completed", 3)
        assert [result async for _, result in batch.results()] == ["hello a", "hello b", "hello c"]
        run = await double.trigger(21)
        assert await run.wait(timeout=30) == 42
        status = await run.status()
        assert [(step.name, step.value) for step in status.journal] == [("twice", "42")]


async def test_two_apps_in_one_process_know_nothing_of_each_other() -> None:
    one, two = Batchflow("sqlite://"), Batchflow("sqlite://")
    first, second = one.add(Greet()), two.add(Greet())
    async with one, two:
        summary = await (await first.trigger()).wait(timeout=30)
        assert summary.counts.succeeded == 3
        assert (await second.dry_run()).to_process == 3
        assert (await first.dry_run()).to_process == 0


async def test_app_can_be_started_again(tmp_path: Path) -> None:
    flow = Batchflow(f"sqlite:///{tmp_path / 'a.db'}")
    greet = flow.add(Greet())
    async with flow:
        await (await greet.trigger()).wait(timeout=30)
    async with flow:
        assert (await greet.dry_run()).already_processed == 3


async def test_without_worker_nothing_is_run_here(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    web, worker = Batchflow(url, worker=False), Batchflow(url)
    here, _ = web.add(Greet()), worker.add(Greet())
    async with web:
        batch = await here.trigger()
        assert (await batch.status()).state == "pending"
        async with worker:
            assert (await batch.wait(timeout=30)).counts.succeeded == 3


async def test_only_its_own_destinations_are_claimed(tmp_path: Path) -> None:
    """A program that shares the file with another leaves the other's messages alone."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    other, mine = Batchflow(url), Batchflow(url, worker=False)
    greet = mine.add(Greet())

    @other.batch(ids=["x"], flow=None)
    async def something(item_id: str) -> str:
        return item_id

    async with mine, other:
        batch = await greet.trigger()
        assert (await (await something.trigger()).wait(timeout=30)).counts.succeeded == 1
        assert (await batch.status()).state == "pending"


def test_two_workflows_of_one_name_are_refused() -> None:
    flow = Batchflow("sqlite://")
    flow.add(Greet())
    with pytest.raises(DuplicateNameError, match="two workflows are named 'greet'; give one of them another `name`"):
        flow.add(Greet())


def test_two_functions_at_one_route_are_refused() -> None:
    flow = Batchflow("sqlite://")

    async def function(ctx: WorkflowContext[int]) -> int:
        return ctx.payload

    flow.serve("/a")(function)
    with pytest.raises(DuplicateNameError, match="the route '/a' is served twice"):
        flow.serve("/a")(function)


@pytest.mark.parametrize("url", ["postgres://x", "batchflow.db", "sqlite:/x.db", ""])
def test_url_that_names_no_store_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="names no store; write sqlite:///PATH"):
        Batchflow(url)


async def test_trigger_before_the_start_says_what_to_do() -> None:
    greet = Batchflow("sqlite://").add(Greet())
    with pytest.raises(
        StoreUnavailable,
        match=r"is not open; use it while the app runs: .*FastAPI\(lifespan=flow.lifespan\), the outermost app",
    ):
        await greet.trigger()


async def test_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (id)")
    with pytest.raises(StoreIncompatible, match="is the database of another program; give batchflow a file of its own"):
        await Batchflow(f"sqlite:///{path}").start()


async def test_run_that_fails_for_good_says_why() -> None:
    flow = Batchflow("sqlite://")

    @flow.serve("/fail")
    async def fail(ctx: WorkflowContext[int]) -> int:
        return await ctx.run("divide", lambda: 1 // ctx.payload)

    async with flow:
        run = await fail.trigger(0)
        await run.cancel()
        with pytest.raises(RunFailed, match="was cancelled"):
            await run.wait(timeout=30)


async def test_pinned_limits_win_over_the_code_until_unpinned(tmp_path: Path) -> None:
    flow = Batchflow(f"sqlite:///{tmp_path / 'a.db'}")
    greet = flow.add(Greet())
    async with flow:
        await flow.engine.store.pin(FlowControl(parallelism=1, key="greet.execute"))
        await flow.engine.store.pause("greet.execute")
        batch = await greet.trigger()
        with pytest.raises(TimeoutError):
            await batch.wait(timeout=0.3)
        assert (await batch.status()).counts.open == 3
        await flow.engine.store.resume("greet.execute")
        (status,) = await flow.engine.store.flows(["greet.execute"])
        assert (status.limits.parallelism, status.pinned) == (1, True)
        await flow.engine.store.unpin("greet.execute")
        assert (await batch.wait(timeout=30)).counts.succeeded == 3


async def test_ids_that_are_refused_start_nothing() -> None:
    flow = Batchflow("sqlite://")
    greet = flow.add(Greet())
    async with flow:
        for ids in ([], ["a", "a"], [""]):
            with pytest.raises(InputError):
                await greet.trigger(ids=ids)
        assert await greet.batches() == []


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in list(os.environ):
        if name.startswith("BATCHFLOW_") or name == "APP_URL":
            monkeypatch.delenv(name)
    return monkeypatch


def test_settings_come_from_the_environment(clean_environment: pytest.MonkeyPatch) -> None:
    clean_environment.setenv("BATCHFLOW_URL", "sqlite://")
    clean_environment.setenv("BATCHFLOW_CONCURRENCY", "7")
    clean_environment.setenv("APP_URL", "https://example.org")
    settings = Batchflow().settings
    assert (settings.url, settings.concurrency, settings.app_url) == ("sqlite://", 7, "https://example.org")


def test_setting_that_does_not_fit_is_named(clean_environment: pytest.MonkeyPatch) -> None:
    clean_environment.setenv("BATCHFLOW_CONCURRENCY", "many")
    with pytest.raises(
        ConfigurationError, match=r"the setting 'concurrency' \(BATCHFLOW_CONCURRENCY\) cannot be 'many'"
    ):
        Batchflow("sqlite://")


def test_package_is_imported_without_servers_or_command() -> None:
    """A program that only publishes pays for nothing else."""
    program = "import batchflow, sys;print([m for m in ('redis', 'fastapi', 'typer', 'uvicorn') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_app_is_used_from_one_event_loop_after_another() -> None:
    flow = Batchflow("sqlite://")
    greet = flow.add(Greet())

    async def once() -> int:
        async with flow:
            return (await (await greet.trigger()).wait(timeout=30)).counts.succeeded

    assert [asyncio.run(once()), asyncio.run(once())] == [3, 3]


async def test_starts_at_the_same_time_open_the_store_once() -> None:
    """A second store would stay open for ever, with its thread."""
    before = set(threading.enumerate())
    flow = Batchflow("sqlite://")
    await asyncio.gather(flow.start(), flow.start(), flow.start())
    await flow.stop()
    assert [it.name for it in threading.enumerate() if it not in before] == []
