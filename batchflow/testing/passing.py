"""A store in front of a store: all verbs go one way, on which a subclass can stand in it."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

from batchflow.core.run import Step
from batchflow.core.settlement import Effect, Settled, Settlement
from batchflow.core.store import Renew, Store, Verdict

T = TypeVar("T")


class Died(BaseException):
    """The process died at a verb, as the test wanted. What `drive` raises; no `except Exception` stops it."""


_NO_VERBS = {"close", "lasting", "on_change", "renewing"}
VERBS = (*(name for name in dir(Store) if not name.startswith("_") and name not in _NO_VERBS), "renew")
"""The verbs of a store that can fail."""

_Verbs: Any = object
"""A store to whoever checks types, without writing its verbs out."""


class PassingStore(_Verbs):
    """Hands every verb on to `store`, as one process does.

    Once `died` is set the process is gone: the call at which it died and all later ones never return, and nothing
    reaches the store any more.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.died = asyncio.Event()
        self._settling: list[asyncio.Future[Any]] = []

    # What happens at a verb

    async def _through(self, verb: str, call: Callable[[], Awaitable[T]]) -> T:
        """Every verb but `renewing` goes through here."""
        if self.died.is_set():
            await self._gone(verb)
        answer = await call()
        if self.died.is_set():
            await self._gone(verb)
        return answer

    def _written(self, verb: str, call: Callable[[], Awaitable[T]]) -> Awaitable[T]:
        # Not a task that would be left over at the end of the test.
        return self._gone(verb) if self.died.is_set() else self._through(verb, call)

    async def _die(self, verb: str) -> None:
        self.died.set()
        await self._gone(verb)

    def _gone(self, verb: str) -> "asyncio.Future[Any]":
        """Never resolves; a task that is being cancelled, as at the end of a test, is let go."""
        future = asyncio.get_running_loop().create_future()
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            future.cancel()
        elif verb == "settle":
            self._settling.append(future)
        return future

    def bury(self) -> None:
        """Let go of the settlements that never return, once it has died."""
        settling, self._settling = self._settling, []
        for future in settling:
            future.cancel()

    def __getattr__(self, verb: str) -> Any:
        if verb not in VERBS:
            raise AttributeError(f"a store has no verb '{verb}'", name=verb, obj=self)
        call: Callable[..., Awaitable[Any]] = getattr(self.store, verb)

        def pass_on(*arguments: Any, **options: Any) -> Awaitable[Any]:
            return self._through(verb, lambda: call(*arguments, **options))

        return pass_on

    # What is no verb that goes through, or goes another way

    @property
    def lasting(self) -> bool:
        """See the protocol."""
        return self.store.lasting

    async def close(self) -> None:
        """See the protocol; works in every state, so that a test can tidy up."""
        await self.store.close()

    def on_change(self, callback: Callable[[bool], None]) -> Callable[[], None]:
        """See the protocol."""
        return self.store.on_change(callback)

    def renewing(self) -> AbstractAsyncContextManager[Renew]:
        """See the protocol."""
        return self.store.renewing()

    def record(self, claim: str, fence: int, step: Step, effects: tuple[Effect, ...] = ()) -> Awaitable[Verdict]:
        """See the protocol."""
        return self._written("record", lambda: self.store.record(claim, fence, step, effects))

    def settle(self, settlement: Settlement) -> Awaitable[Settled]:
        """See the protocol."""
        return self._written("settle", lambda: self.store.settle(settlement))
