"""A store that fails: what is known of it, when it is tried again, and what is said of it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from batchflow.core.observe import Observers
from batchflow.errors import StoreError, StoreUnavailable

BACKOFF_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
WRITES_FIRST_S = 30.0
"""For so long what is executed already is to be written before anything is claimed; what is never taken would hold up
all that is new."""

START_RETRY_S = 5.0
"""A store that is away at the start is asked again at least so often."""

T = TypeVar("T")


class Outage:
    """Whether the store fails, for one worker. Observers hear of it when that begins, and when it is over.

    All that wait for the store try it again at the same moments, and so in one group.
    """

    def __init__(self, observers: Observers) -> None:
        self._observers = observers
        self._loop = asyncio.get_running_loop()
        self._since: float | None = None
        self._last_outage = (0.0, 0.0)
        self._retry_event: asyncio.Event | None = None
        self._tries = 0
        self._pending_writes = 0
        self._stopped = False
        self.ended_count = 0
        """How many are over."""

    @property
    def is_active(self) -> bool:
        """Whether the store fails, as far as is known."""
        return self._since is not None

    @property
    def has_pending_writes(self) -> bool:
        """Whether something that was executed waits to be written."""
        return self._pending_writes > 0

    @property
    def blocks_claims(self) -> bool:
        """Whether nothing is to be claimed yet, since what waits to be written tells whether the store works."""
        return self._since is not None and self._pending_writes > 0 and self._loop.time() < self._since + WRITES_FIRST_S

    def overlap_s(self, begun: float, now: float) -> float:
        """For how many seconds since `begun` the latest outage has lasted. Safe to call from another thread."""
        since = self._since
        start, end = self._last_outage if since is None else (since, now)
        return max(0.0, end - max(begun, start))

    def record_failure(self, error: StoreError) -> None:
        """The store could not carry something out."""
        if self._since is None:
            self._since = self._loop.time()
            if (tell := self._observers.store_away) is not None:
                tell(error, False)

    def record_success(self) -> None:
        """The store has taken a write."""
        if self._since is not None:
            now = self._loop.time()
            if (tell := self._observers.store_back) is not None:
                tell(int((now - self._since) * 1000), False)
            self._last_outage, self._since, self._tries = (self._since, now), None, 0
            self.ended_count += 1
            self._end_wait()

    async def wait_for_retry(self) -> None:
        """Wait until it is time to try again: after a while that grows, and at once when the store works."""
        if self._retry_event is None or self._retry_event.is_set():
            self._retry_event = asyncio.Event()
            self._loop.call_later(self._delay(self._tries), self._retry_event.set)
            self._tries += 1
        await self._retry_event.wait()

    async def retry_until_written(self, ask: Callable[[], Awaitable[T]], error: StoreError) -> T:
        """What `ask` answers once the store can; it has failed with `error`.

        Raises:
            StoreError: it is refused for good, or nobody waits for the store any more.
        """
        self._pending_writes += 1
        tries = 0
        try:
            self.record_failure(error)
            while not self._stopped:
                if self.is_active:
                    await self.wait_for_retry()
                else:
                    # The store takes what others write: that it does not take this is no news.
                    await asyncio.sleep(self._delay(tries))
                tries += 1
                try:
                    return await ask()
                except StoreError as again:
                    if not again.retryable:
                        raise
                    error = again
            raise error
        finally:
            self._pending_writes -= 1

    async def retry_step(self, ask: Callable[[], Awaitable[T]], error: StoreError) -> T:
        """The same for what tells that the store works."""
        answer = await self.retry_until_written(ask, error)
        self.record_success()
        return answer

    def stop_retrying(self) -> None:
        """The worker stops: nobody waits for the store any more."""
        self._stopped = True
        self._end_wait()

    def _end_wait(self) -> None:
        if self._retry_event is not None:
            self._retry_event.set()

    @staticmethod
    def _delay(tries: int) -> float:
        return BACKOFF_S[min(tries, len(BACKOFF_S) - 1)]


async def wait_for_store(ask: Callable[[], Awaitable[T]], observers: Observers) -> T:
    """What `ask` answers once the store is there. Observers hear once that it is away and why, and that it is there.

    Raises:
        StoreError: it is refused, as where the place is none for this program.
    """
    tries, begun = 0, asyncio.get_running_loop().time()
    while True:
        try:
            answer = await ask()
        except StoreUnavailable as error:
            if not tries and (tell := observers.store_away) is not None:
                tell(error, True)
            await asyncio.sleep(min(BACKOFF_S[min(tries, len(BACKOFF_S) - 1)] * 2, START_RETRY_S))
            tries += 1
        else:
            if tries and (tell := observers.store_back) is not None:
                tell(int((asyncio.get_running_loop().time() - begun) * 1000), True)
            return answer
