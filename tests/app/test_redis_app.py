"""The same program on Redis: `redis://` and nothing else changes."""

from collections.abc import Generator
from pathlib import Path

import pytest

from batchflow import Batchflow, BatchWorkflow, NoParams, Page, RetryPolicy, WorkflowContext
from batchflow.engine.clock import SystemClock
from batchflow.errors import StoreError
from batchflow.stores.redis import RedisStore
from tests.stores.redis_server import Server, free_port, served


class Greet(BatchWorkflow[NoParams, str, str]):
    """Seventy ids on two pages."""

    entry_flow = paginate_flow = execute_flow = None

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        start = int(cursor or 0)
        end = min(start + limit, 70)
        return Page([f"user-{number}" for number in range(start, end)], str(end) if end < 70 else None)

    async def execute(self, item_id: str) -> str:
        return f"hello {item_id}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    with served(tmp_path_factory.mktemp("redis")) as started:
        yield started


async def _double(ctx: WorkflowContext[int]) -> int:
    await ctx.sleep("nap", "20ms")
    told = await ctx.wait_for_event("go", f"go:{ctx.payload}", data=int)
    return await ctx.run("double", lambda: ctx.payload * told.data)


async def test_one_process_publishes_and_another_works(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both named by BATCHFLOW_URL; what one publishes wakes the other, and its end is seen by the first."""
    monkeypatch.setenv("BATCHFLOW_URL", server.url)
    web, worker = Batchflow(worker=False), Batchflow()
    greet, _ = web.add(Greet()), worker.add(Greet())
    double, _ = web.serve("/double")(_double), worker.serve("/double")(_double)
    async with worker, web:
        batch = await greet.trigger()
        run = await double.trigger(21)
        summary = await batch.wait(timeout=30, check=True)
        assert await web.notify("go:21", 2, run.id) == [run.id]
        assert await run.wait(timeout=30) == 42
        assert summary.counts.succeeded == 70
        assert (await greet.dry_run()).to_process == 0


async def test_namespaces_keep_programs_apart(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Batchflow(server.url, worker=False)
    monkeypatch.setenv("BATCHFLOW_NAMESPACE", "other")
    other = Batchflow(server.url, worker=False)
    served_ = one.serve("/double")(_double)
    async with one, other:
        run = await served_.trigger(1, run_id="here")
        assert (await run.status()).state == "waiting"
        assert (await other.runs()).runs == []


async def test_a_server_that_is_not_there_is_one_sentence() -> None:
    flow = Batchflow(f"redis://127.0.0.1:{free_port()}", worker=False)
    with pytest.raises(StoreError) as raised:
        await flow.start()
    assert "\n" not in str(raised.value)
    assert "127.0.0.1" in str(raised.value)
    await flow.stop()


def test_the_command_reads_from_redis(server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from batchflow.cli.app import invoke

    assert invoke(["runs", "list", "--url", server.url, "--json"]) == 0
    assert '"runs"' in capfd.readouterr().out


class Late:
    """The clock of a machine that is three seconds behind."""

    def now(self) -> int:
        return SystemClock().now() - 3_000


async def test_a_worker_whose_clock_is_behind_takes_up_what_is_due_once(server: Server) -> None:
    """It goes by the server's time: two attempts for one retry, and none that finds nothing due."""
    flow = Batchflow(RedisStore(server.url, namespace="late"), clock=Late())
    attempts: list[str] = []
    tries: list[str] = []

    async def flaky() -> str:
        tries.append("")
        if len(tries) == 1:
            raise ConnectionError("down")
        return "up"

    @flow.serve("/flaky", retry=RetryPolicy(retries=3, first="50ms"))
    async def served_late(ctx: WorkflowContext[str]) -> str:
        attempts.append(ctx.payload)
        return await ctx.run("flaky", flaky)

    async with flow:
        assert await (await served_late.trigger("x")).wait(timeout=30) == "up"
    assert (len(tries), attempts) == (2, ["x", "x"])
