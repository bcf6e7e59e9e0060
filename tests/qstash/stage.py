"""An app on QStash, and a QStash of ours that calls it: in virtual time, without sockets."""

import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any

import httpx
from fastapi import FastAPI

from batchflow import Batchflow, QStash
from batchflow.core.ports import Clock
from batchflow.engine.push_client import PushRequest
from batchflow.engine.push_response import PushResponse
from batchflow.testing import FixedEntropy, ManualClock, drive
from batchflow.testing.app_client import send_by_asgi
from tests.stores.kinds import Kind, made

APP_URL = "https://app.example.com"
TENANT = "acme"


class AppClient:
    """Delivers the requests of QStash to an ASGI app, unless `lose` says that one is lost, before or after it."""

    def __init__(self) -> None:
        self.app: FastAPI | None = None
        self.url = APP_URL
        self.requests: list[PushRequest] = []
        self.answers: list[int] = []
        self.elsewhere: Callable[[PushRequest], Awaitable[PushResponse]] | None = None
        self.after: Callable[[PushRequest, PushResponse], PushResponse] = lambda _, response: response

    async def send(self, request: PushRequest) -> PushResponse:
        if not request.url.startswith(self.url):
            assert self.elsewhere is not None, request.url
            return await self.elsewhere(request)
        assert self.app is not None
        self.requests.append(request)
        response = await send_by_asgi(self.app, request)
        self.answers.append(response.status)
        return self.after(request, response)

    async def close(self) -> None:
        """Nothing is kept open."""


class WireStage:
    """A QStash of the store `kind`, and an app that uses it; `async with` opens both.

    With `batches` the app has a store of that kind for its batches; `url` is that of the server of stores.
    """

    def __init__(self, kind: Kind = "sqlite", *, batches: bool = False, url: str | None = None, **options: Any) -> None:
        self.clock = ManualClock()
        self.app_clock: Clock = self.clock
        """That of the app."""
        self.client = AppClient()
        self.store = made(kind, self.clock, url)
        self.qstash = Batchflow(self.store, clock=self.clock, worker=False, entropy=FixedEntropy())
        self.qstash.engine.push_client = self.client
        self.server = self.qstash.server
        self.transport: httpx.AsyncBaseTransport = httpx.ASGITransport(self.server)
        """The way of the app to QStash."""
        if batches:
            options["store"] = made(kind, self.clock, url)
        self._options = options
        self.keys: Mapping[str, str] = {}
        self.token = ""

    async def __aenter__(self) -> "WireStage":
        await self.qstash.start(worker=False)
        self.token = token = await self.server.tokens.create(TENANT)
        async with httpx.AsyncClient(transport=self.transport, headers={"authorization": f"Bearer {token}"}) as http:
            self.keys = (await http.get("http://qstash.test/v2/keys")).json()
        self.flow = self.again()
        return self

    def again(
        self,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        entropy: FixedEntropy | None = None,
        grace: timedelta | None = None,
        **options: Any,
    ) -> Batchflow:
        """Another app of the same QStash, as after a deploy; with another way to QStash, if one is given."""
        return Batchflow(
            QStash(
                url="http://qstash.test",
                token=self.token,
                current_signing_key=self.keys["current"],
                next_signing_key=self.keys["next"],
                transport=transport or self.transport,
                **{**self._options, **options},
            ),
            clock=self.app_clock,
            entropy=entropy or FixedEntropy(),
            grace=grace,
        )

    async def open(self) -> None:
        """Start the app, once its functions are declared."""
        self.client.app = FastAPI()
        self.client.app.include_router(self.flow.router)
        await self.flow.start()

    async def __aexit__(self, *_: object) -> None:
        await self.flow.stop()
        await self.qstash.stop()

    async def drive(self, *, ms: int | None = None) -> None:
        """Deliver what is due, jump to what is due next, and so on."""
        await drive(self.qstash, self.clock, until=None if ms is None else self.clock.now() + ms)

    def console(self) -> httpx.AsyncClient:
        """A client of QStash, with the token of the app."""
        headers = {"authorization": f"Bearer {self.token}"}
        return httpx.AsyncClient(transport=self.transport, base_url="http://qstash.test", headers=headers)

    def operator(self) -> httpx.AsyncClient:
        """A client of the app on its own machine."""
        assert self.client.app is not None
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.client.app), base_url="http://127.0.0.1")

    @property
    def bodies(self) -> list[Any]:
        """The bodies of the requests to the app."""
        return [json.loads(it.body) for it in self.client.requests]
