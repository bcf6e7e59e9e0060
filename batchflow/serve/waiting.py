"""The reasons for which a run or a batch waits, in words, for those whose time to wait for it is over."""

import asyncio
from collections.abc import Awaitable, Callable, Collection

from batchflow.core.message import MOST_NAMED
from batchflow.core.store import Reads
from batchflow.errors import StoreError

LOOK_S = 2.0
"""The time for which the search for a reason may delay an error."""

GOES_ON = "it goes on"


async def waiting_reason(look: Callable[[], Awaitable[str | None]]) -> str:
    """Return the reason that `look` finds, that the store is away, or that what was waited for goes on."""
    try:
        async with asyncio.timeout(LOOK_S):
            return await look() or GOES_ON
    except TimeoutError:
        return "its store does not answer"
    except StoreError as error:
        return f"its store is away: {error}"


async def unserved_reason(store: Reads, destinations: Collection[str]) -> str:
    """Return a sentence if no worker serves one of these destinations, and something is due there; else ""."""
    found = [work.destination for work in await store.unserved() if work.destination in destinations]
    named = " and ".join(f"'{it}'" for it in found[:MOST_NAMED])
    return f"nobody serves {named}" if found else ""
