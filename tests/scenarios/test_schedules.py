"""Schedules on real processes: several see the same times, one is killed in the midst of them, and each fires once."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from batchflow import Batchflow
from batchflow.core.schedule import Cron, NewSchedule
from tests.scenarios.schedule_program import make
from tests.stores.redis_server import served
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
COUNT = 60
YEARLY = Cron("0 0 1 1 *")


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A store that several processes use."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'a.db'}"
        return
    with served(tmp_path) as server:
        yield server.url


@pytest.fixture
async def flow(url: str, tmp_path: Path) -> AsyncIterator[Batchflow]:
    """The app of the test, which does not work."""
    made = make(url, str(tmp_path / "own"))
    await made.start(worker=False)
    yield made
    await made.stop()


@contextmanager
def workers(url: str, folder: Path, count: int) -> "Generator[list[subprocess.Popen[bytes]]]":
    """Processes that work until the end of the test."""
    command = [sys.executable, "-m", "tests.scenarios.schedule_program", url, str(folder / "log")]
    with (folder / "output").open("ab") as output:
        started = [subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output) for _ in range(count)]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


async def put(flow: Batchflow, id: str) -> None:
    """A schedule that was due an hour ago, and is due again next year."""
    schedule = NewSchedule(id=id, target="tick", destination="/tick", cron=YEARLY)
    await flow.engine.store.put_schedule(schedule, flow.engine.now() - 3_600_000)


async def fires(flow: Batchflow) -> list[int]:
    """The number of fires of each schedule."""
    return [it.fires for it in await flow.schedules.list(limit=1_000)]


async def test_each_fire_happens_once_whoever_is_killed(flow: Batchflow, url: str, tmp_path: Path) -> None:
    """Three workers look at 60 schedules that are due at once; one of the three dies in between."""
    with workers(url, tmp_path, 3) as started:
        await wait_until(lambda: _living(flow, 3), description="all workers have registered")
        await asyncio.gather(*(put(flow, f"s{number:03d}") for number in range(COUNT)))
        await wait_until(lambda: _fired(flow, COUNT // 3), description="a third of them has fired")
        started[0].kill()
        await wait_until(lambda: _fired(flow, COUNT), description="all have fired")
    assert await fires(flow) == [1] * COUNT
    runs = (await flow.runs(limit=200)).runs
    assert len({run.label for run in runs}) == len(runs) == COUNT


async def test_fire_that_was_missed_while_nobody_worked_happens_once(flow: Batchflow, url: str, tmp_path: Path) -> None:
    """The worker that starts later makes up for it, and sees one that another process makes."""
    await put(flow, "missed")
    with workers(url, tmp_path, 2):
        await wait_until(lambda: _ended(flow, 1), description="the missed fire has happened")
        await put(flow, "made-later")
        await wait_until(lambda: _ended(flow, 2), description="the next one has happened")
    assert await fires(flow) == [1, 1]
    assert len((await flow.runs()).runs) == 2


async def _living(flow: Batchflow, count: int) -> bool:
    return len(await flow.workers()) == count


async def _fired(flow: Batchflow, count: int) -> bool:
    return sum(await fires(flow)) >= count


async def _ended(flow: Batchflow, count: int) -> bool:
    return len((await flow.runs(state="completed", limit=200)).runs) >= count
