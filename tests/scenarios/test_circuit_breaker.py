"""A circuit breaker over real workers: two share it, and one is killed while it holds the one trial."""

import os
import signal
from pathlib import Path

from batchflow.core.breaker import CLOSED
from tests.scenarios.breaker_program import COUNT, make
from tests.scenarios.places import Place
from tests.waiting import wait_until

KEY = "check.execute"


async def test_trial_that_dies_with_its_worker_is_made_again_by_another(place: Place, tmp_path: Path) -> None:
    """Nothing else starts meanwhile; the breaker opens once and closes once, whoever does it, and no item fails."""
    (tmp_path / "down").touch()
    flow, check = make(place.url, tmp_path)
    calls = tmp_path / "calls"

    def said(change: str) -> int:
        return place.output.read_bytes().count(b"Circuit breaker " + change.encode())

    async def opened() -> bool:
        return any(it.breaker.open_for for it in await flow.engine.store.flows([KEY]))

    async def tries() -> bool:
        status = await flow.limits.get(KEY)
        return status.breaker.trial is not None and status.in_use == 1

    await flow.start(worker=False)
    with place.started(2, "breaker_program", tmp_path):
        batch = await check.trigger()
        await wait_until(opened, description="the breaker is open", timeout=30)
        (tmp_path / "hangs").touch()
        await wait_until(tries, description="one item is tried, and hangs", timeout=30)

        async def holders() -> bool:
            # QStash counts an item before the app has claimed it.
            return len(await flow.engine.store.flow_holders(KEY)) == 1

        await wait_until(holders, description="the app has claimed it")
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
