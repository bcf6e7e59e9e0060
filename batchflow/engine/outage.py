"""A store that fails: what is known of it, when it is tried again, and what is said of it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from batchflow.core.observe import Observers
from batchflow.errors import StoreError, StoreUnavailable

BACKOFF_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
FIRST_S = 30.0
"""For so long what is executed already is to be written before anything is claimed; what is never taken would hold up
all that is new."""

AWAY_S = 5.0
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
        self._latest = (0.0, 0.0)
        self._round: asyncio.Event | None = None
        self._tries = 0
        self._waiting = 0
        self._given_up = False
        self.ended = 0
        """How many are over."""

    @property
    def is_on(self) -> bool:
        """Whether the store fails, as far as is known."""
        return self._since is not None

    @property
    def is_waited_for(self) -> bool:
        """Whether something that was executed waits to be written."""
        return self._waiting > 0

    @property
    def holds_claims(self) -> bool:
        """Whether nothing is to be claimed yet, since what waits to be written tells whether the store works."""
        return self._since is not None and self._waiting > 0 and self._loop.time() < self._since + FIRST_S

    def overlap(self, begun: float, now: float) -> float:
        """For how many seconds since `begun` the latest outage has lasted. Safe to call from another thread."""
        since = self._since
        start, end = self._latest if since is None else (since, now)
        return max(0.0, end - max(begun, start))

    def failed(self, error: StoreError) -> None:
        """The store could not carry something out."""
        if self._since is None:
            self._since = self._loop.time()
            if (tell := self._observers.store_away) is not None:
                tell(error, False)

    def works(self) -> None:
        """The store has taken a write."""
        if self._since is not None:
            now = self._loop.time()
            if (tell := self._observers.store_back) is not None:
                tell(int((now - self._since) * 1000), False)
            self._latest, self._since, self._tries = (self._since, now), None, 0
            self.ended += 1
            self._release()

    async def pause(self) -> None:
        """Wait until it is time to try again: after a while that grows, and at once when the store works."""
        if self._round is None or self._round.is_set():
            self._round = asyncio.Event()
            self._loop.call_later(self._delay(self._tries), self._round.set)
            self._tries += 1
        await self._round.wait()

    async def insist(self, ask: Callable[[], Awaitable[T]], error: StoreError) -> T:
        """What `ask` answers once the store can; it has failed with `error`.

        Raises:
            StoreError: it is refused for good, or nobody waits for the store any more.
        """
        self._waiting += 1
        tries = 0
        try:
            self.failed(error)
            while not self._given_up:
                if self.is_on:
                    await self.pause()
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
            self._waiting -= 1

    async def insist_on_step(self, ask: Callable[[], Awaitable[T]], error: StoreError) -> T:
        """The same for what tells that the store works."""
        answer = await self.insist(ask, error)
        self.works()
        return answer

    def give_up(self) -> None:
        """The worker stops: nobody waits for the store any more."""
        self._given_up = True
        self._release()

    def _release(self) -> None:
        if self._round is not None:
            self._round.set()

    @staticmethod
    def _delay(tries: int) -> float:
        return BACKOFF_S[min(tries, len(BACKOFF_S) - 1)]


async def until_there(ask: Callable[[], Awaitable[T]], observers: Observers) -> T:
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
            await asyncio.sleep(min(BACKOFF_S[min(tries, len(BACKOFF_S) - 1)] * 2, AWAY_S))
            tries += 1
        else:
            if tries and (tell := observers.store_back) is not None:
                tell(int((asyncio.get_running_loop().time() - begun) * 1000), True)
            return answer
