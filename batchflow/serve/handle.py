"""What one holds of a run: ask it, wait for its result, cancel it."""

import math
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Generic, TypeVar

from batchflow.core.codec import Codec
from batchflow.core.duration import Duration, to_ms
from batchflow.core.ports import Client
from batchflow.core.run import Run
from batchflow.errors import NotFoundError, RunFailed
from batchflow.serve.delivering import looked_at, refuse_waiting

Result = TypeVar("Result")
T = TypeVar("T")


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


async def ending(client: Client, id: str, look: Callable[[], Awaitable[T | None]], limit: float | None, what: str) -> T:
    """What `look` says once it is over: at once, where it is. A store that is away, as in a failover, is waited for.

    Raises:
        TimeoutError: it is not within `limit` seconds, and not when they are over; `what` says what goes on.
        InputError: the app itself delivers the code that would wait.
        StoreUnavailable: the app stops, or has stopped.
    """
    refuse_waiting(client, what)
    found = await client.ended(id, look, limit)
    if found is None:
        raise TimeoutError(f"{what} has not ended within {limit or 0:g} s; it goes on")
    return found


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
        run = await self._read()
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
        run = await ending(self._client, self.id, self._ended, limit_s(timeout), f"run '{self.id}'")
        if run.state == "completed":
            return self._result.decode(run.result or "null")
        why = f": {run.error.splitlines()[0]}" if run.error else ""
        how = "failed" if run.state == "failed" else "was cancelled"
        raise RunFailed(f"run '{run.id}' of '{run.destination}' {how}{why}")

    async def cancel(self) -> bool:
        """End the run: at once while it waits, at its next step while it is at work. False when it had ended."""
        return await self._client.cancel_run(self.id)

    async def _read(self) -> Run:
        run = await self._client.store.run(self.id)
        if run is None:
            raise NotFoundError(f"there is no run '{self.id}'; retention may have removed it")
        return run

    async def _ended(self) -> Run | None:
        run = await self._read()
        return run if _is_over(run) else None


def _is_over(run: Run) -> bool:
    return run.state in ("completed", "failed", "cancelled")
