"""Redis clients, from a URL (of a server, a cluster or Sentinels) or of the user; and checks of the server."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias, cast
from urllib.parse import unquote, urlsplit

from redis import exceptions
from redis.asyncio import Redis, RedisCluster
from redis.asyncio import connection as connections
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException
from redis.maint_notifications import MaintNotificationsConfig

from batchflow.core.secrets import printable_store_url
from batchflow.errors import StoreError, StoreIncompatible
from batchflow.logs import logger
from batchflow.stores.redis.errors import ERRORS, single_cluster_node, translate_error

Client: TypeAlias = Redis | RedisCluster

SCHEMES = (
    *("redis", "rediss", "unix"),
    *("redis+cluster", "rediss+cluster"),
    *("redis+sentinel", "rediss+sentinel"),
)
TIMEOUT_S = 15.0
CONNECT_TIMEOUT_S = 5.0


class _Address(NamedTuple):
    """The parts of a URL with several hosts; `user` ends with its `@`."""

    user: str
    hosts: Sequence[tuple[str, int]]
    path: str
    query: str

    def of_one(self, scheme: str, path: str) -> str:
        """The URL of the first host alone."""
        host, port = self.hosts[0]
        return f"{scheme}://{self.user}{f'[{host}]' if ':' in host else host}:{port}/{path}?{self.query}"


def client_from_url(url: str) -> Client:
    """A client for a URL. It never repeats a command by itself: the callers of verbs do.

    Raises:
        StoreIncompatible: it is not the URL of a Redis server.
    """
    scheme, found, rest = url.partition("://")
    if not found or scheme not in SCHEMES:
        raise StoreIncompatible(
            f"'{printable_store_url(url)}' is not the URL of a Redis server; write redis://, rediss://, unix://, "
            "redis+cluster:// or redis+sentinel://"
        )
    scheme, _, kind = scheme.partition("+")
    try:
        if kind == "cluster":
            return _of_cluster(scheme, _address(rest, 6379))
        if kind == "sentinel":
            return _of_sentinels(scheme, _address(rest, 26379))
        if scheme != "unix":
            _check_database(urlsplit(url).path.strip("/"))
        # Untyped in redis-py.
        return _checked(cast(Redis, cast(Any, Redis).from_url(url, **_once())))
    except TypeError as error:
        option = _OPTION.search(str(error))
        why = f"it has the option '{option[1]}', which does not exist" if option else "an option in it is wrong"
        raise StoreIncompatible(f"'{printable_store_url(url)}' is not the URL of a Redis server: {why}") from None
    except (ValueError, OSError, RedisClusterException) as error:
        # Without the cause: what urllib takes for a port may be a part of a password.
        why = "a port is a number" if "Port could not be cast" in str(error) else str(error)
        raise StoreIncompatible(f"'{printable_store_url(url)}' is not the URL of a Redis server: {why}") from None


_OPTION = re.compile(r"unexpected keyword argument '(\w+)'")


def _checked(client: Redis) -> Redis:
    """The client; raises `TypeError` if its connections do not know one of their options."""
    pool = cast(Any, client.connection_pool)
    pool.connection_class(**pool.connection_kwargs)
    return client


def server_name(client: Client) -> str:
    """The address of a client's server, without its password."""
    if isinstance(client, RedisCluster):
        nodes = cast(Any, client).startup_nodes
        return f"{_scheme(client.connection_kwargs)}+cluster://{_listed((it.host, it.port) for it in nodes)}"
    about, pool = connection_arguments(client), cast(Any, client).connection_pool
    if isinstance(pool, SentinelConnectionPool):
        hosts = _listed(sentinels(pool))
        kind = "rediss" if issubclass(pool.connection_class, connections.SSLConnection) else "redis"
        return f"{kind}+sentinel://{hosts}/{cast(Any, pool).service_name}/{about.get('db') or 0}"
    if "path" in about:
        return f"unix://{about['path']}"
    kind = "rediss" if issubclass(pool.connection_class, connections.SSLConnection) else "redis"
    return f"{kind}://{about.get('host', '?')}:{about.get('port', '?')}/{about.get('db', 0)}"


def connection_arguments(client: Redis) -> dict[str, Any]:
    """The arguments of a client's connections."""
    return cast(Any, client.connection_pool).connection_kwargs


def sentinels(pool: SentinelConnectionPool) -> list[tuple[str, int]]:
    """The hosts of the Sentinels that monitor a client's server."""
    about = [connection_arguments(it) for it in cast(Any, pool).sentinel_manager.sentinels]
    return [(it["host"], it["port"]) for it in about]


FEWEST_CONNECTIONS = 2
"""A store uses one connection for its verbs, and one on which it hears of changes."""


def check_pool(client: Client, place: str) -> None:
    """Refuse a client whose pool has fewer connections than a store uses at once.

    Raises:
        StoreIncompatible: the pool is too small.
    """
    pools: list[Any] = (
        cast(Any, client).get_nodes() or list(cast(Any, client).nodes_manager.startup_nodes.values())
        if isinstance(client, RedisCluster)
        else [client.connection_pool]
    )
    fewest = min((it.max_connections for it in pools), default=FEWEST_CONNECTIONS)
    if fewest < FEWEST_CONNECTIONS:
        raise StoreIncompatible(
            f"the client of {place} has a pool of {fewest} connection, and a store uses {FEWEST_CONNECTIONS} at once; "
            f"set max_connections to {FEWEST_CONNECTIONS} or more, or leave it out"
        )


def duplicate(client: Client) -> Client:
    """A client for the same server and another event loop; to be closed with `close`."""
    if isinstance(client, RedisCluster):
        return _another_of_cluster(client)
    pool = cast(Any, client.connection_pool)
    about = {**_shared(pool.connection_kwargs), **_once()}
    if isinstance(pool, SentinelConnectionPool):
        asked = cast(Any, pool).sentinel_manager
        manager = cast(Any, Sentinel)(
            sentinels(pool),
            min_other_sentinels=asked.min_other_sentinels,
            sentinel_kwargs={**asked.sentinel_kwargs, **_once()},
            force_master_ip=getattr(asked, "_force_master_ip", None),
        )
        encrypted = issubclass(pool.connection_class, connections.SSLConnection)
        return manager.master_for(cast(Any, pool).service_name, ssl=encrypted, **about)
    made = cast(Any, connections.ConnectionPool)(connection_class=pool.connection_class, **about)
    return cast(Any, Redis).from_pool(made)


def _another_of_cluster(client: RedisCluster) -> RedisCluster:
    known, about = cast(Any, client).nodes_manager, client.connection_kwargs
    names = ("username", "password", "credential_provider", "client_name")
    kept = {name: value for name, value in about.items() if name in names or name.startswith("ssl_")}
    return cast(Any, RedisCluster)(
        startup_nodes=[ClusterNode(it.host, it.port) for it in list(known.startup_nodes.values())],
        require_full_coverage=known.require_full_coverage,
        address_remap=known.address_remap,
        ssl=about.get("connection_class") is connections.SSLConnection,
        **kept,
        **_once(),
    )


def _shared(about: dict[str, Any]) -> dict[str, Any]:
    """The arguments of connections, without those that belong to a single client."""
    own = ("connection_pool", "himport_registry", "maint_", "orig_", "event_")
    return {name: value for name, value in about.items() if not name.startswith(own)}


async def reconnect(client: Client) -> None:
    """Drop the connections: the server is not the primary any more.

    In a cluster each answer names the right node.
    """
    if not isinstance(client, RedisCluster):
        await cast(Any, client.connection_pool).disconnect(inuse_connections=False)


async def close(client: Client) -> None:
    """Close a client that was created here."""
    await cast(Any, client).aclose()
    if isinstance(client, Redis):
        manager: Sentinel | None = getattr(cast(Any, client).connection_pool, "sentinel_manager", None)
        if manager is not None:
            await manager.aclose()


def _once() -> dict[str, Any]:
    return {
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": TIMEOUT_S,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        # With these, redis-py would not check idle connections before use.
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }


def _of_cluster(scheme: str, address: _Address) -> RedisCluster:
    others = [ClusterNode(host, port) for host, port in address.hosts[1:]]
    return cast(Any, RedisCluster).from_url(address.of_one(scheme, address.path), startup_nodes=others, **_once())


def _of_sentinels(scheme: str, address: _Address) -> Redis:
    service, _, db = address.path.partition("/")
    if not service:
        raise ValueError("it names no service; write redis+sentinel://HOST:PORT,HOST:PORT/SERVICE")
    _check_database(db)
    about: dict[str, Any] = cast(Any, connections).parse_url(address.of_one(scheme, db))
    del about["host"], about["port"]
    about["ssl"] = about.pop("connection_class", None) is connections.SSLConnection
    own = {name: about.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    encrypted = {name: value for name, value in about.items() if name.startswith("ssl")}
    # A retry policy for each: redis-py changes them in place.
    manager = Sentinel(address.hosts, sentinel_kwargs={**own, **encrypted, **_once()})
    return _checked(cast(Any, manager).master_for(unquote(service), **{**_once(), **about}))


def _check_database(number: str) -> None:
    # redis-py would use database 0.
    if number and not (number.isascii() and number.isdigit()):
        raise ValueError("a database is a number, as in redis://HOST:PORT/0; write %2F for a slash in a password")


def _address(rest: str, port: int) -> _Address:
    before, _, query = rest.partition("?")
    authority, _, path = before.partition("/")
    user, at, hosts = authority.rpartition("@")
    parts = [urlsplit(f"//{host}") for host in hosts.split(",")]
    found = [(it.hostname or "localhost", it.port or port) for it in parts]
    return _Address(user + at, found, path, query)


def _scheme(about: dict[str, Any]) -> str:
    return "rediss" if about.get("connection_class") is connections.SSLConnection else "redis"


def _listed(hosts: Any) -> str:
    return ",".join(f"{host}:{port}" for host, port in hosts)


OLDEST_VERSION = (6, 2)
"""The oldest version that supports all commands of the script (ZADD LT, ZMSCORE, SMISMEMBER)."""


async def check_server(client: Client, place: str) -> None:
    """Refuse a server that is not Redis, is too old, or is of another kind than the client."""
    clustered = isinstance(client, RedisCluster)
    try:
        if clustered:
            await client.initialize()
        about: dict[str, Any] = await cast(Any, client).info("server")
    except exceptions.ResponseError as error:
        # An ACL user may lack the right to ask; a test server may not support the command.
        if isinstance(error, exceptions.NoPermissionError) or "unknown command" in str(error).lower():
            return
        raise _at_start(translate_error(error, place)) from error
    except ERRORS as error:
        raise _at_start(translate_error(error, place)) from error
    version, mode = str(about.get("redis_version", "")), about.get("redis_mode", "standalone")
    if mode == "sentinel":
        raise StoreIncompatible(f"{place} is a Sentinel; write redis+sentinel://HOST:PORT,HOST:PORT/SERVICE")
    if mode == "cluster" and not clustered:
        raise single_cluster_node(place)
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers and numbers < OLDEST_VERSION:
        raise StoreIncompatible(f"{place} is Redis {version}; batchflow needs 6.2 or newer")


async def check_eviction(client: Client, place: str) -> None:
    """Warn if the server may evict keys. A server that does not answer is trusted."""
    try:
        about: dict[str, Any] = await cast(Any, client).info("memory")
    except ERRORS:
        return
    policy = str(about.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        logger().warning(
            "[batchflow] The server evicts keys when its memory is full, which loses work, batches and the ledger; "
            "set maxmemory-policy to noeviction",
            server=place,
            maxmemory_policy=policy,
        )


def _at_start(error: StoreError) -> StoreError:
    # Nothing is retried at a start.
    what, again, _ = str(error).partition("; it is tried again")
    away = " cannot be reached: " in what or what.endswith("did not answer in time")
    return type(error)(f"{what}; {'start the server, or correct the URL' if away else 'try again'}") if again else error
