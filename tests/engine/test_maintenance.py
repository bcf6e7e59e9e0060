"""The periodic maintenance of a worker."""

import pytest
from structlog.testing import capture_logs

from batchflow import Batchflow, FlowControl
from batchflow.core import settlement
from batchflow.core.message import Message
from batchflow.core.store import Reads
from batchflow.engine.dispatcher import Dispatcher
from batchflow.engine.notices import warn_of_expiring_dead_letters, warn_of_unserved_work
from batchflow.errors import StoreUnavailable
from batchflow.stores.sqlite import SqliteStore
from batchflow.testing import ManualClock
from tests.waiting import wait_until


async def test_the_report_of_progress_is_made_every_half_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the worker's beats, and again after one that could not be made."""
    beats: list[int] = []
    reports: list[int] = []

    def beat(_: Dispatcher) -> None:
        beats.append(1)

    async def report() -> None:
        reports.append(len(beats))
        if len(reports) == 1:
            raise StoreUnavailable("away")

    flow = Batchflow(SqliteStore(":memory:", clock=ManualClock()))
    flow.engine.report_progress = report
    monkeypatch.setattr("batchflow.engine.worker.TICK_S", 0)
    monkeypatch.setattr(Dispatcher, "cancel_overdue", beat)
    async with flow:
        await wait_until(lambda: len(reports) >= 3, description="three reports are made")
    assert reports[:3] == [30, 60, 90]


async def test_unserved_work_is_warned_of_by_one_worker() -> None:
    """By the first of the living ones; of fifty workers the log has one line."""
    clock = ManualClock()
    async with Batchflow(SqliteStore(":memory:", clock=clock), worker=False) as flow:
        store = flow.engine.store
        await store.publish([Message(id="a", destination="/gone", flow=FlowControl(key="k"))])
        await store.register("w2", 60_000, 1, ("/work",))
        await store.register("w1", 30_000, 1, ("/work",))
        assert await _warned(store, "w1", "w2") == [("w1", ["/gone"])]
        clock.advance("40s")
        assert await _warned(store, "w1", "w2") == [("w2", ["/gone"])]
        await store.register("w1", 30_000, 1, ("/gone",))
        assert await _warned(store, "w1", "w2") == []


async def test_dead_letters_are_warned_of_before_they_are_removed() -> None:
    """A day before the first, by one worker, with their number and the command that lists them."""
    clock = ManualClock()
    week = 7 * 24 * 3_600_000
    async with Batchflow(SqliteStore(":memory:", clock=clock), worker=False) as flow:
        store = flow.engine.store
        await store.publish([Message(id=id, destination="/work", flow=FlowControl(key="k")) for id in ("a", "b")])
        for worker in ("w1", "w2"):
            await store.register(worker, 10 * week)
        for claim in (await store.claim("w1", ["/work"], 2)).claims:
            await store.settle(settlement.dead(claim, "Boom: no"))
        clock.advance("143h")
        with capture_logs() as early:
            await warn_of_expiring_dead_letters(store, "w1", week, clock.now())
        clock.advance("2h")
        with capture_logs() as lines:
            for worker in ("w1", "w2"):
                await warn_of_expiring_dead_letters(store, worker, week, clock.now())
        assert early == []
        (line,) = lines
        assert (line["log_level"], line["dead_letters"]) == ("warning", 2)
        assert line["look"].startswith("batchflow dlq --until ")


async def _warned(store: Reads, *workers: str) -> list[tuple[str, list[str]]]:
    found: list[tuple[str, list[str]]] = []
    for worker in workers:
        with capture_logs() as lines:
            await warn_of_unserved_work(store, worker)
        found += [(worker, line["destinations"]) for line in lines]
    return found
