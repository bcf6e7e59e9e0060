"""The work of an app in a process of its own, which a test may kill."""

import os
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI
from starlette.types import ASGIApp

from batchflow import Batchflow
from batchflow.engine import engine, worker
from batchflow.qstash import engine as qstash_engine
from batchflow.qstash import relay
from tests.qstash.serving import served

LEASE_MS = 2_000
LISTENER = "LISTENER"
"""The variable with the socket on which QStash calls the app."""


def shorten_leases() -> None:
    """Let others have the claims of this process soon when it is dead."""
    engine.LEASE_MS = LEASE_MS
    worker.Heartbeat = partial(worker.Heartbeat, lease_ms=LEASE_MS)  # pyright: ignore[reportAttributeAccessIssue]
    qstash_engine.LEASE_MS = relay.RELAY_LEASE_MS = LEASE_MS


def _unchanged(app: ASGIApp) -> ASGIApp:
    return app


@asynccontextmanager
async def working(flow: Batchflow, wrap: Callable[[ASGIApp], ASGIApp] = _unchanged) -> AsyncGenerator[None]:
    """Let the app work in the block: by its worker, or on QStash by answering what comes to the socket of the test."""
    if LISTENER not in os.environ:
        async with flow:
            yield
        return
    app = FastAPI(lifespan=flow.lifespan)
    app.include_router(flow.router)
    async with served(wrap(app), socket.socket(fileno=os.dup(int(os.environ[LISTENER])))):
        yield
