"""A failure budget over real workers: two share a batch, and one is killed after the budget has paused it."""

from pathlib import Path

from tests.scenarios.budget_program import COUNT, MAX_FAILURES, PARALLELISM, make
from tests.scenarios.places import Place
from tests.waiting import wait_until


async def test_batch_that_its_budget_has_paused_stays_so_when_a_worker_is_killed(place: Place, tmp_path: Path) -> None:
    """At most `parallelism` items start after the failure that is one too many; resumed, the rest is done, once."""
    flow, check, probe = make(place.url, tmp_path)
    calls = tmp_path / "calls"

    def said() -> int:
        return place.output.read_bytes().count(b"over the failure budget")

    async def paused() -> bool:
        return (await batch.status()).stop_reason == "failure_budget"

    (tmp_path / "down").touch()
    await flow.start(worker=False)
    with place.started(2, "budget_program", tmp_path) as workers:
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
