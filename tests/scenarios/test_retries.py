"""A retry that is cut off with -9 where it begins and where it works: the next call goes on with it."""

import asyncio
import signal
from collections import Counter
from pathlib import Path

from batchflow import Batchflow
from tests.scenarios.places import Place
from tests.scenarios.retrying_program import BATCH, ITEMS, KILLED_AFTER, PARALLELISM, Invites
from tests.waiting import wait_until


async def run(place: Place, log: Path, mode: str) -> int:
    """Run the program to its end, and return how it ended."""
    with place.started(1, "retrying_program", log, mode) as (process,):
        await wait_until(lambda: process.poll() is not None, description="the program has ended", timeout=100)
    return process.returncode


async def test_a_retry_that_was_killed_goes_on_with_the_next_call(place: Place, tmp_path: Path) -> None:
    """It is one linked batch, whoever asks for it and how often, and no item that has ended runs again."""
    log = tmp_path / "log"
    assert await run(place, log, "fail") == 0
    assert await run(place, log, "cut") == -signal.SIGKILL
    assert not log.exists()
    assert await run(place, log, "work") == -signal.SIGKILL
    assert await asyncio.gather(*(run(place, log, "rest") for _ in range(2))) == [0, 0]
    counts = Counter(log.read_text().split())
    assert set(counts) == set(ITEMS)
    # Those that were in flight at the kill.
    assert sum(counts.values()) <= len(ITEMS) + PARALLELISM
    assert len(log.read_text().split()) > KILLED_AFTER
    flow = Batchflow(place.url)
    batch = flow.add(Invites(log, "rest")).batch(BATCH)
    await flow.start(worker=False)
    summary = await batch.wait(check=True)
    await flow.stop()
    assert (summary.counts.failed, summary.recovered, len(summary.retries)) == (len(ITEMS), len(ITEMS), 1)
