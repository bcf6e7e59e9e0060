"""Opens an app for its requests where no server does, as on AWS Lambda."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from fastapi import Request


class RequestOpening:
    """Opens an app for a request, unless it is open, and closes it when the last request of those has ended.

    Nothing of it stays open between requests: a frozen process has no connections, tasks and threads, and the next
    request may come on another event loop. An app that its server has started stays as it is.
    """

    def __init__(
        self,
        start: Callable[[Request], Awaitable[None]],
        stop: Callable[[], Awaitable[None]],
        is_open: Callable[[], bool],
    ) -> None:
        self._start = start
        self._stop = stop
        self._is_open = is_open
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = asyncio.Lock()
        self._requests = 0

    async def opened(self, request: Request) -> AsyncGenerator[None]:
        """A dependency of routes: the app is open until the response is sent.

        Raises:
            BatchflowError: it cannot be opened.
        """
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            # What was under way on another one has ended with it.
            self._loop, self._lock, self._requests = loop, asyncio.Lock(), 0
        lock = self._lock
        async with lock:
            if self._requests == 0 and self._is_open():
                lock = None
            else:
                await self._start(request)
                self._requests += 1
        try:
            yield
        finally:
            if lock is not None:
                self._requests -= 1
                async with lock:
                    if self._requests == 0:
                        await self._stop()
