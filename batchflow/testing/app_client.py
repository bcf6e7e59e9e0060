"""The way of the QStash of a test to the app and to third parties, without sockets."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Protocol

import httpx
from fastapi import FastAPI

from batchflow.core.call import Body, CallRequest
from batchflow.core.message import Claim
from batchflow.core.ports import Observer
from batchflow.core.posts import PUSH_DESTINATION
from batchflow.engine.caller import call_error
from batchflow.engine.push_client import PushError, PushRequest
from batchflow.engine.push_response import PushResponse
from batchflow.errors import NonRetryable
from batchflow.testing.faults import FaultPlan
from batchflow.testing.stubs import StubCaller
from batchflow.wire.envelope import Envelope
from batchflow.wire.submissions import own_id

APP_URL = "https://app.test"
"""The address of the app in a test, where its router is."""


async def send_by_asgi(app: FastAPI, request: PushRequest) -> PushResponse:
    """Send a request to an app without sockets, and read the response."""
    headers = [(name.encode(), value.encode()) for name, value in request.headers]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as http:
        response = await http.request(request.method, request.url, headers=headers, content=request.body)
    return PushResponse(response.status_code, tuple(response.headers.items()), response.content)


class PushedPosts(Observer):
    """The posts that QStash sends, by the ids of their messages."""

    def __init__(self) -> None:
        self._envelopes: dict[str, Envelope] = {}

    def claimed(self, claim: Claim) -> None:
        """See the port."""
        if claim.destination == PUSH_DESTINATION:
            self._envelopes[claim.id] = Envelope.of_text(claim.body)

    def of(self, request: PushRequest) -> Envelope:
        """Return the post of a request."""
        ids = [value for name, value in request.headers if name.lower() == "upstash-message-id"]
        return self._envelopes[ids[0]]


class _Twins:
    """Two deliveries of one request: neither writes a step before the other one has executed it too, or has ended."""

    def __init__(self) -> None:
        self._missing = 2
        self._met = asyncio.Event()

    async def meet(self) -> None:
        """Wait for the other one; nothing after the first time."""
        self.end()
        await self._met.wait()

    def end(self) -> None:
        """One of them does not write any more."""
        self._missing -= 1
        if self._missing <= 0:
            self._met.set()


TWINS: ContextVar[_Twins | None] = ContextVar("batchflow_twins", default=None)
"""The deliveries, of which the present one is one, if there are two."""


class Process(Protocol):
    """One life of the process of the app."""

    @property
    def died(self) -> asyncio.Event:
        """Set when it has crashed."""
        ...


class AppClient:
    """Sends the requests of QStash: those to the app by ASGI, all others to the stubs of calls.

    `process` is the present one; `restart` starts another one in its place. `calls` are the calls that steps have
    begun, by run and number.
    """

    def __init__(
        self,
        posts: PushedPosts,
        caller: StubCaller,
        faults: FaultPlan,
        calls: Mapping[tuple[str, int], CallRequest],
        process: Callable[[], Process],
        restart: Callable[[Process], Awaitable[None]],
    ) -> None:
        self.app: FastAPI | None = None
        """The app, once it is there."""
        self._posts = posts
        self._caller = caller
        self._faults = faults
        self._calls = calls
        self._process = process
        self._restart = restart

    async def send(self, request: PushRequest) -> PushResponse:
        """See the port."""
        envelope = self._posts.of(request)
        if not request.url.startswith(f"{APP_URL}/"):
            return await self._call(request, envelope)
        if _is_delivery(request, envelope) and self._faults.count_delivery():
            twins = _Twins()
            answers = (self._deliver(request, twins) for _ in range(2))
            for answer in await asyncio.gather(*answers, return_exceptions=True):
                if isinstance(answer, BaseException):
                    raise answer
                return answer
        return await self._deliver(request)

    async def close(self) -> None:
        """See the port: nothing is kept open."""

    async def _deliver(self, request: PushRequest, twins: _Twins | None = None) -> PushResponse:
        """Let the process of the app answer, unless it crashes meanwhile."""
        assert self.app is not None
        process = self._process()
        TWINS.set(twins)
        answering = asyncio.ensure_future(send_by_asgi(self.app, request))
        death = asyncio.ensure_future(process.died.wait())
        try:
            await asyncio.wait([answering, death], return_when=asyncio.FIRST_COMPLETED)
            if not process.died.is_set():
                return answering.result()
        finally:
            death.cancel()
            if twins is not None:
                twins.end()
            if not answering.done():
                answering.cancel()
                # The cancellation of a test would hit this await, and what runs has to end all the same.
                await asyncio.shield(asyncio.gather(answering, return_exceptions=True))
        await self._restart(process)
        raise PushError("the process of the app has crashed, as the test wants it")

    async def _call(self, request: PushRequest, envelope: Envelope) -> PushResponse:
        """Make a call of a run, or tell a failure URL."""
        run = "" if envelope.run is None else own_id(envelope.run.run)
        number = _step_number(envelope)
        known = self._calls.get((run, number))
        if known is None:
            body = Body.of(request.body)
            known = CallRequest(
                step="failure_url", method=request.method, url=request.url, headers=dict(request.headers), body=body
            )
        try:
            answer = await self._caller.call(known, f"{run}.{number or 'x'}")
        except NonRetryable as error:
            raise PushError(str(error), final=True) from error
        except Exception as error:
            raise PushError(call_error(error, known)) from error
        return PushResponse(answer.status, tuple(answer.headers.items()), answer.body.content)


def _is_delivery(request: PushRequest, envelope: Envelope) -> bool:
    """True for what executes something: a step, a message of a batch, a failure function."""
    if envelope.run is None:
        return b'"message"' in request.body
    return envelope.run.call_type != "fromCallback"


def _step_number(envelope: Envelope) -> int:
    """The number of the step that makes a call, as its callback has it; 0 for others."""
    callback = envelope.callback
    return 0 if callback is None else int(callback.headers.get("upstash-forward-upstash-workflow-stepid", 0))
