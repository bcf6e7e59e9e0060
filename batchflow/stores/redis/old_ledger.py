"""Reading the ledger of a namespace made before 0.1.0. It is refused as a store, and it is not changed here."""

from collections.abc import AsyncIterator
from typing import Any

from redis.exceptions import RedisError

from batchflow.core.batch import Mark
from batchflow.errors import StoreUnavailable
from batchflow.stores.redis import clients

SCHEMA = 1
"""The schema of such a namespace."""

_AT_ONCE = 1_000
# Marks read with one request, approximately.


async def is_old(client: Any, prefix: str) -> bool:
    """True if the namespace with this prefix was made before 0.1.0.

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
