"""The blocking twin of a client, for threads: a blocked event loop does not stop it."""

import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any, cast

import redis
import redis.cluster
import redis.sentinel
from redis.asyncio import Redis, RedisCluster
from redis.asyncio import connection as connections
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.retry import Retry

from batchflow.stores.redis.clients import CONNECT_TIMEOUT_S, TIMEOUT_S, Client, arguments, sentinels

_KEPT = (
    *("host", "port", "path", "db", "username", "password", "credential_provider", "client_name"),
    *("server", "server_type", "version"),  # fakeredis
)


class Twin:
    """A blocking client that goes where another one goes. It is made, and asks who is the primary, when first used."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._making = threading.Lock()
        self._client: Any = None

    @property
    def client(self) -> Any:
        """A `redis.Redis` or `redis.RedisCluster`; both may be used from any thread."""
        with self._making:
            if self._client is None:
                self._client = self._make()
            return self._client

    def reconnect(self) -> None:
        """Have the connections made anew: the server at the other end is not the primary any more."""
        with self._making:
            if isinstance(self._client, redis.Redis):
                cast(Any, self._client).connection_pool.disconnect()

    def close(self) -> None:
        """Let go of its connections; safe to repeat."""
        with self._making:
            client, self._client = self._client, None
        if client is None:
            return
        client.close()
        pool = getattr(client, "connection_pool", None)
        if pool is None:
            client.disconnect_connection_pools()
            return
        pool.disconnect()
        if isinstance(pool, redis.sentinel.SentinelConnectionPool):
            for sentinel in cast(Any, pool).sentinel_manager.sentinels:
                sentinel.close()


def twin_of(client: Client) -> Twin | None:
    """What goes where `client` goes; None for connections of a kind that nobody knows."""
    if isinstance(client, RedisCluster):
        return Twin(lambda: _of_cluster(client))
    pool = cast(Any, client).connection_pool
    if isinstance(pool, SentinelConnectionPool):
        return Twin(lambda: _of_sentinels(pool))
    kind: type = pool.connection_class
    # The synchronous class of the same name stands at the top of its package, redis-py's as well as fakeredis's.
    package = import_module(kind.__module__.partition(".")[0])
    twin = getattr(package, kind.__name__.replace("Async", ""), None)
    return None if twin is None else Twin(lambda: _of_server(client, twin))


def _of_server(client: Redis, kind: type) -> redis.Redis:
    about = _kept(arguments(client))
    if kind is redis.SSLConnection:
        about.pop("ssl", None)
    return redis.Redis(connection_pool=cast(Any, redis.ConnectionPool)(connection_class=kind, **about, **_once()))


def _of_sentinels(pool: SentinelConnectionPool) -> redis.Redis:
    known = cast(Any, pool)
    asked = known.sentinel_manager
    manager = cast(Any, redis.sentinel.Sentinel)(
        sentinels(pool),
        min_other_sentinels=asked.min_other_sentinels,
        sentinel_kwargs={**_kept(asked.sentinel_kwargs), **_once()},
        force_master_ip=getattr(asked, "_force_master_ip", None),
    )
    encrypted = issubclass(known.connection_class, connections.SSLConnection)
    return manager.master_for(known.service_name, ssl=encrypted, **_kept(known.connection_kwargs), **_once())


def _of_cluster(client: RedisCluster) -> redis.RedisCluster:
    known = cast(Any, client).nodes_manager
    nodes = [redis.cluster.ClusterNode(it.host, it.port) for it in list(known.startup_nodes.values())]
    about = client.connection_kwargs
    return cast(Any, redis.RedisCluster)(
        startup_nodes=nodes,
        require_full_coverage=known.require_full_coverage,
        address_remap=known.address_remap,
        ssl=about.get("connection_class") is connections.SSLConnection,
        **_kept(about),
        **_once(),
    )


def _kept(about: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in about.items() if name in _KEPT or name.startswith(("ssl", "server"))}


def _once() -> dict[str, Any]:
    return {"socket_timeout": TIMEOUT_S, "socket_connect_timeout": CONNECT_TIMEOUT_S, "retry": Retry(NoBackoff(), 0)}
