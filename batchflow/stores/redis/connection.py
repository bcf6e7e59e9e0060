"""The client: made from a URL or the user's own, its blocking twin, and what Redis's errors mean to a user."""

import asyncio
from importlib import import_module
from typing import Any, cast

import redis
from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from batchflow.errors import StoreError, StoreIncompatible, StoreUnavailable

OLDEST = (6, 2)
"""The oldest version that has all the commands (ZADD LT, ZMSCORE, SMISMEMBER)."""

SCHEMES = ("redis://", "rediss://", "unix://")
TIMEOUT_S = 15.0
_KEPT = (
    *("host", "port", "path", "db", "username", "password", "credential_provider", "client_name"),
    *("server", "server_type", "version"),  # fakeredis
)


def client_of(url: str) -> Redis:
    """A client for a URL, which sends nothing twice: every verb is repeated by who asked for it, or not at all."""
    if not url.startswith(SCHEMES):
        raise StoreIncompatible(f"'{url}' is not the URL of a Redis server; write redis://, rediss:// or unix://")
    try:
        # Untyped in redis-py.
        made = cast(Any, Redis).from_url(
            url, retry=AsyncRetry(NoBackoff(), 0), socket_timeout=TIMEOUT_S, socket_connect_timeout=5
        )
    except ValueError as error:
        raise StoreIncompatible(f"'{url}' is not the URL of a Redis server: {error}") from error
    return cast(Redis, made)


def place_of(client: Redis) -> str:
    """Where a client's server is, without its password."""
    about = _arguments(client)
    if "path" in about:
        return f"unix://{about['path']}"
    return f"redis://{about.get('host', '?')}:{about.get('port', '?')}/{about.get('db', 0)}"


def blocking_twin(client: Redis) -> redis.Redis | None:
    """A client for threads that goes to the same server; None where it cannot be told which (behind a Sentinel)."""
    pool = cast(Any, client.connection_pool)
    kind: type = pool.connection_class
    # The synchronous class of the same name stands at the top of its package, redis-py's as well as fakeredis's.
    package = import_module(kind.__module__.partition(".")[0])
    twin = getattr(package, kind.__name__.replace("Async", ""), None)
    if twin is None:
        return None
    arguments = {
        name: value for name, value in _arguments(client).items() if name in _KEPT or name.startswith(("ssl", "server"))
    }
    if twin is redis.SSLConnection:
        arguments.pop("ssl", None)
    timeouts = {"socket_timeout": TIMEOUT_S, "socket_connect_timeout": 5, "retry": Retry(NoBackoff(), 0)}
    made = cast(Any, redis.ConnectionPool)(connection_class=twin, **arguments, **timeouts)
    return redis.Redis(connection_pool=made)


def _arguments(client: Redis) -> dict[str, Any]:
    return cast(Any, client.connection_pool).connection_kwargs


async def check_server(client: Redis, place: str) -> None:
    """Refuse a server that is none, or too old a one."""
    try:
        about: dict[str, Any] = await cast(Any, client).info("server")
    except exceptions.ResponseError as error:
        # An ACL user may not ask; a server that does not know the question is a stand-in.
        if isinstance(error, exceptions.NoPermissionError) or "unknown command" in str(error).lower():
            return
        raise translated(error, place) from error
    except (exceptions.RedisError, OSError) as error:
        raise translated(error, place) from error
    version = str(about.get("redis_version", ""))
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers and numbers < OLDEST:
        raise StoreIncompatible(f"{place} is Redis {version}; batchflow needs 6.2 or newer")


def translated(error: BaseException, place: str) -> StoreError:
    """What an error of the client means, and what to do about it."""
    match error:
        case exceptions.AuthenticationError() | exceptions.AuthorizationError():
            return StoreIncompatible(f"{place} does not let us in: {error}; correct user and password of the URL")
        case exceptions.NoPermissionError():
            return StoreIncompatible(f"{place} forbids what batchflow needs: {error}; give the user more rights")
        case exceptions.InvalidResponse():
            return StoreIncompatible(f"{place} does not answer as Redis does; give the URL of a Redis server")
        case exceptions.BusyLoadingError():
            return StoreUnavailable(f"{place} is loading its data; it is tried again")
        case exceptions.TimeoutError():
            return StoreUnavailable(f"{place} did not answer in time; it is tried again")
        case exceptions.ConnectionError():
            if "Protocol Error" in str(error):
                return StoreIncompatible(f"{place} does not answer as Redis does; give the URL of a Redis server")
            return StoreUnavailable(f"{place} cannot be reached: {error}; it is tried again")
        case asyncio.CancelledError():
            return StoreUnavailable(f"{place} was not waited for any longer")
        case OSError():
            return StoreUnavailable(f"{place} cannot be reached: {error}; it is tried again")
        case _:
            return meaning(str(error), place)


def meaning(error: str, place: str) -> StoreError:
    """What an error that the server answered means."""
    if "OOM" in error or "maxmemory" in error:
        return StoreUnavailable(
            f"{place} has no memory left; free some or raise 'maxmemory', the work goes on by itself"
        )
    if "READONLY" in error or "read only replica" in error or "read-only replica" in error:
        return StoreUnavailable(f"{place} is a replica that cannot be written, as in a failover; it is tried again")
    if "MISCONF" in error:
        return StoreUnavailable(f"{place} cannot write to its disk; free some space, the work goes on by itself")
    if any(word in error for word in ("LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY ")):
        return StoreUnavailable(f"{place} is not ready: {error}; it is tried again")
    if "WRONGPASS" in error or "NOAUTH" in error:
        return StoreIncompatible(f"{place} does not let us in: {error}; correct user and password of the URL")
    if "NOPERM" in error:
        return StoreIncompatible(f"{place} forbids what batchflow needs: {error}; give the user more rights")
    return StoreError(f"{place}: {error}")
