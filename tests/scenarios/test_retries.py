"""A retry that is cut off with -9 where it begins and where it works: the next call goes on with it."""

import asyncio
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batchflow import Batchflow
from tests.scenarios.retrying_program import BATCH, ITEMS, KILLED_AFTER, Invites
from tests.stores.redis_server import Server, served

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture(params=["sqlite", "redis"])
def store(request: Any, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:////{tmp_path}/retrying.db"
        return
    server: Server = request.getfixturevalue("server")
    yield server.url
    server.client().flushdb()


async def run(store: str, log: Path, mode: str) -> int:
    """Run the program to its end, and return how it ended."""
    command = [sys.executable, "-m", "tests.scenarios.retrying_program", store, str(log), mode]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    async with asyncio.timeout(100):
        return await process.wait()


async def test_a_retry_that_was_killed_goes_on_with_the_next_call(store: str, tmp_path: Path) -> None:
    """It is one linked batch, whoever asks for it and how often, and no item that has ended runs again."""
    log = tmp_path / "log"
    assert await run(store, log, "fail") == 0
    assert await run(store, log, "cut") == -signal.SIGKILL
    assert not log.exists()
    assert await run(store, log, "work") == -signal.SIGKILL
    assert await asyncio.gather(*(run(store, log, "rest") for _ in range(2))) == [0, 0]
    counts = Counter(log.read_text().split())
    assert set(counts) == set(ITEMS)
    # Those that were in flight at the kill.
    assert sum(counts.values()) <= len(ITEMS) + 8
    assert len(log.read_text().split()) > KILLED_AFTER
    flow = Batchflow(store, worker=False)
    batch = flow.add(Invites(log, "rest")).batch(BATCH)
    async with flow:
        summary = await batch.wait(check=True)
    assert (summary.counts.failed, summary.recovered, len(summary.retries)) == (len(ITEMS), len(ITEMS), 1)
