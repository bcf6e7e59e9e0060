"""The threads of plain functions: a bounded number, of which those that hang are given up and replaced."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from batchflow.core.ports import PlainCall
from batchflow.engine.threads import AbandonedCall, ThreadPool
from tests.waiting import wait_until

HANGS = PlainCall("hangs", "run_1", "step")


class Pool:
    """Two threads, and one that may be replaced; `go` lets end what hangs."""

    def __init__(self) -> None:
        self.given_up: list[AbandonedCall] = []
        self.threads = ThreadPool(2, self.given_up.append, max_replaced=1)
        self.go = threading.Event()
        self.under_way = 0
        self.waits: list[bool] = []

    def waits_now(self, is_waiting: bool, now: float) -> None:
        self.waits.append(is_waiting)

    def hang(self) -> str:
        self.under_way += 1
        self.go.wait(60)
        self.under_way -= 1
        return "came back"

    def start(self, call: Callable[[], Any] | None = None) -> "asyncio.Task[Any]":
        return asyncio.create_task(self.threads.run(call or self.hang, HANGS, self.waits_now))

    async def hanging(self, count: int) -> list["asyncio.Task[Any]"]:
        """So many calls that hang, each in a thread."""
        before = self.under_way
        tasks = [self.start() for _ in range(count)]
        await wait_until(lambda: self.under_way == before + count, description=f"{count} more hang")
        return tasks


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    made = Pool()
    yield made
    made.go.set()
    made.threads.close()
    await wait_until(lambda: made.under_way == 0, description="all threads have ended")


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("batchflow-plain"):
            thread.join(30)
            assert not thread.is_alive()


async def cancelled(*tasks: "asyncio.Task[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_call_returns_what_its_function_does(pool: Pool) -> None:
    """Without waiting for a thread where one is free."""
    names = {await pool.start(lambda: threading.current_thread().name) for _ in range(20)}
    assert names <= {"batchflow-plain-0", "batchflow-plain-1"}
    assert pool.waits == []


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError])
async def test_a_call_raises_what_its_function_does(pool: Pool, kind: type[BaseException]) -> None:
    """Any exception is passed on, and the thread continues."""

    def raises() -> None:
        raise kind("theirs")

    for _ in range(5):
        # In the present task: asyncio lets some kinds through to the event loop.
        with pytest.raises(kind):
            await pool.threads.run(raises, HANGS, pool.waits_now)
    assert await pool.start(lambda: 1) == 1
    assert pool.given_up == []


async def test_calls_wait_for_a_thread_in_turn(pool: Pool) -> None:
    """And are told when they do, and when they have one."""
    first = await pool.hanging(2)
    order: list[int] = []
    later = [pool.start(lambda number=number: order.append(number)) for number in range(5)]
    await wait_until(lambda: len(pool.waits) == 5, description="five wait")
    assert pool.waits == [True] * 5
    assert order == []
    pool.go.set()
    await asyncio.gather(*first, *later)
    assert sorted(order) == [0, 1, 2, 3, 4]
    assert pool.waits == [True] * 5 + [False] * 5


async def test_a_call_that_is_cancelled_before_it_has_a_thread_is_not_made(pool: Pool) -> None:
    """It waits no more, and nothing is given up."""
    first = await pool.hanging(2)
    made: list[int] = []
    await cancelled(waiting := pool.start(lambda: made.append(1)))
    assert waiting.cancelled()
    last = pool.start(lambda: made.append(2))
    await wait_until(lambda: len(pool.waits) == 1, description="the last one waits")
    pool.go.set()
    await asyncio.gather(*first, last)
    assert (made, pool.given_up) == ([2], [])
    await wait_until(lambda: pool.waits == [True, False], description="it is told")


async def test_a_thread_that_hangs_is_given_up_and_replaced(pool: Pool) -> None:
    """A waiting call gets the new thread; the abandoned call is reported with its function."""
    first = await pool.hanging(2)
    waiting = pool.start(lambda: "at last")
    await wait_until(lambda: pool.waits == [True], description="it waits")
    await cancelled(first[0])
    assert await waiting == "at last"
    assert pool.given_up == [AbandonedCall(HANGS, 1, True)]
    assert pool.threads.hanging == 1


async def test_threads_are_replaced_up_to_a_bound(pool: Pool) -> None:
    """Beyond it calls wait until one of those that hang comes back."""
    await cancelled(*await pool.hanging(2))
    await cancelled(*await pool.hanging(1))
    assert [(it.hanging, it.replaced) for it in pool.given_up] == [(1, True), (2, False), (3, False)]
    waiting = pool.start(lambda: "at last")
    await wait_until(lambda: pool.waits == [True], description="it waits")
    pool.go.set()
    assert await waiting == "at last"


async def test_a_thread_that_comes_back_is_counted_no_more(pool: Pool) -> None:
    """There are as many threads then as before."""
    await cancelled(*await pool.hanging(1))
    others = await pool.hanging(2)
    pool.go.set()
    await asyncio.gather(*others)
    await wait_until(lambda: pool.threads.hanging == 0, description="it has come back")
    pool.go.clear()
    tasks = await pool.hanging(2)
    pool.waits.clear()
    waiting = pool.start(lambda: 1)
    await wait_until(lambda: pool.waits == [True], description="there is no third one")
    pool.go.set()
    await asyncio.gather(*tasks, waiting)


async def test_closing_waits_for_no_thread(pool: Pool) -> None:
    """It says what still runs, drops who waits, and takes no more calls."""
    tasks = await pool.hanging(2)
    waiting = pool.start(lambda: 1)
    await wait_until(lambda: pool.waits == [True], description="it waits")
    assert pool.threads.close() == [HANGS, HANGS]
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with pytest.raises(RuntimeError, match="^the app has stopped and accepts no more calls of plain functions$"):
        await pool.start(lambda: 1)
    pool.go.set()
    assert await asyncio.gather(*tasks) == ["came back", "came back"]


def test_a_thread_outlives_its_event_loop() -> None:
    """Its result is dropped."""
    go, threads = threading.Event(), ThreadPool(1, lambda given_up: None)

    async def leave_it() -> None:
        begun = threading.Event()
        task = asyncio.create_task(threads.run(lambda: (begun.set(), go.wait(60)), HANGS, lambda waits, now: None))
        await wait_until(begun.is_set, description="it runs")
        await cancelled(task)

    asyncio.run(leave_it())
    assert threads.close() == [HANGS]
    go.set()


async def test_a_machine_without_more_threads_lets_calls_wait(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """For those there are; without any, the call says so."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    (first,) = await pool.hanging(1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        waiting = pool.start(lambda: "at last")
        await wait_until(lambda: pool.waits == [True], description="it waits")
        with pytest.raises(RuntimeError, match="^can't start new thread$"):
            await Pool().start(lambda: 1)
    pool.go.set()
    assert await waiting == "at last"
    await first
