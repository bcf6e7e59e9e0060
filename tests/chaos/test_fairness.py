"""One hot key and nine quiet ones, in virtual time: the quiet ones hardly notice it."""

import asyncio
import statistics
from collections.abc import AsyncIterator, Iterator

import pytest
from fakeredis import FakeAsyncRedis

from batchflow.core import settlement
from batchflow.core.flow import FlowControl
from batchflow.core.message import Claim
from batchflow.core.store import Store
from batchflow.stores.redis import RedisStore
from batchflow.stores.sqlite import SqliteStore
from batchflow.testing.clock import ManualClock
from tests.conformance.scene import LEASE_MS, message

WORKERS, PLACES = 3, 4
TICK_MS, LASTS_MS = 20, 3_000
QUIET = [FlowControl(key=f"quiet-{number}", parallelism=1) for number in range(9)]
HOT = FlowControl(key="hot")
BURST, EVERY_MS = 4, 1_000
WORK_MS = (80, 100, 120)


@pytest.fixture(params=["redis", "sqlite"])
async def stores(request: pytest.FixtureRequest) -> AsyncIterator[tuple[ManualClock, Iterator[Store]]]:
    """As many empty stores as are asked for, and their clock."""
    clock = ManualClock()
    made: list[Store] = []

    def make() -> Iterator[Store]:
        while True:
            redis = request.param == "redis"
            made.append(RedisStore(FakeAsyncRedis(), clock=clock) if redis else SqliteStore(":memory:", clock=clock))
            yield made[-1]

    yield clock, make()
    for store in made:
        await store.close()


class Crowd:
    """Workers that are busy with what they claim for as long as it takes."""

    def __init__(self, store: Store, clock: ManualClock) -> None:
        self._store = store
        self._clock = clock
        self._busy: dict[str, list[tuple[int, Claim]]] = {f"w{number}": [] for number in range(WORKERS)}
        self._claimed = 0
        self.waited: dict[str, int] = {}
        """How long each message waited, by its id."""

    async def open(self) -> None:
        await self._store.open()
        for worker in self._busy:
            await self._store.register(worker, LEASE_MS)

    async def turn(self) -> None:
        """Settle what has ended, then claim what there is room for."""
        now = self._clock.now()
        ended = [claim for busy in self._busy.values() for end, claim in busy if end <= now]
        await asyncio.gather(*(self._store.settle(settlement.done(claim, "null")) for claim in ended))
        for worker, busy in self._busy.items():
            busy[:] = [(end, claim) for end, claim in busy if end > now]
            if len(busy) == PLACES:
                continue
            for claim in (await self._store.claim(worker, ["work"], PLACES - len(busy))).claims:
                self._claimed += 1
                busy.append((now + WORK_MS[self._claimed % len(WORK_MS)], claim))
                self.waited[claim.id] = now - int(claim.id.rpartition("-")[2])


async def waits(store: Store, clock: ManualClock, *, hot: int) -> list[int]:
    """How long messages of the quiet keys wait beside so many of the hot one."""
    crowd = Crowd(store, clock)
    await crowd.open()
    begun = clock.now()
    await store.publish([message(f"hot-{number}-{begun}", flow=HOT) for number in range(hot)])
    for tick in range(LASTS_MS // TICK_MS):
        if tick * TICK_MS % EVERY_MS == EVERY_MS // 2:
            for flow in QUIET:
                ids = [f"{flow.key}-{number}-{clock.now()}" for number in range(BURST)]
                await store.publish([message(id, flow=flow) for id in ids])
        await crowd.turn()
        clock.advance(f"{TICK_MS}ms")
    found = [wait for id, wait in crowd.waited.items() if id.startswith("quiet")]
    assert len(found) == len(QUIET) * BURST * LASTS_MS // EVERY_MS
    assert not hot or (await store.flows(["hot"]))[0].waiting > 0
    return found


async def test_quiet_keys_hardly_notice_a_hot_one(stores: tuple[ManualClock, Iterator[Store]]) -> None:
    """Their median wait is within twice of what it is alone, although the hot key has work for all there is."""
    clock, made = stores
    alone = await waits(next(made), clock, hot=0)
    beside = await waits(next(made), clock, hot=1_000)
    assert statistics.median(alone) > 0
    assert statistics.median(beside) <= 2 * statistics.median(alone)
    assert max(beside) <= 2 * max(alone)
