"""A circuit breaker over real workers: two share it, and one is killed while it holds the one trial."""

import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from batchflow.core.breaker import CLOSED
from tests.scenarios.breaker_program import COUNT, make
from tests.stores.redis_server import served
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
KEY = "check.execute"


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A store that several processes use."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'a.db'}"
        return
    with served(tmp_path) as server:
        yield server.url


@contextmanager
def workers(url: str, folder: Path) -> Generator[None]:
    """Two processes that work until the end of the test."""
    command = [sys.executable, "-m", "tests.scenarios.breaker_program", url, str(folder)]
    with (folder / "output").open("ab") as output:
        started = [subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output) for _ in range(2)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


async def test_trial_that_dies_with_its_worker_is_made_again_by_another(url: str, tmp_path: Path) -> None:
    """Nothing else starts meanwhile; the breaker opens once and closes once, whoever does it, and no item fails."""
    (tmp_path / "down").touch()
    flow, check = make(url, tmp_path)
    calls, output = tmp_path / "calls", tmp_path / "output"

    def said(change: str) -> int:
        return output.read_bytes().count(b"Circuit breaker " + change.encode())

    async def opened() -> bool:
        return any(it.breaker.open_for for it in await flow.engine.store.flows([KEY]))

    async def tries() -> bool:
        status = await flow.limits.get(KEY)
        return status.breaker.trial is not None and status.in_use == 1

    await flow.start(worker=False)
    with workers(url, tmp_path):
        batch = await check.trigger()
        await wait_until(opened, description="the breaker is open", timeout=30)
        (tmp_path / "hangs").touch()
        await wait_until(tries, description="one item is tried, and hangs", timeout=30)
        (holder,) = await flow.engine.store.flow_holders(KEY)
        await wait_until(lambda: f"-{_last_pid(calls)}-" in holder.worker, description="the trial has begun")
        # The one worker that says so may be the one that is killed.
        await wait_until(lambda: said("open") > 0, description="a worker has said that the breaker is open")
        begun = len(calls.read_text().splitlines())
        os.kill(_last_pid(calls), signal.SIGKILL)
        (tmp_path / "down").unlink()
        await wait_until(lambda: len(calls.read_text().splitlines()) > begun, description="another trial", timeout=30)
        assert len(calls.read_text().splitlines()) == begun + 1
        (tmp_path / "hangs").unlink()
        summary = await batch.wait(timeout=60)
        status = await flow.limits.get(KEY)
        await wait_until(lambda: said("closed") > 0, description="a worker has said that the breaker is closed")
    await flow.stop()
    assert (summary.counts.succeeded, summary.counts.failed) == (COUNT, 0)
    assert status.breaker == CLOSED
    assert said("open") == said("closed") == 1


def _last_pid(calls: Path) -> int:
    return int(calls.read_text().splitlines()[-1].split()[0])
