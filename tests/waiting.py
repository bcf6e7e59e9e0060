"""Waiting for something to become true: the one place in the tests that sleeps."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

PAUSE = 0.01
DEADLINE_S = 60
"""For what happens at once: no machine is so slow, and a test that passes waits for none of it."""


async def wait_until(
    predicate: Callable[[], bool | Awaitable[bool]], *, description: str, timeout: float = DEADLINE_S
) -> None:
    """Return once `predicate` holds; fail with `description` when it does not within `timeout` seconds."""
    try:
        async with asyncio.timeout(timeout):
            while not await _answer(predicate):  # noqa: ASYNC110 - there may be no event to wait for
                await asyncio.sleep(PAUSE)
    except TimeoutError as error:
        raise AssertionError(_in_vain(description, timeout)) from error


def wait_until_sync(
    predicate: Callable[[], bool], *, description: str | Callable[[], str], timeout: float = DEADLINE_S
) -> None:
    """Return once `predicate` holds, for tests without an event loop. A description may say what was found last."""
    deadline = time.monotonic() + timeout
    while not predicate():
        if time.monotonic() > deadline:
            text = description if isinstance(description, str) else description()
            raise AssertionError(_in_vain(text, timeout))
        time.sleep(PAUSE)


async def take_a_while(seconds: float) -> None:
    """Take time, in a program whose process is killed in the middle of what it does."""
    await asyncio.sleep(seconds)


async def _answer(predicate: Callable[[], bool | Awaitable[bool]]) -> bool:
    answer = predicate()
    return await answer if inspect.isawaitable(answer) else answer


def _in_vain(description: str, timeout: float) -> str:
    return f"waited {timeout:g} s in vain until {description}"
