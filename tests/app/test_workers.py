"""The workers of an app, as the app and others see them."""

import asyncio
import os
import re
import socket
from pathlib import Path

import pytest

from batchflow import Batchflow, WorkflowContext
from batchflow.errors import StoreIncompatible
from batchflow.stores.sqlite import SqliteStore
from batchflow.testing import ManualClock
from tests.waiting import DEADLINE_S


async def test_a_worker_is_named_after_its_machine_and_process(tmp_path: Path) -> None:
    """It is there from the start to the stop; one that only publishes is not a worker."""
    url = f"sqlite:///{tmp_path}/batchflow.db"
    working, asking = Batchflow(url, concurrency=7), Batchflow(url, worker=False)
    async with asking:
        assert list(await asking.workers()) == []
        async with working:
            (worker,) = await asking.workers()
            assert re.fullmatch(rf"{re.escape(socket.gethostname())}-{os.getpid()}-[0-9a-f]{{6}}", worker.name)
            assert (worker.concurrency, worker.lost, worker.held) == (7, False, 0)
            assert worker.since == worker.seen_at < worker.lease_until
            assert list(await working.workers()) == [worker]
        assert list(await asking.workers()) == []


async def test_a_worker_is_named_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting replaces the machine's name: no two workers have one name."""
    monkeypatch.setenv("BATCHFLOW_WORKER_NAME", "mail")
    flow = Batchflow("sqlite://")
    names: list[str] = []
    for _ in range(2):
        async with flow:
            names += [worker.name for worker in await flow.workers()]
    assert len(set(names)) == 2
    assert all(re.fullmatch(rf"mail-{os.getpid()}-[0-9a-f]{{6}}", name) for name in names)


async def test_a_worker_shows_what_it_has_under_way() -> None:
    """By the route it is for."""
    flow = Batchflow("sqlite://")
    begun, go = asyncio.Event(), asyncio.Event()

    @flow.serve("/slow")
    async def slow(ctx: WorkflowContext[None]) -> None:
        begun.set()
        await ctx.run("wait", go.wait)

    async with flow:
        run = await slow.trigger(None)
        await begun.wait()
        assert [dict(worker.holds) for worker in await flow.workers()] == [{"/slow": 1}]
        go.set()
        await run.wait(timeout=DEADLINE_S)
        assert [worker.held for worker in await flow.workers()] == [0]


class Refused(SqliteStore):
    """A place that is another program's."""

    closed = 0

    async def open(self) -> None:
        raise StoreIncompatible("another program's")

    async def close(self) -> None:
        self.closed += 1


async def test_a_store_that_is_refused_is_closed() -> None:
    """It may have connected before it was."""
    store = Refused(":memory:", clock=ManualClock())
    with pytest.raises(StoreIncompatible, match="another program's"):
        await Batchflow(store).start()
    assert store.closed == 1
