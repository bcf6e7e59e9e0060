"""Apps that serve everything in `samples`, and clients for them."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient

from batchflow import Batchflow
from batchflow.core.secrets import revealed_value
from tests.http.samples import PREFIX, serve_all
from tests.waiting import wait_until


@pytest.fixture
async def flow() -> AsyncIterator[Batchflow]:
    """A started app with a worker."""
    flow = Batchflow("sqlite://")
    serve_all(flow)
    async with flow:
        yield flow


@pytest.fixture
async def idle() -> AsyncIterator[Batchflow]:
    """A started app without a worker."""
    flow = Batchflow("sqlite://", worker=False)
    serve_all(flow)
    async with flow:
        yield flow


def app_of(flow: Batchflow) -> FastAPI:
    """An app with the router below the prefix."""
    app = FastAPI()
    app.include_router(flow.router, prefix=PREFIX)
    return app


def client_of(flow: Batchflow) -> AsyncClient:
    """A client whose paths are below the prefix."""
    return AsyncClient(transport=ASGITransport(app_of(flow)), base_url=f"http://test{PREFIX}")


def scope_of(method: str, path: str) -> dict[str, Any]:
    """The ASGI scope of a request."""
    path = f"{PREFIX}{path}"
    return {
        "type": "http",
        "http_version": "1.1",
        "scheme": "http",
        "server": ("test", 80),
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [],
    }


@pytest.fixture
async def http(flow: Batchflow) -> AsyncIterator[AsyncClient]:
    """A client of `flow`."""
    async with client_of(flow) as client:
        yield client


@pytest.fixture
async def idle_http(idle: Batchflow) -> AsyncIterator[AsyncClient]:
    """A client of `idle`."""
    async with client_of(idle) as client:
        yield client


async def webhook_of(flow: Batchflow, run: str) -> str:
    """The URL of the webhook, once it is made."""
    urls: list[str] = []

    async def made() -> bool:
        found = await flow.engine.store.run(run)
        assert found is not None
        urls[:] = [revealed_value(it.value)["url"] for it in found.journal if it.name == "make" and it.value]
        return bool(urls)

    await wait_until(made, description="the webhook is made")
    return urls[0]
