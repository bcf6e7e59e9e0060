"""What one holds of a run: ask it, wait for its result, cancel it."""

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Generic, TypeVar

from batchflow.core.codec import Codec
from batchflow.core.duration import Duration, to_ms
from batchflow.core.ports import Client
from batchflow.core.run import Run
from batchflow.errors import NotFoundError, RunFailed, StoreError
from batchflow.serve.delivering import looked_at, refuse_waiting

Result = TypeVar("Result")
T = TypeVar("T")

_LOOK_SECONDS = 5.0
# A wake-up that was missed is made up for this soon.
_SOON_SECONDS = 0.1
# A store that is away is asked again after so long, then twice as long, up to the same.
_READ_SECONDS = 5.0
# The last look may take so long, also where the time to wait is over.


def limit_s(timeout: Duration | None) -> float | None:
    """Seconds to wait at most; None: as long as it takes. A moment that has passed is now.

    Raises:
        ConfigurationError: `timeout` is no duration.
    """
    match timeout:
        case None:
            return None
        case timedelta():
            timeout = max(timeout, timedelta(0))
        case int() | float() if -math.inf < timeout < 0:
            timeout = 0
        case _:
            pass
    return to_ms(timeout, option="timeout") / 1000


async def ending(
    client: Client, read: Callable[[], Awaitable[T]], is_over: Callable[[T], bool], limit: float | None, what: str
) -> T:
    """What is read, once it is over: at once, where it is. A store that is away, as in a failover, is waited for.

    Raises:
        TimeoutError: it is not within `limit` seconds, and not when they are over; `what` says what goes on.
        InputError: the app itself delivers the code that would wait.
        StoreUnavailable: the app stops, or has stopped.
    """
    refuse_waiting(client, what)
    if limit is None:
        return await _ended(client, read, is_over)
    if limit:
        scope = asyncio.timeout(limit)
        try:
            async with scope:
                return await _ended(client, read, is_over)
        except TimeoutError:
            if not scope.expired():
                raise
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_READ_SECONDS):
            found = await _read(read)
            if found is not None and is_over(found):
                return found
    # An app that has stopped says so.
    await client.changed(client.changes, 0)
    raise TimeoutError(f"{what} has not ended within {limit:g} s; it goes on")


async def _ended(client: Client, read: Callable[[], Awaitable[T]], is_over: Callable[[T], bool]) -> T:
    patience = _SOON_SECONDS
    while True:
        seen = client.changes
        found = await _read(read)
        if found is None:
            await client.changed(client.changes, patience)
            patience = min(2 * patience, _LOOK_SECONDS)
            continue
        patience = _SOON_SECONDS
        if is_over(found):
            return found
        await client.changed(seen, _LOOK_SECONDS)


async def _read(read: Callable[[], Awaitable[T]]) -> T | None:
    """What is read; None where the store is away, as in a failover."""
    try:
        return await read()
    except StoreError as error:
        if not error.retryable:
            raise
        return None


class RunHandle(Generic[Result]):
    """One run. It holds nothing but the id: make another from `function.run(id)` at any time.

    `deduplicated` says of what a trigger returns that it has started nothing: the run was there already.
    """

    __slots__ = ("_client", "_result", "deduplicated", "id")

    def __init__(self, id: str, result: Codec[Result], client: Client, *, deduplicated: bool = False) -> None:
        self.id = id
        self.deduplicated = deduplicated
        self._result = result
        self._client = client

    def __repr__(self) -> str:
        return f"RunHandle('{self.id}')"

    async def status(self) -> Run:
        """The run as it stands: state, steps, result.

        Raises:
            NotFoundError: it is not known, or retention has removed it.
            InputError: a step of the same app looks again and again, which is waiting.
        """
        run = await self._client.store.run(self.id)
        if run is None:
            raise NotFoundError(f"there is no run '{self.id}'; retention may have removed it")
        if not _is_over(run):
            looked_at(self._client, self.id, f"run '{self.id}'")
        return run

    async def wait(self, timeout: Duration | None = None) -> Result:
        """What the function returned, once it has. A store that is away is waited for as well.

        Raises:
            RunFailed: it failed for good, or was cancelled.
            TimeoutError: it has not ended within `timeout` (seconds, "10s", a timedelta); it goes on.
            ConfigurationError: `timeout` is no duration.
            InputError: a step or function of the same app waits; there, `ctx.invoke` does.
            NotFoundError: as for `status`.
            StoreUnavailable: the app stops, or has stopped.
        """
        run = await ending(self._client, self.status, _is_over, limit_s(timeout), f"run '{self.id}'")
        if run.state == "completed":
            return self._result.decode(run.result or "null")
        why = f": {run.error.splitlines()[0]}" if run.error else ""
        how = "failed" if run.state == "failed" else "was cancelled"
        raise RunFailed(f"run '{run.id}' of '{run.destination}' {how}{why}")

    async def cancel(self) -> bool:
        """End the run: at once while it waits, at its next step while it is at work. False when it had ended."""
        return await self._client.cancel_run(self.id)


def _is_over(run: Run) -> bool:
    return run.state in ("completed", "failed", "cancelled")
