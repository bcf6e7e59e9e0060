"""An ASGI app, served by uvicorn until a signal comes."""

import asyncio
import math
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import uvicorn

from batchflow.cli.process import SignalHandler

KEEP_ALIVE_S = 75
"""The time that an idle connection is kept: longer than clients keep theirs, 4 s in JavaScript, so that they end it."""


class HttpServer(uvicorn.Server):
    """A server that leaves the signals to the command."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """See `uvicorn.Server`."""
        yield


async def serve_http(
    app: Any,
    listener: socket.socket,
    signals: SignalHandler,
    *,
    grace_seconds: float,
    on_stop: Callable[[], None],
) -> None:
    """Serve the app until a signal comes; then call `on_stop`, and give the requests under way the grace to end."""
    config = uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(grace_seconds),
    )
    server = HttpServer(config)
    serving = asyncio.create_task(server.serve([listener]))
    await signals.wait_for(serving)
    on_stop()
    server.should_exit = True
    await serving
