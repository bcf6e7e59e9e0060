"""Which of several waits is first, and how long a block may take: over durable waits."""

import asyncio
from collections.abc import Awaitable, Coroutine, Sequence
from types import TracebackType
from typing import Any, TypeVar

from batchflow.core.duration import show
from batchflow.errors import ConfigurationError, TimedOut

T = TypeVar("T")


async def first_of(waits: tuple[Awaitable[T], ...]) -> tuple[int, T]:
    """The place and the result of the wait that ends first; the others are cancelled.

    Which one that is, is decided again alike on every replay: recorded outcomes are handed out one at a time.
    """
    if not waits:
        raise ConfigurationError(
            "ctx.first needs something to wait for, such as ctx.first(ctx.sleep(…), ctx.wait_for_event(…))"
        )
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await _cancel(tasks)
    place = min(place for place, task in enumerate(tasks) if task in done)
    return place, tasks[place].result()


async def _cancel(tasks: "Sequence[asyncio.Future[T]]") -> None:
    left = [task for task in tasks if not task.done()]
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left)
    for task in tasks:
        # Looked at, so that nobody complains of it; several may have failed in one turn.
        _ = task.cancelled() or task.exception()


class Deadline:
    """`async with ctx.timeout("limit", "1h"):` ends the block with `TimeoutError` when the time is over."""

    __slots__ = ("_before", "_body", "_delay_ms", "_name", "_sleep", "_timer", "expired")

    def __init__(self, name: str, delay_ms: int, sleep: Coroutine[Any, Any, None]) -> None:
        self._name = name
        self._delay_ms = delay_ms
        self._sleep = sleep
        self._timer: asyncio.Task[None] | None = None
        self._body: asyncio.Task[Any] | None = None
        self._before = 0
        self.expired = False
        """Whether the time was over before the block was through."""

    async def __aenter__(self) -> "Deadline":
        if self._timer is not None:
            raise ConfigurationError(f"the timeout '{self._name}' was used before; make one for each block")
        self._body = asyncio.current_task()
        self._timer = asyncio.create_task(self._sleep)
        self._timer.add_done_callback(self._over)
        try:
            # The timer asks first, before the first step of the block.
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            await _cancel([self._timer])
            raise
        return self

    def _over(self, timer: "asyncio.Task[None]") -> None:
        if timer.cancelled() or timer.exception() is not None:
            return
        assert self._body is not None
        self.expired = True
        # Not counted from the start of the block: a TaskGroup whose task has failed leaves one behind on Python 3.11.
        self._before = self._body.cancelling()
        self._body.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._timer is not None
        assert self._body is not None
        self._timer.remove_done_callback(self._over)
        await _cancel([self._timer])
        if self.expired and self._body.uncancel() <= self._before and kind is asyncio.CancelledError:
            raise TimedOut(f"'{self._name}': took longer than {show(self._delay_ms)}") from error
