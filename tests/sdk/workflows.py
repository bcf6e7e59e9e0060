"""Workflows on the official Python SDK, served by FastAPI, with what has arrived there."""

import socket
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import uvicorn
from fastapi import FastAPI, Request, Response
from qstash import AsyncQStash
from qstash import Receiver as Verifier
from upstash_workflow import AsyncWorkflowContext  # pyright: ignore[reportMissingTypeStubs]
from upstash_workflow.fastapi import Serve  # pyright: ignore[reportMissingTypeStubs]

from tests.waiting import wait_until_sync

Context: TypeAlias = AsyncWorkflowContext[Any]
Workflow: TypeAlias = Callable[[Context], Awaitable[None]]


@dataclass(eq=False)
class WorkflowRequest:
    """A request that has arrived, with the names of the steps that were executed in it. Times are in ms."""

    path: str
    headers: Mapping[str, str]
    started_at: int
    ended_at: int | None = None
    status: int | None = None
    steps: list[str] = field(default_factory=list[str])

    @property
    def run(self) -> str | None:
        return self.headers.get("upstash-workflow-runid")


_CURRENT: ContextVar[WorkflowRequest] = ContextVar("current")


def executed(name: str) -> None:
    """Record that the body of a step was executed in the current request."""
    _CURRENT.get().steps.append(name)


class WorkflowServer:
    """The server, on a free port, in a thread. It verifies signatures, and asks for retries at once."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.requests: list[WorkflowRequest] = []
        self._app = FastAPI(lifespan=self._open)
        self._app.middleware("http")(self._record)
        self._serve = Serve(self._app)
        self._client = AsyncQStash(environment["QSTASH_TOKEN"], base_url=environment["QSTASH_URL"])
        self._verifier = Verifier(environment["QSTASH_CURRENT_SIGNING_KEY"], environment["QSTASH_NEXT_SIGNING_KEY"])
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._server = uvicorn.Server(
            uvicorn.Config(self._app, loop="asyncio", log_level="critical", timeout_keep_alive=60)
        )
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]})
        self._thread.start()
        wait_until_sync(lambda: self._server.started, description="the endpoint listens")

    def add(self, workflow: Workflow, **options: Any) -> str:
        """The URL of a workflow."""
        path = f"/{workflow.__name__}"
        post: Callable[..., Callable[[Workflow], Workflow]] = getattr(self._serve, "post")  # noqa: B009
        post(path, qstash_client=self._client, receiver=self._verifier, **options)(workflow)
        return self.url + path

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join()

    @asynccontextmanager
    async def _open(self, _: FastAPI) -> AsyncGenerator[None]:
        yield
        # It has no verb for that, and FastAPI keeps the endpoints that have it for long after the app.
        await vars(self._client.http)["_client"].aclose()

    async def _record(self, request: Request, proceed: Callable[[Request], Awaitable[Response]]) -> Response:
        record = WorkflowRequest(request.url.path, dict(request.headers), _now())
        self.requests.append(record)
        _CURRENT.set(record)
        response = await proceed(request)
        if response.status_code >= 500:
            response.headers["Retry-After"] = "0"
        record.status, record.ended_at = response.status_code, _now()
        return response


def _now() -> int:
    return time.time_ns() // 1_000_000
