"""The Redis store and the plain models do the same operations, crashes included."""

import itertools
from collections.abc import Generator
from typing import Any

import pytest
from fakeredis import FakeAsyncRedis, FakeRedis, FakeServer
from hypothesis import HealthCheck, Phase, settings

from batchflow.core.store import Store
from batchflow.stores.redis import RedisStore
from batchflow.stores.redis.keys import prefix
from tests.stores.redis_server import Server, keys_of, served
from tests.stores.test_state_machine import StoreMachine
from tests.stores.test_wire_run_state_machine import WireRunMachine
from tests.stores.test_wire_state_machine import WireMachine

NAMESPACES = itertools.count()
STARTED: list[Server] = []
HEADS = {"a:": "llen", "ln:": "hlen", "k:": "llen"}


def rows_of(client: Any, namespace: str) -> list[int]:
    """Arrivals, listeners and kept events, counted over all keys there are."""
    counts = dict.fromkeys(HEADS, 0)
    start = prefix(namespace)
    for key in keys_of(client, f"{start}*"):
        name = key.removeprefix(start)
        for head, measure in HEADS.items():
            if name.startswith(head):
                counts[head] += getattr(client, measure)(key)
    return list(counts.values())


class FakeMachine(StoreMachine):
    """On fakeredis."""

    async def _open(self) -> Store:
        self.server = FakeServer()
        store = RedisStore(FakeAsyncRedis(server=self.server), clock=self.clock)
        await store.open()
        return store

    def _rows(self) -> list[int]:
        with FakeRedis(server=self.server, decode_responses=True) as client:
            return rows_of(client, "batchflow")


class ServerMachine(StoreMachine):
    """On a server, with a namespace for each example."""

    async def _open(self) -> Store:
        self.namespace = f"machine{next(NAMESPACES)}"
        store = RedisStore(STARTED[-1].url, clock=self.clock, namespace=self.namespace)
        await store.open()
        return store

    def _rows(self) -> list[int]:
        with STARTED[-1].client() as client:
            return rows_of(client, self.namespace)


class FakeWireMachine(WireMachine):
    """Posts on fakeredis."""

    async def _open(self) -> Store:
        store = RedisStore(FakeAsyncRedis(server=FakeServer()), clock=self.clock)
        await store.open()
        return store


class ServerWireMachine(WireMachine):
    """Posts on a server, with a namespace for each example."""

    async def _open(self) -> Store:
        store = RedisStore(STARTED[-1].url, clock=self.clock, namespace=f"machine{next(NAMESPACES)}")
        await store.open()
        return store


class FakeRunMachine(WireRunMachine):
    """Workflow runs on fakeredis."""

    async def _open(self) -> Store:
        store = RedisStore(FakeAsyncRedis(server=FakeServer()), clock=self.clock)
        await store.open()
        return store


class ServerRunMachine(WireRunMachine):
    """Workflow runs on a server, with a namespace for each example."""

    async def _open(self) -> Store:
        store = RedisStore(STARTED[-1].url, clock=self.clock, namespace=f"machine{next(NAMESPACES)}")
        await store.open()
        return store


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[None]:
    with served(tmp_path_factory.mktemp("redis")) as started:
        STARTED.append(started)
        yield


def _settings(examples: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=30,
        deadline=None,
        derandomize=True,
        # Not shrunk: that takes minutes, and a test that takes as long is ended. `reproduce_failure` is printed.
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=[HealthCheck.too_slow],
    )


class TestFakeRedisAgainstTheModel(FakeMachine.TestCase):
    """The Redis store on fakeredis."""

    settings = _settings(10)


@pytest.mark.usefixtures("server")
class TestRedisServerAgainstTheModel(ServerMachine.TestCase):
    """The Redis store on a server."""

    settings = _settings(80)


class TestPostsOnFakeRedisAgainstTheModel(FakeWireMachine.TestCase):
    """The Redis store on fakeredis, as it keeps posts."""

    settings = _settings(20)


@pytest.mark.usefixtures("server")
class TestPostsOnRedisServerAgainstTheModel(ServerWireMachine.TestCase):
    """The Redis store on a server, as it keeps posts."""

    settings = _settings(40)


class TestRunsOnFakeRedisAgainstTheModel(FakeRunMachine.TestCase):
    """The Redis store on fakeredis, as it keeps workflow runs."""

    settings = _settings(10)


@pytest.mark.usefixtures("server")
class TestRunsOnRedisServerAgainstTheModel(ServerRunMachine.TestCase):
    """The Redis store on a server, as it keeps workflow runs."""

    settings = _settings(25)
