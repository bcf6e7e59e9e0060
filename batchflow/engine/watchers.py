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

PACE_S = 0.02
"""So much time lies between two looks at what only may have changed; what is known to have ended is looked at now."""

EACH_S = 0.001
"""And so much for each that is waited for: however many they are, looking takes a part of the time and not all."""

LOOK_S = 5.0
"""What nobody tells of is seen after so long."""

SOON_S = 0.1
"""A store that is away is asked again after so long, then after twice as long, up to `LOOK_S`."""

READ_S = 5.0
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
        self._swept_at = 0.0

    # Waiting

    async def ended(self, id: str, look: Callable[[], Awaitable[T | None]], limit: float | None) -> T | None:
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
            async with asyncio.timeout(READ_S):
                found, _ = await _ask(look)
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
                watch.is_joined(loop.time())
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

    def settled(self, claim: Claim, settlement: Settlement, ended_batch: str | None) -> None:
        """A claim of this process has ended so, and with it perhaps a batch."""
        # Items end by the thousand, and hardly anybody waits for one.
        if claim.id in self.by_id:
            self.look_at(claim.id)
        if ended_batch is not None:
            self.look_at(ended_batch)
        # Who waits for a batch waits for its `on_complete` too, which comes after its end.
        elif claim.number < 0 and claim.batch is not None and completes(claim.id, claim.batch):
            self.look_at(claim.batch)
        if settlement.ending == "cancelled":
            # What it had started is cancelled with it.
            self.something()

    def look_at(self, id: str) -> None:
        """The run or batch is known to have ended, perhaps to have."""
        for watch in tuple(self.by_id.get(id, ())):
            watch.wake()

    def something(self) -> None:
        """Something may have ended that this process does not know of. Called on the engine's event loop."""
        if self.by_id and self._timer is None:
            loop = asyncio.get_running_loop()
            pace = max(PACE_S, EACH_S * len(self.by_id))
            self._timer = loop.call_at(max(loop.time(), self._swept_at + pace), self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        self._swept_at = loop.time()
        self.everything()

    def everything(self) -> None:
        """Whatever is waited for is to be looked at now."""
        for id in tuple(self.by_id):
            self.look_at(id)

    def reset(self) -> None:
        """The event loop is another one from here on, and the former one may be gone."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._swept_at = None, 0.0


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
        self._news = asyncio.Event()
        self._looked_at = 0.0
        # It is nobody's own: what one of those who wait has set for itself is none of it.
        self.task: asyncio.Task[Any] = loop.create_task(self._until_ended(), context=Context())
        self.task.add_done_callback(_heard)

    def wake(self) -> None:
        """Look now. May be called from anywhere."""
        if _running_loop() is self.loop:
            self._news.set()
        else:
            # One that is closed waits for nothing any more.
            with contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self._news.set)

    def is_joined(self, now: float) -> None:
        """One more waits: what was looked at just now is not looked at again."""
        if now >= self._looked_at + PACE_S:
            self._news.set()

    async def _until_ended(self) -> Any:
        patience = SOON_S
        while True:
            self._news.clear()
            self._looked_at = self.loop.time()
            found, is_away = await _ask(self._look)
            if found is not None:
                return found
            self._check_open()
            if is_away:
                self._news.clear()
                await self._wait(patience)
                patience = min(2 * patience, LOOK_S)
            else:
                await self._wait(LOOK_S)
                patience = SOON_S

    async def _wait(self, seconds: float) -> None:
        timer = self.loop.call_later(seconds, self._news.set)
        try:
            await self._news.wait()
        finally:
            timer.cancel()


async def _ask(look: Callable[[], Awaitable[T | None]]) -> tuple[T | None, bool]:
    """What is seen, and whether the store is away, as in a failover."""
    try:
        return await look(), False
    except StoreError as error:
        if not error.retryable:
            raise
        return None, True


def _heard(task: "asyncio.Task[Any]") -> None:
    # Where nobody waits any more, nobody complains of what it raised.
    _ = task.cancelled() or task.exception()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
