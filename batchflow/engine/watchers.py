"""Waiting in this process for runs and batches to end, with few reads of the store."""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any, TypeVar

from batchflow.core.ids import completes
from batchflow.core.message import Claim
from batchflow.core.settlement import Settlement
from batchflow.errors import StoreError, StoreUnavailable

T = TypeVar("T")

MIN_INTERVAL_S = 0.02
"""The least time between two checks of runs that may have ended; a run known to have ended is checked at once."""

INTERVAL_PER_WATCH_S = 0.001
"""The same for each watch: however many there are, checking never takes all of the time."""

CHECK_INTERVAL_S = 5.0
"""The interval of checks without any notification."""

FIRST_RETRY_S = 0.1
"""The first pause before a store that is away is read again; it doubles up to `CHECK_INTERVAL_S`."""

LAST_READ_S = 5.0
"""The time for a last check when the time to wait is over."""


class Watchers:
    """The watches of a process. Those who wait on one event loop for the same run or batch share a watch and its reads.

    A watch reads the store when it begins, when its run or batch is known to have ended, when any may have ended
    elsewhere (`check_soon`), and every few seconds.
    """

    def __init__(self, is_open: Callable[[], bool] = lambda: True) -> None:
        self._is_open = is_open
        self.by_id: dict[str, list[_Watch]] = {}
        """The watches by run or batch id; if it is empty, an end costs one lookup."""
        # Other event loops run in other threads.
        self._lock = threading.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._checked_at = 0.0

    # Waiting

    async def wait_for_end(self, id: str, look: Callable[[], Awaitable[T | None]], limit: float | None) -> T | None:
        """See `batchflow.core.ports.Client`."""
        if limit is None or limit > 0:
            watch = self._join(id, look)
            try:
                await asyncio.wait([watch.task], timeout=limit)
                if watch.task.done():
                    return watch.task.result()
            finally:
                self._leave(watch)
        found: T | None = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_READ_S):
                found, _ = await _read(look)
        if found is None:
            self._check_open()
        return found

    def _join(self, id: str, look: Callable[[], Awaitable[Any]]) -> "_Watch":
        loop = asyncio.get_running_loop()
        with self._lock:
            watches = self.by_id.setdefault(id, [])
            watch = next((it for it in watches if it.loop is loop and not it.task.done()), None)
            if watch is None:
                watch = _Watch(id, look, loop, self._check_open)
                watches.append(watch)
            else:
                watch.on_join(loop.time())
            watch.waiting += 1
        return watch

    def _leave(self, watch: "_Watch") -> None:
        with self._lock:
            watch.waiting -= 1
            if watch.waiting:
                return
            watches = self.by_id[watch.id]
            watches.remove(watch)
            if not watches:
                del self.by_id[watch.id]
        watch.task.cancel()

    def _check_open(self) -> None:
        if not self._is_open():
            raise StoreUnavailable("the app has stopped, and the work goes on without it; start the app again to wait")

    # Notifications

    def on_settled(self, claim: Claim, settlement: Settlement, ended_batch: str | None) -> None:
        """A claim of this process was settled, and perhaps a batch has ended with it."""
        # Items end by the thousand, and hardly anybody waits for a single one.
        if claim.id in self.by_id:
            self.check(claim.id)
        if ended_batch is not None:
            self.check(ended_batch)
        # Waiting for a batch includes its `on_complete`, which runs after its end.
        elif claim.number < 0 and claim.batch is not None and completes(claim.id, claim.batch):
            self.check(claim.batch)
        if settlement.ending == "cancelled":
            # Its children are cancelled with it.
            self.check_soon()

    def check(self, id: str) -> None:
        """Check a run or batch that has ended, or may have."""
        for watch in tuple(self.by_id.get(id, ())):
            watch.wake()

    def check_soon(self) -> None:
        """Check all watches soon: other processes may have ended something. Called on the engine's event loop."""
        if self.by_id and self._timer is None:
            loop = asyncio.get_running_loop()
            pace = max(MIN_INTERVAL_S, INTERVAL_PER_WATCH_S * len(self.by_id))
            self._timer = loop.call_at(max(loop.time(), self._checked_at + pace), self._check_now, loop)

    def _check_now(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        self._checked_at = loop.time()
        self.check_all()

    def check_all(self) -> None:
        """Check all watches now."""
        for id in tuple(self.by_id):
            self.check(id)

    def reset(self) -> None:
        """Forget the timer of the previous event loop, which may be closed."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._checked_at = None, 0.0


class _Watch:
    """Reads one run or batch for all who wait for it on one event loop."""

    def __init__(
        self,
        id: str,
        look: Callable[[], Awaitable[Any]],
        loop: asyncio.AbstractEventLoop,
        check_open: Callable[[], None],
    ) -> None:
        self.id = id
        self.loop = loop
        self.waiting = 0
        self._look = look
        self._check_open = check_open
        self._changed = asyncio.Event()
        self._checked_at = 0.0
        # An empty context: the watch is shared, and context variables belong to a single caller.
        self.task: asyncio.Task[Any] = loop.create_task(self._until_ended(), context=Context())
        self.task.add_done_callback(_retrieve_exception)

    def wake(self) -> None:
        """Check now. Safe to call from any thread."""
        if _running_loop() is self.loop:
            self._changed.set()
        else:
            # The loop may be closed.
            with contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self._changed.set)

    def on_join(self, now: float) -> None:
        """Check for one more caller, unless the last check was just now."""
        if now >= self._checked_at + MIN_INTERVAL_S:
            self._changed.set()

    async def _until_ended(self) -> Any:
        pause = FIRST_RETRY_S
        while True:
            self._changed.clear()
            self._checked_at = self.loop.time()
            found, is_away = await _read(self._look)
            if found is not None:
                return found
            self._check_open()
            if is_away:
                self._changed.clear()
                await self._wait(pause)
                pause = min(2 * pause, CHECK_INTERVAL_S)
            else:
                await self._wait(CHECK_INTERVAL_S)
                pause = FIRST_RETRY_S

    async def _wait(self, seconds: float) -> None:
        timer = self.loop.call_later(seconds, self._changed.set)
        try:
            await self._changed.wait()
        finally:
            timer.cancel()


async def _read(look: Callable[[], Awaitable[T | None]]) -> tuple[T | None, bool]:
    """Read once: the result, and whether the store is away, as in a failover."""
    try:
        return await look(), False
    except StoreError as error:
        if not error.retryable:
            raise
        return None, True


def _retrieve_exception(task: "asyncio.Task[Any]") -> None:
    # If nobody waits any more, the exception must not be reported as never retrieved.
    _ = task.cancelled() or task.exception()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
