"""Where the state of a test lives: in memory, on `fakeredis`, on a Redis server, or where the test says."""

import itertools
import os
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

from batchflow.app import open_store
from batchflow.core.clock import Clock
from batchflow.core.store import Store
from batchflow.errors import ConfigurationError
from batchflow.settings import Settings
from batchflow.stores.sqlite import SqliteStore
from batchflow.testing.options import StoreOption

FAKE = "fakeredis"

_numbers = itertools.count(1)


class Place(NamedTuple):
    """A store, and what closes it and clears away what was made for the test alone."""

    store: Store
    leave: Callable[[], Awaitable[None]]


def place_of(where: StoreOption, settings: Settings, clock: Clock) -> Place:
    """The place that a test names.

    Raises:
        ConfigurationError: the URL names no store, or fakeredis is not installed.
    """
    if where is None:
        return _as_it_is(SqliteStore(":memory:", clock=clock))
    if not isinstance(where, str):
        return _as_it_is(where(clock) if callable(where) else where)
    if where == FAKE:
        return _fake(clock)
    if where.startswith(("redis", "unix://")):
        return _namespace(where, clock)
    return _as_it_is(open_store(settings.model_copy(update={"url": where}), clock))


def _as_it_is(store: Store) -> Place:
    return Place(store, store.close)


def _fake(clock: Clock) -> Place:
    if find_spec("fakeredis") is None or find_spec("lupa") is None:
        raise ConfigurationError("the store 'fakeredis' is not installed; write: pip install 'fakeredis[lua]'")
    from fakeredis import FakeAsyncRedis, FakeServer

    from batchflow.stores.redis import RedisStore

    return _as_it_is(RedisStore(FakeAsyncRedis(server=FakeServer()), clock=clock))


def _namespace(url: str, clock: Clock) -> Place:
    """One that nobody else has; it is removed at the end."""
    from batchflow.stores.redis import RedisStore, clients, keys

    client = clients.client_from_url(url)
    name = f"flow-env-{os.getpid()}-{next(_numbers)}-{os.urandom(4).hex()}"
    store = RedisStore(client, clock=clock, namespace=name)

    async def leave() -> None:
        try:
            await store.close()
            await _erase(client, keys.prefix(name))
        finally:
            await clients.close(client)

    return Place(store, leave)


async def _erase(client: Any, prefix: str) -> None:
    # Of a cluster only the node that has the namespace is asked.
    at = {"target_nodes": client.get_node_from_key(prefix)} if hasattr(client, "get_node_from_key") else {}
    found: list[Any] = [key async for key in client.scan_iter(f"{prefix}*", count=1_000, **at)]
    for first in range(0, len(found), 1_000):
        await client.unlink(*found[first : first + 1_000])
