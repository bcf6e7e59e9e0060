"""Requests of QStash to an app whose process need not live on: as events of AWS Lambda, and to a container."""

import asyncio
import threading
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Any, Literal, cast
from urllib.parse import urlsplit

import httpx
from fastapi import FastAPI
from mangum import Mangum

from batchflow.engine.push_client import PushRequest
from batchflow.engine.push_response import PushResponse
from tests.qstash.serving import served
from tests.qstash.stage import APP_URL, AppClient

Event = dict[str, Any]

ENDING_S = 5.0
"""The seconds in which a thread has to end that was told to."""


def event_of(request: PushRequest) -> Event:
    """The event of a request, as a function URL and an HTTP API of the gateway make it (payload version 2.0)."""
    url = urlsplit(request.url)
    headers: dict[str, str] = {"host": url.netloc, "x-forwarded-proto": url.scheme, "x-forwarded-port": "443"}
    for name, value in request.headers:
        known = headers.get(name.lower())
        headers[name.lower()] = value if known is None else f"{known},{value}"
    is_text = headers.get("content-type", "").startswith(("text/", "application/json"))
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": url.path,
        "rawQueryString": url.query,
        "headers": headers,
        "requestContext": {
            "domainName": url.netloc,
            "http": {"method": request.method, "path": url.path, "protocol": "HTTP/1.1", "sourceIp": "203.0.113.7"},
            "stage": "$default",
        },
        "body": request.body.decode() if is_text else b64encode(request.body).decode(),
        "isBase64Encoded": not is_text,
    }


class LambdaClient(AppClient):
    """Makes an invocation of each request of QStash, in a thread, as the process that Lambda runs it in.

    `make` makes the app. With `image="new"` each invocation gets an app of its own, as of another process; "kept" is
    one process, and so is "new loop", whose adapter makes an event loop for each invocation.
    """

    def __init__(self, make: Callable[[], FastAPI], lifespan: Literal["auto", "off"], image: str) -> None:
        super().__init__()
        self.left: list[str] = []
        """What was left running by invocations: tasks and threads."""
        self._make = make
        self._lifespan: Literal["auto", "off"] = lifespan
        self._image = image
        self._loop = asyncio.new_event_loop()
        self._handler: Mangum | None = None
        # A process has one invocation at a time.
        self._turn = asyncio.Lock()

    async def send(self, request: PushRequest) -> PushResponse:
        """See the port."""
        self.requests.append(request)
        async with self._turn:
            answer = await asyncio.to_thread(self._invoke, event_of(request))
        body = str(answer.get("body", ""))
        headers: dict[str, str] = answer.get("headers", {})
        content = b64decode(body) if answer["isBase64Encoded"] else body.encode()
        self.answers.append(answer["statusCode"])
        response = PushResponse(answer["statusCode"], tuple(headers.items()), content)
        return self.after(request, response)

    def _invoke(self, event: Event) -> dict[str, Any]:
        if self._image == "new loop":
            self._loop.close()
            self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        if self._handler is None or self._image == "new":
            self._handler = Mangum(self._make(), lifespan=self._lifespan)
        before = set(threading.enumerate())
        try:
            return self._handler(event, cast("Any", None))
        finally:
            self.left += [str(task) for task in asyncio.all_tasks(self._loop) if not task.done()]
            for thread in threading.enumerate():
                # Those of AnyIO stay for the next request, until their loop ends.
                if thread not in before and thread.name.startswith("batchflow"):
                    thread.join(ENDING_S)
                    self.left += [thread.name] if thread.is_alive() else []
            asyncio.set_event_loop(None)

    async def close(self) -> None:
        """See the port."""
        self._loop.close()


class ContainerClient(AppClient):
    """Starts a container for each request of QStash, with an app that `make` makes, and stops it after the answer."""

    def __init__(self, make: Callable[[], FastAPI]) -> None:
        super().__init__()
        self._make = make

    async def send(self, request: PushRequest) -> PushResponse:
        """See the port."""
        self.requests.append(request)
        async with served(self._make()) as url, httpx.AsyncClient() as http:
            response = await http.request(
                request.method,
                request.url.replace(APP_URL, url),
                headers=[*request.headers, ("Host", urlsplit(APP_URL).netloc)],
                content=request.body,
            )
        self.answers.append(response.status_code)
        return PushResponse(response.status_code, tuple(response.headers.items()), response.content)


class OtherLoop(httpx.AsyncBaseTransport):
    """Sends requests to an ASGI app of the event loop that made this, from any other."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self.paths: list[str] = []
        """The paths of the requests."""
        self._transport = transport
        self._loop = asyncio.get_running_loop()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See the port."""
        await request.aread()
        self.paths.append(request.url.path)
        there = asyncio.run_coroutine_threadsafe(self._answer(request), self._loop)
        status, headers, content = await asyncio.wrap_future(there)
        return httpx.Response(status, headers=headers, content=content)

    async def _answer(self, request: httpx.Request) -> tuple[int, httpx.Headers, bytes]:
        response = await self._transport.handle_async_request(request)
        return response.status_code, response.headers, await response.aread()
