"""A server over a store in memory, whose time stands still, with two tenants and a client of each."""

from collections.abc import AsyncIterator

import pytest
from httpx import ASGITransport, AsyncClient

from batchflow.engine.engine import Engine
from batchflow.engine.options import EngineOptions
from batchflow.server.app import QStashServer
from batchflow.testing.clock import FixedEntropy, ManualClock
from tests.server.endpoint import FlowEndpoint
from tests.stores.kinds import Made, made

URL = "http://qstash.test"


@pytest.fixture
def clock() -> ManualClock:
    """The time of the server."""
    return ManualClock()


@pytest.fixture(params=["sqlite", "fakeredis"])
def store(request: pytest.FixtureRequest, clock: ManualClock) -> Made:
    """The store of the server, of each kind."""
    return made(request.param, clock)


@pytest.fixture
async def engine(store: Made, clock: ManualClock) -> AsyncIterator[Engine]:
    """The engine of the server, without a worker."""
    options = EngineOptions(concurrency=10, grace_s=1, retention_ms=86_400_000, threads=1)
    engine = Engine(store, {}, [], clock=clock, entropy=FixedEntropy(), options=options)
    await engine.open()
    yield engine
    await engine.close()


@pytest.fixture
def server(engine: Engine) -> QStashServer:
    """The server."""
    return QStashServer(engine)


@pytest.fixture
async def token(server: QStashServer) -> str:
    """A token of the tenant `ours`."""
    return await server.tokens.create("ours")


@pytest.fixture
async def other_token(server: QStashServer) -> str:
    """A token of the tenant `theirs`."""
    return await server.tokens.create("theirs")


def client_of(server: QStashServer, token: str | None) -> AsyncClient:
    """A client with a token."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    # Errors are answered; one that is raised would be hidden by a real server.
    return AsyncClient(transport=ASGITransport(server), base_url=URL, headers=headers)


@pytest.fixture
async def stranger(server: QStashServer) -> AsyncIterator[AsyncClient]:
    """A client without a token."""
    async with client_of(server, None) as client:
        yield client


@pytest.fixture
async def http(server: QStashServer, token: str) -> AsyncIterator[AsyncClient]:
    """A client of the tenant `ours`."""
    async with client_of(server, token) as client:
        yield client


@pytest.fixture
async def other_http(server: QStashServer, other_token: str) -> AsyncIterator[AsyncClient]:
    """A client of the tenant `theirs`."""
    async with client_of(server, other_token) as client:
        yield client


@pytest.fixture
def endpoint(http: AsyncClient) -> FlowEndpoint:
    """An endpoint of the tenant `ours`."""
    return FlowEndpoint(http)
