"""Notifications of changes: to subscribers in this process, from it and from other processes."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, cast

from redis.exceptions import NoPermissionError

from batchflow.core.settlement import Notice
from batchflow.stores.redis.clients import Client
from batchflow.stores.redis.errors import ERRORS

FIRST_NOTICE_S = 0.25
"""A new subscriber is notified once after this time, of changes that it may have missed."""

RESUBSCRIBE_S = 0.5
"""The pause before a lost subscription is made again."""


class ChangeNotifier:
    """Notifies subscribers, also of changes by other stores of the namespace once `listen` was called."""

    def __init__(self) -> None:
        self._subscribers: list[Callable[[bool], None]] = []
        self._notice_subscribers: list[Callable[[Notice], None]] = []
        self._task: asyncio.Task[None] | None = None
        self._heard = asyncio.Event()

    def subscribe(self, callback: Callable[[bool], None]) -> Callable[[], None]:
        """Have `callback` called at each change; returns a function that ends this."""
        self._subscribers.append(callback)
        try:
            look = asyncio.get_running_loop().call_later(FIRST_NOTICE_S, self._look, callback)
        except RuntimeError:
            look = None

        def end() -> None:
            if look is not None:
                look.cancel()
            if callback in self._subscribers:
                self._subscribers.remove(callback)

        return end

    def notify(self, foreign: bool) -> None:
        """Notify all subscribers of a change."""
        for callback in tuple(self._subscribers):
            callback(foreign)

    def subscribe_to_notices(self, callback: Callable[[Notice], None]) -> Callable[[], None]:
        """Have `callback` called with each notice of this store's verbs; returns a function that ends this."""
        self._notice_subscribers.append(callback)
        return lambda: self._notice_subscribers.remove(callback)

    def report(self, notices: Sequence[Notice]) -> None:
        """Pass notices on to their subscribers."""
        for callback in tuple(self._notice_subscribers):
            for notice in notices:
                callback(notice)

    def _look(self, callback: Callable[[bool], None]) -> None:
        if self._task is not None and callback in self._subscribers:
            callback(True)

    async def listen(self, client: Client, channel: str, number: int, returned: Callable[[], None]) -> None:
        """Listen to other stores; `number` is this store's own. `returned` is called when a lost connection is back.

        Raises:
            NoPermissionError: the user may not subscribe to the channel.
        """
        self._heard.clear()
        listening = self._listen(client, channel, str(number), returned)
        self._task = asyncio.create_task(listening, name="batchflow-redis-changes")
        heard = asyncio.ensure_future(self._heard.wait())
        await asyncio.wait({heard, self._task}, timeout=5, return_when=asyncio.FIRST_COMPLETED)
        heard.cancel()
        if self._task.done():
            await self._task

    async def stop(self) -> None:
        """Stop listening."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, NoPermissionError):
                await task

    async def _listen(self, client: Client, channel: str, number: str, returned: Callable[[], None]) -> None:
        # Checked in each round, since redis-py sometimes swallows a cancellation.
        while self._task is not None:
            # The verbs report a lost connection; here it only means to subscribe again.
            try:
                await self._hear(client, channel, number, returned)
            except NoPermissionError:
                if not self._heard.is_set():
                    raise
            except ERRORS:
                pass
            await asyncio.sleep(RESUBSCRIBE_S)

    async def _hear(self, client: Client, channel: str, number: str, returned: Callable[[], None]) -> None:
        pubsub = cast(Any, client).pubsub()
        try:
            await pubsub.subscribe(channel)
            while self._task is not None:
                message = await pubsub.get_message(timeout=None)
                if message is None:
                    continue
                if message["type"] == "subscribe":
                    # After a lost connection too: notifications of the meantime are lost.
                    if self._heard.is_set():
                        returned()
                        self.notify(True)
                    self._heard.set()
                elif message["type"] == "message" and _text(message["data"]) != number:
                    self.notify(True)
        finally:
            with contextlib.suppress(*ERRORS):
                await pubsub.aclose()


def _text(data: object) -> str:
    return data.decode() if isinstance(data, bytes) else str(data)
