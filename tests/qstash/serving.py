"""A server of an ASGI app in the event loop of a test, or of a program that a test kills."""

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import uvicorn

from tests.waiting import wait_until


@asynccontextmanager
async def served(app: Any, listener: socket.socket | None = None) -> AsyncGenerator[str]:
    """The URL of a server of an ASGI app, until the end of the block. Processes may share a `listener`."""
    listener = listener or socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, loop="asyncio", log_level="critical"))
    # Of two servers the one that stops last would restore the handler of signals that the other has left, and streams
    # of the whole process end when the server that handles signals has been stopped.
    vars(server)["capture_signals"] = nullcontext
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await wait_until(lambda: server.started or serving.done(), description="the server listens")
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving
