"""Who waits in this process for runs and batches to end, and when the store is asked for them."""

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
"""So much time lies between two looks at what only may have changed; what is known to have ended is looked at now."""

INTERVAL_PER_WATCH_S = 0.001
"""And so much for each that is waited for: however many they are, looking takes a part of the time and not all."""

CHECK_INTERVAL_S = 5.0
"""What nobody tells of is seen after so long."""

FIRST_RETRY_S = 0.1
"""A store that is away is asked again after so long, then after twice as long, up to `LOOK_S`."""

LAST_READ_S = 5.0
"""The last look may take so long, also where the time to wait is over."""


class Watchers:
    """All who wait. Those who wait on one event loop for the same run or batch share one watch, and so their looks.

    A watch looks when it begins, when what it is for is known to have ended, when something may have ended elsewhere
    (`something`), and every few seconds.
    """

    def __init__(self, is_open: Callable[[], bool] = lambda: True) -> None:
        self._is_open = is_open
        self.by_id: dict[str, list[_Watch]] = {}
        """What is waited for; empty where nobody waits, which costs nobody more than to look."""
        # Those who wait on other event loops do so in other threads.
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
            raise StoreUnavailable(
                "the app has stopped, and what it waited for goes on without it; start it again to wait"
            )

    # Telling

    def on_settled(self, claim: Claim, settlement: Settlement, ended_batch: str | None) -> None:
        """A claim of this process has ended so, and with it perhaps a batch."""
        # Items end by the thousand, and hardly anybody waits for one.
        if claim.id in self.by_id:
            self.check(claim.id)
        if ended_batch is not None:
            self.check(ended_batch)
        # Who waits for a batch waits for its `on_complete` too, which comes after its end.
        elif claim.number < 0 and claim.batch is not None and completes(claim.id, claim.batch):
            self.check(claim.batch)
        if settlement.ending == "cancelled":
            # What it had started is cancelled with it.
            self.check_soon()

    def check(self, id: str) -> None:
        """The run or batch is known to have ended, perhaps to have."""
        for watch in tuple(self.by_id.get(id, ())):
            watch.wake()

    def check_soon(self) -> None:
        """Something may have ended that this process does not know of. Called on the engine's event loop."""
        if self.by_id and self._timer is None:
            loop = asyncio.get_running_loop()
            pace = max(MIN_INTERVAL_S, INTERVAL_PER_WATCH_S * len(self.by_id))
            self._timer = loop.call_at(max(loop.time(), self._checked_at + pace), self._check_now, loop)

    def _check_now(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        self._checked_at = loop.time()
        self.check_all()

    def check_all(self) -> None:
        """Whatever is waited for is to be looked at now."""
        for id in tuple(self.by_id):
            self.check(id)

    def reset(self) -> None:
        """The event loop is another one from here on, and the former one may be gone."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._checked_at = None, 0.0


class _Watch:
    """Looks at one run or batch for all who wait for it on one event loop."""

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
        # It is nobody's own: what one of those who wait has set for itself is none of it.
        self.task: asyncio.Task[Any] = loop.create_task(self._until_ended(), context=Context())
        self.task.add_done_callback(_retrieve_exception)

    def wake(self) -> None:
        """Look now. May be called from anywhere."""
        if _running_loop() is self.loop:
            self._changed.set()
        else:
            # One that is closed waits for nothing any more.
            with contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self._changed.set)

    def on_join(self, now: float) -> None:
        """One more waits: what was looked at just now is not looked at again."""
        if now >= self._checked_at + MIN_INTERVAL_S:
            self._changed.set()

    async def _until_ended(self) -> Any:
        patience = FIRST_RETRY_S
        while True:
            self._changed.clear()
            self._checked_at = self.loop.time()
            found, is_away = await _read(self._look)
            if found is not None:
                return found
            self._check_open()
            if is_away:
                self._changed.clear()
                await self._wait(patience)
                patience = min(2 * patience, CHECK_INTERVAL_S)
            else:
                await self._wait(CHECK_INTERVAL_S)
                patience = FIRST_RETRY_S

    async def _wait(self, seconds: float) -> None:
        timer = self.loop.call_later(seconds, self._changed.set)
        try:
            await self._changed.wait()
        finally:
            timer.cancel()


async def _read(look: Callable[[], Awaitable[T | None]]) -> tuple[T | None, bool]:
    """What is seen, and whether the store is away, as in a failover."""
    try:
        return await look(), False
    except StoreError as error:
        if not error.retryable:
            raise
        return None, True


def _retrieve_exception(task: "asyncio.Task[Any]") -> None:
    # Where nobody waits any more, nobody complains of what it raised.
    _ = task.cancelled() or task.exception()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
