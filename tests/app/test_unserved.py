"""Work that no worker serves: a warning of workers, and the reason in the error of a wait."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog

from batchflow import Batchflow, RetryPolicy, WorkflowContext
from batchflow.core import settlement
from batchflow.core.flow import FlowControl
from batchflow.errors import StoreUnavailable
from batchflow.serve.runs import RunHandle
from batchflow.stores.sqlite import SqliteStore
from batchflow.testing import ManualClock
from tests.waiting import wait_until


def old_app(path: Path, **options: Any) -> tuple[Batchflow, Any, Any]:
    """An app whose functions a later version does not have."""
    flow = Batchflow(f"sqlite:///{path}", **options)

    @flow.serve("/gone", retries=0)
    async def gone(ctx: WorkflowContext[str]) -> str:
        return ctx.payload

    @flow.batch(ids=["a", "b"], flow=FlowControl(key="slow"), retry=RetryPolicy.none())
    async def greet(id: str) -> str:
        return id

    return flow, gone, greet


async def test_a_worker_warns_of_work_that_nobody_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Soon after its start: how much there is, and for which destinations."""
    monkeypatch.setattr("batchflow.engine.worker.TICK_S", 0.001)
    flow, gone, greet = old_app(tmp_path / "a.db", worker=False)
    async with flow:
        await gone.trigger("x")
        await greet.trigger()
    with structlog.testing.capture_logs() as logs:
        async with Batchflow(f"sqlite:///{tmp_path / 'a.db'}"):
            await wait_until(lambda: any("no worker serves" in entry["event"] for entry in logs), description="warned")
    (entry, *_) = (entry for entry in logs if "no worker serves" in entry["event"])
    assert entry["log_level"] == "warning"
    assert entry["event"].startswith("[batchflow] 2 messages wait for /gone and /greet/")
    assert "/gone" in entry["destinations"]


async def test_a_worker_tells_what_it_serves_also_what_is_added_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function that is added to a running app is served, and the worker says so."""
    monkeypatch.setattr("batchflow.engine.worker.TICK_S", 0.001)
    flow = Batchflow(f"sqlite:///{tmp_path / 'a.db'}")
    async with flow:
        (worker,) = await flow.engine.store.workers()
        assert "/later" not in worker.serves

        @flow.serve("/later")
        async def later(ctx: WorkflowContext[str]) -> str:
            return ctx.payload

        async def is_served() -> bool:
            (worker,) = await flow.engine.store.workers()
            return "/later" in worker.serves

        for _ in range(1_000):
            if await is_served():
                break
        assert await is_served()
        assert later


async def test_a_wait_in_vain_tells_that_nobody_serves_it(tmp_path: Path) -> None:
    """Of a run and of a batch."""
    flow, gone, greet = old_app(tmp_path / "a.db", worker=False)
    async with flow:
        with pytest.raises(TimeoutError, match=r"within 0\.01 s; it waits: nobody serves '/gone'"):
            await (await gone.trigger("x")).wait(0.01)
        batch = await greet.trigger()
        with pytest.raises(TimeoutError, match="; nobody serves '/greet/"):
            await batch.wait(0.01)
        await flow.engine.store.pause_batch(batch.id)
        with pytest.raises(TimeoutError, match="paused the batch"):
            await batch.wait(0.01)


async def test_a_wait_in_vain_tells_of_a_paused_or_parked_key() -> None:
    """With the key's name, as for a batch; and of a start that has not come, with the time."""
    clock = ManualClock()
    flow = Batchflow("sqlite://", clock=clock, worker=False)

    @flow.serve("/mail", flow_control=FlowControl(key="mail"))
    async def mail(ctx: WorkflowContext[str]) -> str:
        return ctx.payload

    async with flow:
        store = flow.engine.store
        await store.register("w1", 600_000, 1, ("/mail",))
        run = await mail.trigger("x")
        await store.pause("mail")
        with pytest.raises(TimeoutError, match="it waits: an operator has paused the flow key 'mail'"):
            await run.wait(0)
        await store.resume("mail")
        (claim,) = (await store.claim("w1", ["/mail"], 1)).claims
        await store.settle(settlement.parked(claim, clock.now() + 5_000, "RateLimited: slow down"))
        with pytest.raises(TimeoutError, match="the flow key 'mail' is parked for 5s"):
            await run.wait(0)
        later = await mail.trigger("x", not_before=datetime(2999, 12, 31, tzinfo=UTC))
        clock.advance(5)
        with pytest.raises(TimeoutError, match="it waits until 2999-12-31 00:00:00 UTC"):
            await later.wait(0)


class Away(SqliteStore):
    """A store that can be taken away."""

    away = False

    async def run(self, id: str) -> Any:
        if self.away:
            raise StoreUnavailable("the disk is full")
        return await super().run(id)


async def test_a_wait_in_vain_tells_that_the_store_is_away() -> None:
    """With its own words."""
    store = Away(":memory:", clock=ManualClock())
    flow = Batchflow(store, worker=False)

    @flow.serve("/gone")
    async def gone(ctx: WorkflowContext[str]) -> str:
        return ctx.payload

    async with flow:
        run = await gone.trigger("x")
        store.away = True
        with pytest.raises(TimeoutError, match="its store is away: the disk is full"):
            await run.wait(0.01)


async def until_failed(run: RunHandle[str]) -> None:
    while not (await run.status()).failures:
        pass


async def test_a_wait_in_vain_tells_the_failure_of_the_last_attempt() -> None:
    """It is tried again later."""
    flow = Batchflow("sqlite://")

    @flow.serve("/fails", retry=RetryPolicy(retries=1, first="1h"))
    async def fails(ctx: WorkflowContext[str]) -> str:
        raise OSError("no line")

    async with flow:
        run = await fails.trigger("x")
        await until_failed(run)
        with pytest.raises(TimeoutError, match=r"it waits until .* UTC for its next attempt after OSError: no line"):
            await run.wait(0.01)
