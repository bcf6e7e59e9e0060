"""One server for each store, and one receiver, for all tests."""

from collections.abc import Iterator
from uuid import uuid4

import pytest
from qstash import QStash

from tests.sdk.javascript import find_node
from tests.sdk.receiver import Receiver
from tests.sdk.server import ServerProcess, client_of, empty_store
from tests.sdk.stage import Stage


@pytest.fixture(scope="session")
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture(scope="session")
def node() -> str:
    """The program that runs the JavaScript SDK."""
    return find_node()


@pytest.fixture(scope="session", params=["sqlite", "redis"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("server")
    with empty_store(request.param, folder) as url:
        server = ServerProcess(url, folder)
        yield server
        assert server.stop() == 0, server.output()


@pytest.fixture(scope="session")
def client(server: ServerProcess) -> Iterator[QStash]:
    with client_of(server.environment) as client:
        yield client


@pytest.fixture
def stage(server: ServerProcess, receiver: Receiver, client: QStash) -> Stage:
    """What a test of the SDK has."""
    return Stage(server=server, receiver=receiver, client=client, id=uuid4().hex[:12])
