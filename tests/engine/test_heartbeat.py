"""The heartbeat: it renews whatever the event loop does, and says when the lease was lost."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest

from batchflow.core.store import Renew
from batchflow.engine.worker import Heartbeat
from batchflow.stores.sqlite import SqliteStore
from batchflow.testing.clock import ManualClock
from batchflow.testing.faults import FaultyStore
from tests.conformance.scene import message
from tests.engine.handlers import FakeHandler, dispatcher
from tests.waiting import wait_until, wait_until_sync

LEASE_MS = 60  # a beat each 20 ms of real time


def heartbeat(store: FaultyStore, clock: ManualClock, lost: list[str]) -> Heartbeat:
    dispatching = dispatcher(store, FakeHandler(), clock)
    return Heartbeat(store, dispatching, "w1", lambda: lost.append("lost"), LEASE_MS)


async def test_it_renews_while_the_event_loop_is_blocked(store: SqliteStore, clock: ManualClock) -> None:
    """A function that blocks the loop does not lose its claims."""
    faulty, lost = FaultyStore(store, fail="prune"), list[str]()
    beating = heartbeat(faulty, clock, lost)
    beating.start()
    wait_until_sync(lambda: faulty.calls["renew"] >= 3, description="it has beaten three times")
    await beating.stop()
    assert lost == []


async def test_it_keeps_the_claims_of_its_worker(store: SqliteStore, clock: ManualClock) -> None:
    """Time passes, the lease goes with it."""
    faulty = FaultyStore(store, fail="prune")
    await store.publish([message("a")])
    await store.claim("w1", ["work"], 1)
    beating = heartbeat(faulty, clock, [])
    beating.start()
    for _ in range(3):
        beats = faulty.calls["renew"]
        await wait_until(lambda beats=beats: faulty.calls["renew"] > beats + 1, description="it has beaten")
        clock.advance(f"{LEASE_MS - 1}ms")
    beats = faulty.calls["renew"]
    await wait_until(lambda: faulty.calls["renew"] > beats + 1, description="it has beaten")
    assert await store.expire() == 0
    await beating.stop()


async def test_it_says_when_the_lease_was_lost(store: SqliteStore, clock: ManualClock) -> None:
    """On the event loop, where the worker enlists again; then it beats on."""
    faulty, lost = FaultyStore(store, fail="prune"), list[str]()
    beating = heartbeat(faulty, clock, lost)
    clock.advance("1h")
    await store.expire()
    beating.start()
    await wait_until(lambda: bool(lost), description="the loss is told of")
    await store.register("w1", LEASE_MS)
    told = len(lost)
    beats = faulty.calls["renew"]
    await wait_until(lambda: faulty.calls["renew"] > beats + 2, description="it beats on")
    await beating.stop()
    assert len(lost) <= told + 1


async def test_it_survives_a_store_that_fails(store: SqliteStore, clock: ManualClock) -> None:
    """The next beat comes well before the lease ends, and nothing is called lost."""
    faulty, lost = FaultyStore(store, fail="renew", times=3), list[str]()
    beating = heartbeat(faulty, clock, lost)
    beating.start()
    await wait_until(lambda: faulty.calls["renew"] > 4, description="it goes on after the failures")
    await beating.stop()
    assert lost == []


async def test_a_beat_that_failed_is_repeated_sooner(
    store: SqliteStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have taken most of the lease to fail."""
    pauses: list[float] = []

    async def hurried(event: asyncio.Event, seconds: float) -> None:
        pauses.append(seconds)
        await asyncio.sleep(0)

    monkeypatch.setattr("batchflow.engine.worker.wait_at_most", hurried)
    faulty = FaultyStore(store, fail="renew", times=2)
    beating = Heartbeat(faulty, dispatcher(faulty, FakeHandler(), clock), "w1", lambda: None, 30_000)
    beating.start()
    await wait_until(lambda: faulty.calls["renew"] > 3, description="it has beaten again")
    await beating.stop()
    assert pauses[:5] == [10, 1, 1, 10, 10]


async def test_stopping_needs_no_thread_of_the_event_loop(store: SqliteStore, clock: ManualClock) -> None:
    """User code may have filled them all, with what takes long."""
    go, loop = threading.Event(), asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as full:
        loop.set_default_executor(full)
        taken = asyncio.create_task(asyncio.to_thread(go.wait, 60))
        beating = Heartbeat(store, dispatcher(store, FakeHandler(), clock), "w1", lambda: None, 3_600_000)
        beating.start()
        async with asyncio.timeout(30):
            await beating.stop()
        assert not taken.done()
        go.set()
        await taken


async def test_stopping_does_not_wait_for_ever_for_a_beat(
    store: SqliteStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that does not answer is left behind."""
    monkeypatch.setattr("batchflow.engine.worker.STOP_TIMEOUT_S", 0.01)
    begun, go = threading.Event(), threading.Event()

    class Mute(FaultyStore):
        @asynccontextmanager
        async def renewing(self) -> AsyncGenerator[Renew]:
            async def blocks(*given: object, **more: object) -> bool:
                begun.set()
                return go.wait(60)

            yield blocks

    beating = heartbeat(Mute(store, fail="prune"), clock, [])
    beating.start()
    await wait_until(begun.is_set, description="it asks")
    async with asyncio.timeout(30):
        await beating.stop()
    assert not go.is_set()
    go.set()


async def test_stopping_cancels_a_beat_that_waits(store: SqliteStore, clock: ManualClock) -> None:
    """A server that does not answer is not waited for; what the beat has opened is closed."""
    begun, left = threading.Event(), threading.Event()

    class Waiting(FaultyStore):
        @asynccontextmanager
        async def renewing(self) -> AsyncGenerator[Renew]:
            async def waits(*given: object, **more: object) -> bool:
                begun.set()
                return await asyncio.Event().wait()

            try:
                yield waits
            finally:
                left.set()

    beating = heartbeat(Waiting(store, fail="prune"), clock, [])
    beating.start()
    await wait_until(begun.is_set, description="it asks")
    async with asyncio.timeout(60):
        await beating.stop()
    assert left.is_set()
    assert "batchflow-heartbeat" not in {thread.name for thread in threading.enumerate()}


async def test_stopping_ends_its_thread(store: SqliteStore, clock: ManualClock) -> None:
    """At once, not with the next beat; and stopping does not block the loop."""
    beating = Heartbeat(store, dispatcher(store, FakeHandler(), clock), "w1", lambda: None, 3_600_000)
    beating.start()
    async with asyncio.timeout(60):
        await beating.stop()
    assert "batchflow-heartbeat" not in {thread.name for thread in threading.enumerate()}


async def test_it_renews_by_the_whole_lease(store: SqliteStore, clock: ManualClock) -> None:
    """From the time of the beat: a worker may miss all beats but the last before its claims are another's."""
    faulty = FaultyStore(store, fail="prune")
    beating = heartbeat(faulty, clock, [])
    clock.advance("10ms")
    beating.start()
    await wait_until(lambda: faulty.calls["renew"] > 1, description="it has beaten")
    await beating.stop()
    (worker,) = await store.workers()
    assert worker.lease_until == clock.now() + LEASE_MS
