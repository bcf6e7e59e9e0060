"""An app on QStash and a QStash that die, and a network that loses, doubles and reorders: all in virtual time."""

import asyncio
import json
from base64 import b64decode
from collections.abc import Callable
from datetime import timedelta
from random import Random
from typing import Any
from urllib.parse import urlsplit

import httpx
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message

from batchflow import Batchflow
from batchflow.engine.push_client import PushError, PushRequest
from batchflow.engine.push_response import PushResponse
from batchflow.errors import BatchflowError
from batchflow.testing import FixedEntropy, drive
from tests.qstash.mortal import Fates, MortalStore, Process
from tests.qstash.stage import APP_URL, AppClient, WireStage
from tests.stores.kinds import Kind


class Life(Process):
    """A life of the app: a process with its memory, and its way to QStash, which ends with it."""

    def __init__(self, stage: "MortalStage", number: int) -> None:
        super().__init__()
        self.store = stage.store_of(self)
        own = {} if self.store is None else {"store": self.store}
        self.flow = stage.again(
            transport=LifeTransport(stage, self), entropy=FixedEntropy(number), grace=timedelta(0), **own
        )

    async def answer(self, request: PushRequest) -> PushResponse:
        """What the routes of the app do with a request of QStash."""
        await self.flow.start()
        headers = Headers(dict(request.headers))
        deliveries: Any = vars(self.flow)["_deliveries"]
        route = urlsplit(request.url).path
        try:
            if route == "/deliveries":
                found = await deliveries.wake(request.url, headers, request.body)
            else:
                found = await deliveries.answer(route, request.url, headers, request.body)
        except BatchflowError as error:
            return PushResponse(getattr(error, "status", 500), (), str(error).encode())
        return PushResponse(found.status, tuple(found.headers.items()), found.body)


class LifeTransport(httpx.AsyncBaseTransport):
    """The way of one life of the app to the QStash that lives: answers are lost, and either side dies."""

    def __init__(self, stage: "MortalStage", life: Life) -> None:
        self._stage = stage
        self._life = life

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        stage, life = self._stage, self._life
        await request.aread()
        about = request.url.path, request.content
        await stage.live_on(life, "before", *about)
        server = stage.server_process
        response = await server.run(self._answer(request))
        if life.died.is_set():
            await life.hang()
        if response is None:
            raise httpx.ReadError("the server has died")
        stage.note(request, response)
        await stage.live_on(life, "after", *about)
        if stage.disturbs and stage.fates.chance("answer", *about) < stage.LOSSES:
            stage.lost += 1
            raise httpx.ReadError("the answer is lost")
        return response

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        return await answer_of(self._stage.server, request)


async def answer_of(app: ASGIApp, request: httpx.Request) -> httpx.Response:
    """What an app answers, in a fraction of the time that the transport of httpx takes."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "scheme": request.url.scheme,
        "path": request.url.path,
        "raw_path": request.url.raw_path.partition(b"?")[0],
        "query_string": request.url.query,
        "server": (request.url.host, request.url.port),
        "client": ("127.0.0.1", 123),
        "root_path": "",
    }
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": request.content, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start, *bodies = sent
    return httpx.Response(
        start["status"], headers=start["headers"], content=b"".join(it.get("body", b"") for it in bodies)
    )


class MortalClient(AppClient):
    """The way of QStash to the life of the app that lives: requests, or their answers, are lost, doubled and late."""

    def __init__(self, stage: "MortalStage") -> None:
        super().__init__()
        self._stage = stage

    async def send(self, request: PushRequest) -> PushResponse:
        """See the port."""
        if not request.url.startswith(APP_URL):
            return await self.third_party(request)
        stage = self._stage
        about = delivery_of(request)
        chance = stage.fates.chance("request", *about) if stage.disturbs else 1
        if chance < stage.LOSSES:
            stage.lost += 1
            raise PushError("the app is away", status=503)
        if stage.disturbs and stage.fates.chance("late", *about) < stage.LOSSES:
            for _ in range(60):
                await asyncio.sleep(0)
        life = stage.life
        if chance < 2 * stage.LOSSES:
            stage.lost += 1
            stage.doubled += 1
            await asyncio.gather(life.run(self._answer(life, request)), life.run(self._answer(life, request)))
            raise PushError("the answer is lost", status=503)
        response = await life.run(self._answer(life, request))
        if response is None:
            raise PushError("the connection is broken", status=503)
        self.answers.append(response.status)
        return response

    async def third_party(self, request: PushRequest) -> PushResponse:
        """Whoever else QStash calls."""
        assert self.elsewhere is not None, request.url
        return await self.elsewhere(request)

    async def _answer(self, life: Life, request: PushRequest) -> PushResponse:
        stage, about = self._stage, delivery_of(request)
        await stage.live_on(life, "arrival", *about)
        stage.on_arrival(request)
        response = await life.answer(request)
        await stage.live_on(life, "end", *about)
        return response


def delivery_of(request: PushRequest) -> tuple[object, ...]:
    """What a delivery is about, without ids and times: the payload of its run, and its number of entries."""
    match json.loads(request.body or b"null"):
        case [{"body": str(first)}, *rest]:
            last: Any = rest[-1].get("body", "") if rest else ""
            name = json.loads(b64decode(last) or b"{}").get("stepName", "")
            return urlsplit(request.url).path, first, len(rest), name
        case other:
            return urlsplit(request.url).path, json.dumps(other), 0, ""


class MortalStage(WireStage):
    """A stage whose app and QStash die. `declare` adds what an app serves to each life of it.

    The same `seed` disturbs the same things in the same way. Nothing is disturbed unless it `disturbs`.
    """

    LOSSES = 0.08
    """The share of requests that are lost, of those that come twice, and of answers that are lost."""
    DEATHS = 1 / 600
    """The share of the moments of a request at which the app dies."""
    SERVER_LIFE = 200, 1_500
    """The least and the largest number of verbs after which a QStash dies."""
    APP_LIFE = 30, 400
    """Those after which the app dies, if it has a store."""

    def __init__(self, kind: Kind, seed: object, **options: Any) -> None:
        self.fates = Fates(seed)
        self.disturbs = False
        self.lost = self.doubled = self.server_deaths = 0
        self.declare: Callable[[Batchflow], object] = lambda flow: None
        self.lives: list[Life] = []
        self._random = Random(f"{seed} server")
        super().__init__(kind, **options)
        self.durable = self.store
        self.client = MortalClient(self)
        self._servers: list[Batchflow] = []
        self.server_process = Process()
        self._start_server(None)

    # The app

    @property
    def life(self) -> Life:
        """The app that lives: who has died is followed by another life."""
        if self.lives[-1].died.is_set():
            self._begin_life()
        return self.lives[-1]

    @property
    def deaths(self) -> int:
        """The number of lives that have ended."""
        return sum(it.died.is_set() for it in self.lives)

    async def open(self) -> None:
        """Begin the first life of the app."""
        self._begin_life()
        await self.flow.start()

    def _begin_life(self) -> None:
        self.lives.append(Life(self, len(self.lives)))
        self.flow = self.life.flow
        self.declare(self.flow)

    async def live_on(self, life: Life, *moment: object) -> None:
        """Go on in a life of the app, unless it ends here."""
        if self.disturbs and not life.died.is_set() and self.fates.chance(*moment) < self.DEATHS:
            life.kill()
        if life.died.is_set():
            await life.hang()

    def disturb(self) -> None:
        """Begin to disturb."""
        self.disturbs = True
        self._mortal.last = self._random.randint(*self.SERVER_LIFE)
        if (store := self.life.store) is not None:
            store.last = self._random.randint(*self.APP_LIFE)

    def calm(self) -> None:
        """End the disturbances."""
        self.disturbs = False
        self._mortal.last = None
        if (store := self.life.store) is not None:
            store.last = None

    def store_of(self, life: Life) -> MortalStore | None:
        """The store of batches, as a life of the app has it."""
        return None

    def note(self, request: httpx.Request, response: httpx.Response) -> None:
        """Called when QStash has answered a request of the app."""

    def on_arrival(self, request: PushRequest) -> None:
        """Called in the task that answers a request of QStash, when it arrives."""

    # QStash

    def _start_server(self, last: int | None) -> None:
        self.server_process = Process()
        store = MortalStore(self.durable, self.server_process, last, is_done=self._random.random() < 0.5)
        self.qstash = Batchflow(store, clock=self.clock, worker=False, entropy=FixedEntropy(1_000 + len(self._servers)))
        self._servers.append(self.qstash)
        self._mortal = store
        self.qstash.engine.push_client = self.client
        self.server = self.qstash.server
        self.transport = httpx.ASGITransport(self.server)

    async def drive(self, *, ms: int | None = None) -> None:
        """See the stage; whoever dies on the way is followed by another life."""
        until = None if ms is None else self.clock.now() + ms
        while True:
            process = self.server_process
            driving = asyncio.ensure_future(drive(self.qstash, self.clock, until=until))
            death = asyncio.ensure_future(process.died.wait())
            await asyncio.wait({driving, death}, return_when=asyncio.FIRST_COMPLETED)
            death.cancel()
            if process.died.is_set():
                await asyncio.wait({driving}, timeout=0.5)
                driving.cancel()
                await asyncio.gather(driving, return_exceptions=True)
                self.server_deaths += 1
                process.kill()
                process.bury()
                self._start_server(self._random.randint(*self.SERVER_LIFE) if self.disturbs else None)
                await self.qstash.start(worker=False)
            else:
                await driving
                if not self.life.tasks:
                    return
                # What goes on though nobody waits for the answer may give QStash more to do.
                await asyncio.wait(self.life.tasks)

    async def __aexit__(self, *_: object) -> None:
        self.calm()
        for life in self.lives:
            if life.died.is_set():
                life.bury()
            elif life.store is not None:
                life.store.last = None
            await life.flow.stop()
        for server in self._servers:
            await server.stop()
        await self.durable.close()
