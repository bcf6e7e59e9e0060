"""Asking a ledger that is kept beside the engine, and so may be away while the engine is not."""

from collections.abc import Awaitable
from typing import TypeVar

from batchflow.errors import RateLimited, StoreError

AGAIN_S = 5.0
"""How long to wait for a ledger that is away."""

T = TypeVar("T")


async def patiently(asked: Awaitable[T]) -> T:
    """What the ledger answers.

    Raises:
        RateLimited: it is away. The run, and all under its flow key, waits for it; that is no failure of the item.
    """
    try:
        return await asked
    except StoreError as error:
        if not error.retryable:
            raise
        raise RateLimited(AGAIN_S, f"the ledger is away: {error}") from error
