"""The periodic maintenance of a worker."""

import pytest

from batchflow import Batchflow
from batchflow.engine.dispatcher import Dispatcher
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
