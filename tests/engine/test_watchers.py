"""Waiting for runs and batches: how often the store is read, and how soon an end is noticed."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from batchflow import Batchflow, BatchWorkflow, NoParams, Page, WorkflowContext
from batchflow.core.message import Claim
from batchflow.core.settlement import cancelled, done
from batchflow.engine.clock import SystemClock
from batchflow.engine.watchers import INTERVAL_PER_WATCH_S, MIN_INTERVAL_S, Watchers
from batchflow.errors import StoreError, StoreUnavailable
from batchflow.stores.sqlite import SqliteStore
from batchflow.testing.faults import FaultyStore
from tests.waiting import DEADLINE_S

ITEMS, HANDLES = 1_000, 100


class Numbers(BatchWorkflow[NoParams, str, str]):
    entity = "number"
    entry_flow = paginate_flow = execute_flow = None

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        first = int(cursor or 0)
        after = first + limit
        return Page(ids=[f"{it:04d}" for it in range(first, after)], next_cursor=str(after) if after < ITEMS else None)

    async def execute(self, item: str) -> str:
        return item


class Counting(FaultyStore):
    """Counts what is read."""

    def __init__(self) -> None:
        super().__init__(SqliteStore(":memory:", clock=SystemClock()), fail="prune")
        self.reads: list[str] = []

    async def batch(self, id: str) -> Any:
        self.reads.append(id)
        return await self.store.batch(id)

    async def run(self, id: str) -> Any:
        self.reads.append(id)
        return await self.store.run(id)


async def test_a_batch_is_read_a_few_times_however_many_wait_for_it() -> None:
    """As it begins and as it ends: what its pages and items do meanwhile is no reason to read."""
    store = Counting()
    flow = Batchflow(store)
    numbers = flow.add(Numbers())
    async with flow:
        batch = await numbers.trigger()
        summaries = await asyncio.gather(*(numbers.batch(batch.id).wait() for _ in range(HANDLES)))
    assert {it.counts.succeeded for it in summaries} == {ITEMS}
    # One as they come, and one as it ends; a few where some join later.
    assert len(store.reads) <= 4
    assert flow.engine.watchers.by_id == {}


async def test_runs_are_read_when_they_end_and_not_when_others_do() -> None:
    """Each of a hundred, twice at most."""
    store = Counting()
    flow = Batchflow(store)

    @flow.serve("/f")
    async def f(ctx: WorkflowContext[int]) -> int:
        return await ctx.run("step", lambda: ctx.payload)

    async with flow:
        runs = [await f.trigger(number) for number in range(HANDLES)]
        assert await asyncio.gather(*(run.wait() for run in runs)) == list(range(HANDLES))
    assert len(store.reads) <= 2 * HANDLES


async def test_an_end_in_another_process_is_heard_of_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a look at the store now and then; and what is only cancelled along, too."""
    monkeypatch.setattr("batchflow.engine.watchers.CHECK_INTERVAL_S", 3_600)
    url = f"sqlite:///{tmp_path}/b.db"
    asking, working = Batchflow(url, worker=False), Batchflow(url)
    go = asyncio.Event()
    for flow in (asking, working):

        @flow.serve("/f")
        async def f(ctx: WorkflowContext[None]) -> str:
            await go.wait()  # batchflow: ok
            return "heard"

    async with asking, working:
        run = await asking.served["/f"].trigger(None)
        waiting = [asyncio.create_task(asking.served["/f"].run(run.id).wait()) for _ in range(3)]
        await asyncio.sleep(0)
        go.set()
        async with asyncio.timeout(DEADLINE_S):
            assert await asyncio.gather(*waiting) == ["heard"] * 3


# By themselves


class Looks:
    """Looks at something that goes on until `found` is set."""

    def __init__(self) -> None:
        self.count = 0
        self.found: str | None = None
        self.error: BaseException | None = None

    async def __call__(self) -> str | None:
        self.count += 1
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return self.found


@asynccontextmanager
async def waiting_for(watchers: Watchers, looks: Looks, *ids: str) -> AsyncGenerator[list[asyncio.Task[str | None]]]:
    """Tasks that wait for each of these."""
    tasks = [asyncio.create_task(watchers.wait_for_end(id, looks, None)) for id in ids]
    await rest()
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await rest()


async def rest() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.parametrize(("count", "pace"), [(1, MIN_INTERVAL_S), (100, 100 * INTERVAL_PER_WATCH_S)])
async def test_what_may_have_ended_is_looked_at_once_in_a_while(
    monkeypatch: pytest.MonkeyPatch, count: int, pace: float
) -> None:
    """At once, then no more for a while, however often something changes; the more are waited for the longer."""
    watchers, looks = Watchers(), Looks()
    loop = asyncio.get_running_loop()
    times: list[float] = []
    call_at = loop.call_at

    def counted(when: float, callback: Callable[..., Any], *args: Any, context: Any = None) -> asyncio.TimerHandle:
        if callback.__name__ == "_check_now":
            times.append(when)
        return call_at(when, callback, *args, context=context)

    async with waiting_for(watchers, looks, *map(str, range(count))):
        assert looks.count == count
        monkeypatch.setattr(loop, "call_at", counted)
        begun = loop.time()
        for _ in range(100):
            watchers.check_soon()
        await rest()
        assert looks.count == 2 * count
        for _ in range(100):
            watchers.check_soon()
        monkeypatch.undo()
        first, second = times
        # The second look is so much later than when the first was made.
        assert begun <= first
        assert first + pace <= second <= loop.time() + pace
    watchers.reset()
    watchers.check_soon()
    assert watchers.by_id == {}


async def test_what_is_known_to_have_ended_is_looked_at_now() -> None:
    """A run; a batch as it ends and once `on_complete` is through; what a cancelled run has started, soon."""
    watchers, looks = Watchers(), Looks()
    item = Claim(id="bat_a.r0", fence=1, destination="execute", body="", batch="bat_a", number=0)
    page = item._replace(id="bat_a.p0", number=-1)
    for claim, ended_batch, looked_at in (
        (item, None, False),
        (page, None, False),
        (item, "bat_a", True),
        (page._replace(id="bat_a.z"), None, True),
        (page._replace(id="bat_a.z2"), None, True),
        (page._replace(id="run_a", batch=None), None, False),
    ):
        async with waiting_for(watchers, looks, "bat_a"):
            await rest()
            before = looks.count
            watchers.on_settled(claim, done(claim, "1"), ended_batch)
            await rest()
            assert (looks.count > before) is looked_at, claim
    async with waiting_for(watchers, looks, "run_a"):
        await rest()
        before = looks.count
        watchers.on_settled(page._replace(id="run_a"), done(page, "1"), None)
        await rest()
        assert looks.count == before + 1
        watchers.on_settled(page, cancelled(page), None)
        await rest()
        assert looks.count == before + 2


async def test_who_comes_later_shares_the_watch_and_has_it_look_again() -> None:
    """Unless that was just now; who leaves last ends it."""
    watchers, looks = Watchers(), Looks()
    async with waiting_for(watchers, looks, "a", "a", "a"):
        await rest()
        assert looks.count == 1
        (watch,) = watchers.by_id["a"]
        watch.on_join(asyncio.get_running_loop().time() + MIN_INTERVAL_S)
        await rest()
        assert looks.count == 2
    assert watch.task.cancelled()
    assert watchers.by_id == {}


async def test_what_looking_raises_reaches_all_who_wait() -> None:
    """Unless it is the store that is away."""
    watchers, looks = Watchers(), Looks()
    looks.error = StoreError("refused")
    found = await asyncio.gather(*(watchers.wait_for_end("a", looks, None) for _ in range(3)), return_exceptions=True)
    assert found == [looks.error] * 3
    assert looks.count == 1


async def test_who_waits_for_an_app_that_has_stopped_is_told() -> None:
    """At once, and where it stops meanwhile."""
    is_open = True
    watchers, looks = Watchers(lambda: is_open), Looks()
    async with waiting_for(watchers, looks, "a") as (waiting,):
        await rest()
        is_open = False
        watchers.check_all()
        with pytest.raises(StoreUnavailable, match="^the app has stopped"):
            await waiting
    with pytest.raises(StoreUnavailable):
        await watchers.wait_for_end("a", looks, 0)


def test_an_event_loop_that_is_gone_is_not_woken() -> None:
    """And whoever waited there has gone with it."""
    watchers, looks = Watchers(), Looks()
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(watchers.wait_for_end("a", looks, None))
    loop.run_until_complete(rest())
    (watch,) = watchers.by_id["a"]
    watchers.check_all()
    loop.run_until_complete(rest())
    assert looks.count == 2
    waiting.cancel()
    loop.run_until_complete(asyncio.gather(waiting, return_exceptions=True))
    loop.run_until_complete(rest())
    loop.close()
    watch.wake()
    assert looks.count == 2
