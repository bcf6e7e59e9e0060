"""Outages of the store: when they begin and end, and when failed operations are retried."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from batchflow.core.ports import Observers
from batchflow.errors import StoreError, StoreUnavailable

BACKOFF_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
WRITES_FIRST_S = 30.0
"""For this time executed work is written before anything is claimed. Not for ever: a write that is never accepted would
stop all new work."""

START_RETRY_S = 5.0
"""The longest pause between two attempts to reach a store at the start."""

T = TypeVar("T")


class Outage:
    """The outages of the store as one worker sees them. Observers are notified when one begins and when it ends.

    All operations that wait for the store are retried at the same moments, and so in one group.
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
        """The number of outages that have ended."""

    @property
    def is_active(self) -> bool:
        """True while the store fails, as far as is known."""
        return self._since is not None

    @property
    def has_pending_writes(self) -> bool:
        """True if executed work waits to be written."""
        return self._pending_writes > 0

    @property
    def blocks_claims(self) -> bool:
        """True if pending writes come before claims: they show whether the store works."""
        return self._since is not None and self._pending_writes > 0 and self._loop.time() < self._since + WRITES_FIRST_S

    def overlap_s(self, begun: float, now: float) -> float:
        """The seconds of the latest outage since `begun`. Safe to call from another thread."""
        since = self._since
        start, end = self._last_outage if since is None else (since, now)
        return max(0.0, end - max(begun, start))

    def record_failure(self, error: StoreError) -> None:
        """Record that an operation failed."""
        if self._since is None:
            self._since = self._loop.time()
            if (notify := self._observers.store_unavailable) is not None:
                notify(error, False)

    def record_success(self) -> None:
        """Record that a write succeeded, which ends an outage."""
        if self._since is not None:
            now = self._loop.time()
            if (notify := self._observers.store_recovered) is not None:
                notify(int((now - self._since) * 1000), False)
            self._last_outage, self._since, self._tries = (self._since, now), None, 0
            self.ended_count += 1
            self._end_wait()

    async def wait_for_retry(self) -> None:
        """Wait until the next retry: after a growing pause, and at once when the outage ends."""
        if self._retry_event is None or self._retry_event.is_set():
            self._retry_event = asyncio.Event()
            self._loop.call_later(self._delay(self._tries), self._retry_event.set)
            self._tries += 1
        await self._retry_event.wait()

    async def retry_until_written(self, ask: Callable[[], Awaitable[T]], error: StoreError) -> T:
        """Repeat `ask`, which has failed with `error`, until it succeeds, and return its answer.

        Raises:
            StoreError: it cannot be retried, or the worker has stopped.
        """
        self._pending_writes += 1
        tries = 0
        try:
            self.record_failure(error)
            while not self._stopped:
                if self.is_active:
                    await self.wait_for_retry()
                else:
                    # The store accepts other writes: this failure is not an outage.
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
        """The same for a step, whose success ends the outage."""
        answer = await self.retry_until_written(ask, error)
        self.record_success()
        return answer

    def stop_retrying(self) -> None:
        """End all waiting: the worker stops."""
        self._stopped = True
        self._end_wait()

    def _end_wait(self) -> None:
        if self._retry_event is not None:
            self._retry_event.set()

    @staticmethod
    def _delay(tries: int) -> float:
        return BACKOFF_S[min(tries, len(BACKOFF_S) - 1)]


async def wait_for_store(ask: Callable[[], Awaitable[T]], observers: Observers) -> T:
    """Repeat `ask` until the store can be reached, and return its answer. Observers are notified once of each change.

    Raises:
        StoreError: the store was reached and refuses it, for example as incompatible.
    """
    tries, begun = 0, asyncio.get_running_loop().time()
    while True:
        try:
            answer = await ask()
        except StoreUnavailable as error:
            if not tries and (notify := observers.store_unavailable) is not None:
                notify(error, True)
            await asyncio.sleep(min(BACKOFF_S[min(tries, len(BACKOFF_S) - 1)] * 2, START_RETRY_S))
            tries += 1
        else:
            if tries and (notify := observers.store_recovered) is not None:
                notify(int((asyncio.get_running_loop().time() - begun) * 1000), True)
            return answer
