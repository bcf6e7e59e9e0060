"""The ledger in a namespace that was made before 0.1.0, which is read and not changed: it is refused as a store."""

from collections.abc import AsyncIterator
from typing import Any

from redis.exceptions import RedisError

from batchflow.core.ledger import Mark
from batchflow.errors import StoreUnavailable
from batchflow.stores.redis import clients

SCHEMA = 1
"""What such a namespace says it was made with."""

_AT_ONCE = 1_000
# Marks read with one request, about.


async def is_old(client: Any, prefix: str) -> bool:
    """Whether what begins with `prefix` is such a namespace.

    Raises:
        StoreUnavailable: the server cannot be asked.
    """
    try:
        found = await client.hget(f"{prefix}meta", "schema")
    except RedisError as error:
        raise StoreUnavailable(f"{clients.server_name(client)} cannot be asked: {error}") from error
    return found is not None and int(found) == SCHEMA


async def marks(client: Any, prefix: str, now: int) -> AsyncIterator[tuple[str, Mark]]:
    """The marks that have not expired at `now`, each with its workflow, by workflow.

    One may come twice, if the ledger is written meanwhile.
    """
    for workflow in sorted([_text(it) for it in await client.smembers(f"{prefix}ws")]):
        cursor = None
        while cursor != 0:
            cursor, found = await client.zscan(f"{prefix}l:{workflow}", cursor or 0, count=_AT_ONCE)
            for item, expires_at in found:
                until = None if float(expires_at) == float("inf") else int(float(expires_at))
                if until is None or until > now:
                    yield workflow, Mark(_text(item), until)


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode()
