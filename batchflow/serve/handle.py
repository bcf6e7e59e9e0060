"""What one holds of a run: ask it, wait for its result, cancel it."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from batchflow.core.codec import Codec
from batchflow.core.ports import Client
from batchflow.core.run import Run
from batchflow.errors import NotFoundError, RunFailed, StoreUnavailable

Result = TypeVar("Result")
T = TypeVar("T")

_LOOK_SECONDS = 5.0
# A wake-up that was missed is made up for this soon.


async def ending(
    client: Client, read: Callable[[], Awaitable[T]], is_over: Callable[[T], bool], timeout: float | None, what: str
) -> T:
    """What is read, once it is over. A store that is away, as in a failover, is waited for as well.

    Raises:
        TimeoutError: it is not within `timeout` seconds; `what` says what goes on.
        StoreUnavailable: the app stops, or has stopped.
    """
    try:
        async with asyncio.timeout(timeout):
            while True:
                seen = client.changes
                with contextlib.suppress(StoreUnavailable):
                    found = await read()
                    if is_over(found):
                        return found
                await client.changed(seen, _LOOK_SECONDS)
    except TimeoutError:
        raise TimeoutError(f"{what} has not ended within {timeout:g} s; it goes on") from None


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
        """
        run = await self._client.run(self.id)
        if run is None:
            raise NotFoundError(f"there is no run '{self.id}'; retention may have removed it")
        return run

    async def wait(self, timeout: float | None = None) -> Result:
        """What the function returned, once it has. A store that is away is waited for as well.

        Raises:
            RunFailed: it failed for good, or was cancelled.
            TimeoutError: it has not ended within `timeout` seconds; it goes on.
            NotFoundError: as for `status`.
            StoreUnavailable: the app stops, or has stopped.
        """
        run = await ending(self._client, self.status, _is_over, timeout, f"run '{self.id}'")
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
