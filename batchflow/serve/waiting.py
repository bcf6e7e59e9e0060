"""The reasons for which a run or a batch waits, in words, for those whose time to wait for it is over."""

import asyncio
from collections.abc import Awaitable, Callable, Container, Sequence
from datetime import UTC, datetime, timedelta

from batchflow.core.duration import format_duration
from batchflow.core.flow import FlowStatus
from batchflow.core.message import MOST_NAMED
from batchflow.core.store import RunReads
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


async def unserved_reason(store: RunReads, destinations: Container[str]) -> str:
    """Return a sentence if no worker serves one of these destinations, and something is due there; else ""."""
    return unserved_sentence([it.destination for it in await store.unserved() if it.destination in destinations])


def unserved_sentence(destinations: Sequence[str]) -> str:
    """Return the sentence about destinations that nobody serves; "" for none."""
    named = " and ".join(f"'{it}'" for it in destinations[:MOST_NAMED])
    return f"nobody serves {named}" if destinations else ""


def paused_sentence(flow: FlowStatus) -> str:
    """Return a sentence if an operator has paused a flow key; else ""."""
    if not flow.paused:
        return ""
    until = "" if flow.paused_until is None else f" until {format_moment(flow.paused_until)}"
    return f"an operator has paused the flow key '{flow.limits.key}'{until}"


def parked_sentence(flow: FlowStatus, now: int) -> str:
    """Return a sentence if a flow key is parked, by its circuit breaker or for a rate limit; else ""."""
    left_ms = flow.parked_until - now
    if flow.breaker.open_for:
        return _breaker_sentence(flow, left_ms)
    if left_ms <= 0:
        return ""
    return f"a service limits its rate: the flow key '{flow.limits.key}' is parked for {_seconds(left_ms)}"


def _breaker_sentence(flow: FlowStatus, left_ms: int) -> str:
    in_a_row = flow.breaker.in_a_row
    failed = f"{in_a_row:,} failed attempts in a row" if in_a_row > 1 else "a failed attempt"
    if flow.breaker.trial is not None:
        then = f"nothing else starts until '{flow.breaker.trial}' has ended, which is tried now"
    else:
        then = "one is tried " + (f"in {_seconds(left_ms)}" if left_ms > 0 else "next")
    return f"the circuit breaker of the flow key '{flow.limits.key}' is open after {failed}: {then}"


def _seconds(ms: int) -> str:
    return format_duration((ms + 999) // 1000 * 1000)


def format_moment(at: int) -> str:
    """Return a time in ms as text such as "2026-11-28 22:15:00 UTC"."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=min(at, _LATEST_MS) // 1000)
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


_LATEST_MS = 253_402_300_799_999  # the end of the year 9999
