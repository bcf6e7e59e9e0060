"""Errors of Redis and its client, made into store errors with advice."""

import asyncio
import re
import ssl
from collections.abc import Sequence
from typing import TypeVar

from redis import exceptions
from redis.asyncio.sentinel import MasterNotFoundError

from batchflow.errors import StoreError, StoreIncompatible, StoreUnavailable

ERRORS = (exceptions.RedisError, exceptions.RedisClusterException, OSError)
"""The exceptions that a client raises."""


def translate_error(error: BaseException, place: str) -> StoreError:
    """The store error for an exception of the client, with advice."""
    if (distrust := _cause(error, ssl.SSLCertVerificationError)) is not None:
        return StoreIncompatible(
            f"{place} has a certificate that is not trusted: {distrust.verify_message}; "
            "name who has signed it with ?ssl_ca_certs=PATH"
        )
    match error:
        case exceptions.RedisClusterException():
            return _of_cluster(error, place)
        case exceptions.ClusterError():
            return StoreUnavailable(f"{place} is not ready: {error}; it is tried again")
        case exceptions.AskError():
            return single_cluster_node(place)
        case exceptions.AuthenticationError() | exceptions.AuthorizationError():
            return _login_failed(str(error), place)
        case exceptions.NoPermissionError():
            return error_of_answer(f"NOPERM {error}", place)
        case exceptions.InvalidResponse():
            return StoreIncompatible(f"{place} does not answer as Redis does; give the URL of a Redis server")
        case exceptions.BusyLoadingError():
            return StoreUnavailable(f"{place} is loading its data; it is tried again")
        case exceptions.TimeoutError():
            return StoreUnavailable(f"{place} did not answer in time; it is tried again")
        case MasterNotFoundError():
            return StoreUnavailable(f"{place} cannot be reached: no Sentinel names a primary of it; it is tried again")
        case exceptions.ConnectionError() if _is_pool_exhausted(error):
            return StoreUnavailable(
                f"all connections of the client's pool to {place} are in use; raise its max_connections, "
                "or give batchflow a client of its own; it is tried again"
            )
        case exceptions.ConnectionError():
            if "Protocol Error" in str(error):
                return StoreIncompatible(f"{place} does not answer as Redis does; give the URL of a Redis server")
            return _unreachable(error, place)
        case asyncio.CancelledError():
            return StoreUnavailable(f"{place} was not waited for any longer")
        case OSError():
            return _unreachable(error, place)
        case _:
            return error_of_answer(str(error), place)


def _is_pool_exhausted(error: exceptions.ConnectionError) -> bool:
    # The second is what a pool says that waits for a free connection.
    return isinstance(error, exceptions.MaxConnectionsError) or "No connection available" in str(error)


_OWN_FAULT = re.compile(
    r"WRONGTYPE"
    r"|string exceeds maximum allowed size|invalid (multi)?bulk length|too big (m?bulk|inline)"
    # An error of the script itself; an error of a command names its place as @user_script.
    r'|(?<!@)user_(?:script|function):\s*\d+: (?!.*(killed|not enough memory))|^\[string "',
    re.IGNORECASE,
)
"""Errors that the same operation would get again. Any other answer, above all an unknown one of a server, a proxy or a
service, may be temporary: no write may be lost because of it."""


def error_of_answer(error: str, place: str) -> StoreError:
    """The store error for an error that the server has answered."""
    if "OOM" in error or "maxmemory" in error:
        return StoreUnavailable(
            f"{place} has no memory left; free some or raise 'maxmemory', the work goes on by itself"
        )
    if is_demoted(error):
        return StoreUnavailable(f"{place} is a replica that cannot be written, as in a failover; it is tried again")
    if "non local key" in error:
        return StoreUnavailable(f"{place} is moving the namespace to another node; it is tried again")
    if "MISCONF" in error:
        return StoreUnavailable(f"{place} cannot write to its disk; free some space, the work goes on by itself")
    if "NOREPLICAS" in error:
        return StoreUnavailable(
            f"{place} has fewer good replicas than 'min-replicas-to-write' asks for; the work goes on by itself"
        )
    if error.startswith("SCHEMA "):
        return StoreIncompatible(
            f"{place} holds schema {error.split()[1]} by now, which another version has made of it; upgrade this one"
        )
    if "WRONGPASS" in error or "NOAUTH" in error:
        return _login_failed(error, place)
    if "DB index" in error:
        return StoreIncompatible(f"{place} has no database of this number; name another one, such as 0")
    if "The user executing the script" in error:
        return StoreIncompatible(
            f"{place} forbids what batchflow needs: its user may not run a command of the script; give it more rights"
        )
    if "NOPERM" in error:
        return StoreIncompatible(
            f"{place} forbids what batchflow needs: {error.removeprefix('NOPERM ')}; give the user more rights"
        )
    if _OWN_FAULT.search(error):
        return StoreError(f"{place}: {error}")
    return StoreUnavailable(f"{place} is not ready: {error.rstrip('.')}; it is tried again")


def as_temporary(error: StoreError) -> StoreError:
    """An error of a server that was usable before: it is temporary."""
    if not isinstance(error, StoreIncompatible):
        return error
    return StoreUnavailable(f"{error}; it is tried again meanwhile")


def _login_failed(error: str, place: str) -> StoreIncompatible:
    if any(word in error for word in ("NOAUTH", "HELLO must be called", "Authentication required")):
        why = "it wants a password"
    elif any(word in error for word in ("WRONGPASS", "invalid username-password", "invalid password")):
        why = "user or password is wrong"
    else:
        why = error.rstrip(".")
    return StoreIncompatible(f"{place} does not let us in: {why}; correct user and password of the URL")


def _unreachable(error: BaseException, place: str) -> StoreUnavailable:
    return StoreUnavailable(f"{place} cannot be reached: {str(error).rstrip('.')}; it is tried again")


def missing_commands(commands: Sequence[str], place: str) -> StoreIncompatible:
    """The error for commands that the user may not run."""
    return StoreIncompatible(
        f"{place} forbids what batchflow needs: its user may not run {', '.join(commands)}; give the user more rights"
    )


def is_demoted(error: str) -> bool:
    """True if an error says that the server is not the primary, or not any more."""
    return "READONLY" in error or "read only replica" in error or "read-only replica" in error


def _of_cluster(error: exceptions.RedisClusterException, place: str) -> StoreError:
    """The store error for a cluster in which a call could not be routed."""
    if (cause := _cause(error, exceptions.RedisError)) is None:
        return StoreUnavailable(f"{place} is not ready: {error}; it is tried again")
    if "cluster support disabled" in str(cause):
        return StoreIncompatible(f"{place} is not a Redis Cluster; write redis:// in place of redis+cluster://")
    return translate_error(cause, place)


def single_cluster_node(place: str) -> StoreIncompatible:
    return StoreIncompatible(
        f"{place} is one node of a Redis Cluster; write redis+cluster://HOST:PORT, or give a RedisCluster client"
    )


T = TypeVar("T", bound=BaseException)


def _cause(error: BaseException | None, kind: type[T]) -> T | None:
    """The first error of a kind among an error and its causes."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        if isinstance(error, kind):
            return error
        seen.append(error)
        error = error.__cause__ or error.__context__
    return None
