"""The Redis store keeps what every store has to keep, on fakeredis and on a real server."""

import itertools
from collections.abc import Generator, Iterator, Sequence
from typing import ClassVar

import fakeredis
import pytest
from fakeredis import FakeAsyncRedis

from batchflow.core.ports import Clock
from batchflow.core.store import Store
from batchflow.stores.redis import RedisStore
from tests.conformance import SharedStoreConformance, SharedWireConformance
from tests.conformance.scene import Cases
from tests.stores import redis_keys
from tests.stores.redis_server import Server, served
from tests.stores.test_redis_access import documented_rights, may

NAMESPACES = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    with served(tmp_path_factory.mktemp("redis")) as started:
        yield started


class FakeRedisCases(Cases):
    """fakeredis with Lua, as users' own tests have it."""

    @pytest.fixture(autouse=True)
    def _place(self) -> Iterator[None]:
        self.server = fakeredis.FakeServer()
        yield
        # pytest keeps the instances of a class until all tests have run.
        del self.server

    def make_store(self, clock: Clock) -> Store:
        return RedisStore(FakeAsyncRedis(server=self.server), clock=clock)


class TestFakeRedis(FakeRedisCases, SharedStoreConformance):
    """What every store keeps."""


class TestPostsOnFakeRedis(FakeRedisCases, SharedWireConformance):
    """What a store of posts keeps."""


class RedisServerCases(Cases):
    """A server, with a namespace for each test, as a user who may do no more than the documentation says."""

    withheld: ClassVar[Sequence[str]] = ()

    @pytest.fixture(autouse=True)
    def _place(self, server: Server) -> None:
        self.namespace = f"test{next(NAMESPACES)}"
        rights = [it.replace("{batchflow}", f"{{{self.namespace}}}") for it in documented_rights()]
        self.url = may(server, *rights, *redis_keys.RIGHTS, *self.withheld)

    def make_store(self, clock: Clock) -> Store:
        return RedisStore(self.url, clock=clock, namespace=self.namespace)


class TestRedisServer(RedisServerCases, SharedStoreConformance):
    """What every store keeps."""


class TestPostsOnRedisServer(RedisServerCases, SharedWireConformance):
    """What a store of posts keeps."""


class TestRedisServerByScript(TestRedisServer):
    """The same as a user who may have no function kept, as on servers that keep none."""

    withheld = ("-fcall", "-function|load")


class TestPostsOnRedisServerByScript(TestPostsOnRedisServer):
    """The same."""

    withheld = ("-fcall", "-function|load")
