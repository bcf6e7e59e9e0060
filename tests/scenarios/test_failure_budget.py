"""A failure budget over real workers: two share a batch, and one is killed after the budget has paused it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scenarios.budget_program import COUNT, MAX_FAILURES, PARALLELISM, make
from tests.stores.redis_server import served
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A store that several processes use."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'a.db'}"
        return
    with served(tmp_path) as server:
        yield server.url


@pytest.fixture
def workers(url: str, tmp_path: Path) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Two processes that work until the end of the test."""
    (tmp_path / "down").touch()
    command = [sys.executable, "-m", "tests.scenarios.budget_program", url, str(tmp_path)]
    with (tmp_path / "output").open("ab") as output:
        started = [subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output) for _ in range(2)]
    yield started
    for process in started:
        process.kill()
        process.wait()


async def test_batch_that_its_budget_has_paused_stays_so_when_a_worker_is_killed(
    url: str, tmp_path: Path, workers: list["subprocess.Popen[bytes]"]
) -> None:
    """At most `parallelism` items start after the failure that is one too many; resumed, the rest is done, once."""
    flow, check, probe = make(url, tmp_path)
    calls, output = tmp_path / "calls", tmp_path / "output"

    def said() -> int:
        return output.read_bytes().count(b"over the failure budget")

    async def paused() -> bool:
        return (await batch.status()).stop_reason == "failure_budget"

    await flow.start(worker=False)
    batch = await check.trigger()
    await wait_until(paused, description="the budget has paused the batch", timeout=60)
    # The one worker that says so may be the one that is killed.
    await wait_until(lambda: said() > 0, description="a worker has said so")
    workers[0].kill()
    workers[0].wait()
    assert (await (await probe.trigger()).wait(timeout=60)).succeeded
    begun = calls.read_text().splitlines()
    assert len(begun) <= MAX_FAILURES + 1 + PARALLELISM
    assert (await batch.status()).paused
    (tmp_path / "down").unlink()
    assert await batch.resume()
    counts = (await batch.wait(timeout=60)).counts
    await flow.stop()
    assert counts.failed <= len(begun)
    assert counts.succeeded + counts.failed == COUNT
    assert said() == 1
