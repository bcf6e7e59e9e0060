"""Stores for tests: in memory, on `fakeredis`, on a Redis server, or one that the test makes."""

import itertools
import os
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from typing import Any, NamedTuple, TypeAlias

from batchflow.core.ports import Clock
from batchflow.core.store import Store
from batchflow.errors import ConfigurationError
from batchflow.settings import Settings, open_store
from batchflow.stores.sqlite import SqliteStore

StoreOption: TypeAlias = str | Store | Callable[[Clock], Store] | None
"""A place for a test's state: "fakeredis", a URL, a function that makes a store with the test's clock, or a store."""

FAKE = "fakeredis"

_numbers = itertools.count(1)


class OpenedStore(NamedTuple):
    """A store, and the function that closes it and removes what was made for this test alone."""

    store: Store
    close: Callable[[], Awaitable[None]]


def store_for(where: StoreOption, settings: Settings, clock: Clock) -> OpenedStore:
    """Open the store that a test names.

    Raises:
        ConfigurationError: the URL names no store, or fakeredis is not installed.
    """
    if where is None:
        return _opened(SqliteStore(":memory:", clock=clock))
    if not isinstance(where, str):
        return _opened(where(clock) if callable(where) else where)
    if where == FAKE:
        return _fakeredis(clock)
    if where.startswith(("redis", "unix://")):
        return _redis_namespace(where, clock)
    return _opened(open_store(settings.model_copy(update={"url": where}), clock))


def _opened(store: Store) -> OpenedStore:
    return OpenedStore(store, store.close)


def _fakeredis(clock: Clock) -> OpenedStore:
    if find_spec("fakeredis") is None or find_spec("lupa") is None:
        raise ConfigurationError("the store 'fakeredis' is not installed; write: pip install 'fakeredis[lua]'")
    from fakeredis import FakeAsyncRedis, FakeServer

    from batchflow.stores.redis import RedisStore

    return _opened(RedisStore(FakeAsyncRedis(server=FakeServer()), clock=clock))


def _redis_namespace(url: str, clock: Clock) -> OpenedStore:
    """Open a namespace that nobody else uses, and that is removed at the end."""
    from batchflow.stores.redis import RedisStore, clients, keys

    client = clients.client_from_url(url)
    name = f"flow-env-{os.getpid()}-{next(_numbers)}-{os.urandom(4).hex()}"
    store = RedisStore(client, clock=clock, namespace=name)

    async def close() -> None:
        try:
            await store.close()
            await _erase(client, keys.prefix(name))
        finally:
            await clients.close(client)

    return OpenedStore(store, close)


async def _erase(client: Any, prefix: str) -> None:
    # In a cluster only one node has the keys of the namespace.
    at = {"target_nodes": client.get_node_from_key(prefix)} if hasattr(client, "get_node_from_key") else {}
    found: list[Any] = [key async for key in client.scan_iter(f"{prefix}*", count=1_000, **at)]
    for first in range(0, len(found), 1_000):
        await client.unlink(*found[first : first + 1_000])
