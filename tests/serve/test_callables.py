"""User functions of every shape are called in one way."""

import asyncio
import functools
import threading
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, assert_type

import pytest

from batchflow.engine.threads import ThreadPool
from batchflow.serve.callables import as_async, call_with_timeout, is_async
from batchflow.serve.delivery_scope import CURRENT_DELIVERY, DeliveryScope
from tests.waiting import wait_until

COLOUR: ContextVar[str] = ContextVar("colour", default="none")


async def fetch(word: str, *, times: int = 1) -> str:
    return word * times


def compute(word: str, *, times: int = 1) -> str:
    return word * times


def fetch_later(word: str, *, times: int = 1) -> Awaitable[str]:
    return fetch(word, times=times)


class Service:
    async def fetch(self, word: str, *, times: int = 1) -> str:
        return word * times

    def compute(self, word: str, *, times: int = 1) -> str:
        return word * times

    @staticmethod
    async def apart(word: str, *, times: int = 1) -> str:
        return word * times


class Caller:
    async def __call__(self, word: str, *, times: int = 1) -> str:
        return word * times


class SyncCaller:
    def __call__(self, word: str, *, times: int = 1) -> str:
        return word * times


ASYNC: list[Callable[..., Awaitable[str]]] = [
    fetch,
    functools.partial(fetch),
    functools.partial(functools.partial(fetch), times=2),
    Service().fetch,
    functools.partial(Service().fetch),
    Service.apart,
    Caller(),
    functools.partial(Caller()),
]
SYNC: list[Callable[..., Any]] = [
    compute,
    functools.partial(compute),
    Service().compute,
    SyncCaller(),
    fetch_later,
]


@pytest.mark.parametrize("fn", ASYNC)
async def test_async_functions_are_taken_as_they_are(fn: Callable[..., Awaitable[str]]) -> None:
    """`async def`, methods, partials and callable objects run on the event loop."""
    assert is_async(fn)
    assert as_async(fn) is fn
    assert await as_async(fn)("ab", times=2) == "abab"


@pytest.mark.parametrize("fn", SYNC)
async def test_plain_functions_are_awaited_in_a_thread(fn: Callable[..., Any]) -> None:
    """Also one around an async call, whose awaitable is awaited on the loop."""
    assert not is_async(fn)
    assert await as_async(fn)("ab", times=2) == "abab"


async def test_wrapping_twice_changes_nothing() -> None:
    """The wrapper that `as_async` returns is async."""
    once = as_async(compute)
    assert as_async(once) is once


async def test_a_thread_sees_the_callers_context() -> None:
    """Context variables are copied; the threads are the runtime's."""
    CURRENT_DELIVERY.set(DeliveryScope(threads := ThreadPool(1, lambda given_up: None)))
    COLOUR.set("blue")
    where = await as_async(lambda: (COLOUR.get(), threading.current_thread().name))()
    threads.close()
    assert where == ("blue", "batchflow-plain-0")


async def test_types_survive() -> None:
    """The wrapped function has the parameters and the result of the original."""
    assert_type(await as_async(fetch)("a", times=2), str)
    assert_type(await as_async(compute)("a", times=2), str)


async def test_what_takes_too_long_is_cancelled() -> None:
    """The error says how long it was given; a timeout of the function's own stays what it is."""
    with pytest.raises(TimeoutError, match="^took longer than 10ms$"):
        await call_with_timeout(10, asyncio.Event().wait, (), {})

    async def own() -> None:
        raise TimeoutError("of my own")

    with pytest.raises(TimeoutError, match="^of my own$"):
        await call_with_timeout(1000, own, (), {})
    assert await call_with_timeout(1000, fetch, ("ab",), {"times": 2}) == "abab"


async def test_the_time_of_a_call_begins_when_it_has_a_thread() -> None:
    """The time of a call starts when it gets a thread."""
    go = threading.Event()
    CURRENT_DELIVERY.set(delivery := DeliveryScope(threads := ThreadPool(1, lambda given_up: None)))
    loop = asyncio.get_running_loop()
    first = asyncio.ensure_future(as_async(go.wait)())
    second = asyncio.create_task(call_with_timeout(100, as_async(compute), ("ab",), {}))
    third = asyncio.create_task(call_with_timeout(100, as_async((end := threading.Event()).wait), (60,), {}))
    await wait_until(lambda: delivery.thread_wait_s(loop.time()) > 0.15, description="both have waited long enough")
    assert not second.done()
    go.set()
    assert await first
    assert await second == "ab"
    with pytest.raises(TimeoutError, match="^took longer than 100ms$"):
        await third
    end.set()
    waited = delivery.thread_wait_s(loop.time())
    assert delivery.thread_wait_s(loop.time() + 9) == waited
    threads.close()


async def test_arguments_of_any_name_reach_a_plain_function() -> None:
    """Those that our own methods use, too."""

    def takes(**values: int) -> dict[str, int]:
        return values

    named = {"self": 1, "fn": 2, "call": 3, "func": 4, "args": 5, "kwargs": 6, "waits": 7}
    assert await as_async(takes)(**named) == named
    assert await call_with_timeout(60_000, as_async(takes), (), named) == named
