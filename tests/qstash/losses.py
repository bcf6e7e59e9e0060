"""Networks that lose requests and answers, and deliver some requests twice at once."""

import asyncio
from random import Random

import httpx

from batchflow.engine.push_client import PushClient, PushError, PushRequest
from batchflow.engine.push_response import PushResponse
from tests.qstash.stage import APP_URL


class LossyClient:
    """The way of QStash to the app: requests are lost before the app has them, or their answers, or both come twice.

    Requests to third parties, which have the retries of their call alone, are left as they are.
    """

    def __init__(self, inner: PushClient, random: Random) -> None:
        self.inner = inner
        self.random = random
        self.lost = 0
        self.doubled = 0

    async def send(self, request: PushRequest) -> PushResponse:
        if not request.url.startswith(APP_URL):
            return await self.inner.send(request)
        chance = self.random.random()
        if chance < 0.1:
            self.lost += 1
            raise PushError("the app is away", status=503)
        if chance < 0.2:
            self.lost += 1
            self.doubled += 1
            await asyncio.gather(self.inner.send(request), self.inner.send(request))
            raise PushError("the answer is lost", status=503)
        return await self.inner.send(request)

    async def close(self) -> None:
        await self.inner.close()


class LossyTransport(httpx.AsyncBaseTransport):
    """The way of the app to QStash: answers are lost while it `loses`."""

    def __init__(self, inner: httpx.AsyncBaseTransport, random: Random) -> None:
        self.inner = inner
        self.random = random
        self.lost = 0
        self.loses = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self.inner.handle_async_request(request)
        if self.loses and self.random.random() < 0.1:
            self.lost += 1
            await response.aread()
            raise httpx.ReadError("the answer is lost")
        return response
