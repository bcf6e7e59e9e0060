"""Runs: the handle of one run, and listing, cancelling and notifying the runs of an app."""

import contextlib
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Generic, TypeVar, cast

from batchflow.core.codec import Codec
from batchflow.core.duration import Duration, to_ms
from batchflow.core.ports import RunClient
from batchflow.core.report import headline, one_line
from batchflow.core.run import RUN_STATES, Run, RunQuery, RunState, Waiter
from batchflow.core.store import RunReads
from batchflow.errors import InputError, NotFoundError, RunFailed
from batchflow.serve.delivery_scope import check_may_wait, check_not_polling
from batchflow.serve.validation import format_value, is_valid_text, validate_run_id, validate_text
from batchflow.serve.waiting import (
    GOES_ON,
    format_moment,
    parked_sentence,
    paused_sentence,
    unserved_reason,
    waiting_reason,
)
from batchflow.serve.waits import check_event_data, serialize_event_data, validate_event_id

Result = TypeVar("Result")
T = TypeVar("T")


def timeout_seconds(timeout: Duration | None) -> float | None:
    """Return a timeout in seconds; None: no limit. A negative timeout counts as 0.

    Raises:
        ConfigurationError: `timeout` is not a duration.
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


async def wait_until_over(
    client: RunClient,
    id: str,
    look: Callable[[], Awaitable[T | None]],
    limit: float | None,
    what: str,
    why: Callable[[], Awaitable[str | None]] | None = None,
) -> T:
    """Wait until `look` returns something other than None, and return it. A failing store is retried.

    Raises:
        TimeoutError: `what` has not ended within `limit` seconds; it goes on, or waits for a reason that `why` finds.
        InputError: the app itself delivers the code that would wait.
        StoreUnavailable: the app stops, or has stopped.
    """
    check_may_wait(client, what)
    found = await client.ended(id, look, limit)
    if found is None:
        reason = GOES_ON if why is None else await waiting_reason(why)
        raise TimeoutError(f"{what} has not ended within {limit or 0:g} s; {reason}")
    return found


class RunHandle(Generic[Result]):
    """A handle of one run. It holds only the id; `function.run(id)` creates another one at any time.

    `deduplicated` is set by a trigger that started nothing because the run existed already.
    """

    __slots__ = ("_client", "_result", "deduplicated", "id")

    def __init__(self, id: str, result: Codec[Result], client: RunClient, *, deduplicated: bool = False) -> None:
        self.id = id
        self.deduplicated = deduplicated
        self._result = result
        self._client = client

    def __repr__(self) -> str:
        return f"RunHandle('{self.id}')"

    async def status(self) -> Run:
        """Return the current state, steps and result of the run.

        Raises:
            NotFoundError: there is no such run, or retention has removed it.
            InputError: a step of the same app reads it again and again.
        """
        run = await self._read()
        if not _is_over(run):
            check_not_polling(self._client, self.id, f"run '{self.id}'")
        return run

    async def wait(self, timeout: Duration | None = None) -> Result:
        """Wait for the end of the run and return its result. A failing store is retried.

        Raises:
            RunFailed: the run failed, or was cancelled.
            TimeoutError: it has not ended within `timeout` (seconds, "10s", a timedelta); it goes on, or the message
                says what it waits for.
            ConfigurationError: `timeout` is not a duration.
            InputError: code of the same app waits; use `ctx.invoke` there.
            NotFoundError: see `status`.
            StoreUnavailable: the app stops, or has stopped; or QStash does not accept its token.
        """
        what = f"run '{self.id}'"
        limit = timeout_seconds(timeout)
        run = await wait_until_over(self._client, self.id, self._ended, limit, what, self._waiting_reason)
        if run.state == "completed":
            return self._result.decode(run.result or "null")
        why = f": {run.error.splitlines()[0]}" if run.error else ""
        how = "failed" if run.state == "failed" else "was cancelled"
        raise RunFailed(f"run '{run.id}' of '{run.destination}' {how}{why}")

    async def progress(self, interval: Duration = 0.5) -> AsyncIterator[Run]:
        """Yield the run now, then about every `interval`, and at last as it has ended.

        Raises:
            ConfigurationError: `interval` is not a duration.
            InputError, NotFoundError: as for `wait`.
        """
        pause = to_ms(interval, option="interval") / 1000
        check_may_wait(self._client, f"run '{self.id}'")
        while True:
            run = await self._read()
            yield run
            if _is_over(run):
                return
            with contextlib.suppress(TimeoutError):
                await wait_until_over(self._client, self.id, self._ended, pause, f"run '{self.id}'")

    async def cancel(self) -> bool:
        """Cancel the run: at once while it waits, at its next step while it executes. False when it had ended."""
        return await self._client.cancel_run(self.id)

    async def _read(self) -> Run:
        run = await self._client.run_store.run(self.id)
        if run is None:
            raise NotFoundError(f"there is no run '{self.id}'; retention may have removed it")
        return run

    async def _waiting_reason(self) -> str | None:
        return await find_run_wait_reason(self._client.run_store, await self._read(), self._client.now())

    async def _ended(self) -> Run | None:
        run = await self._read()
        return run if _is_over(run) else None


async def find_run_wait_reason(store: RunReads, run: Run, now: int) -> str | None:
    """Return one sentence about the reason for which a run waits; None if it does not, or if none is known."""
    if run.state != "waiting":
        return None
    if found := await unserved_reason(store, {run.destination}):
        return f"it waits: {found}"
    for flow in await store.flows([run.flow_key]) if run.flow_key else ():
        if found := paused_sentence(flow) or parked_sentence(flow, now):
            return f"it waits: {found}"
    until = f" until {format_moment(run.due_at)}" if run.due_at else ""
    if run.error:
        return f"it waits{until} for its next attempt after {one_line(headline(run.error))}"
    return f"it waits{until}" if until else None


def _is_over(run: Run) -> bool:
    return run.state in ("completed", "failed", "cancelled")


CURSOR_PATTERN = r"^[0-9]{1,15}\.[\s\S]"
"""The form of a cursor: a time in ms, and an id."""

MAX_PAGE_SIZE = 1_000
"""The maximum number of runs of a page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPage:
    """A page of runs, latest first. `next_cursor` is the cursor of the next page, or None.

    The runs are without their journals, payloads and results: `flow.run(id).status()` reads those.
    """

    runs: Sequence[Run]
    next_cursor: str | None = None


async def list_runs(
    client: RunClient,
    *,
    state: RunState | None = None,
    destination: str | None = None,
    label: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> RunPage:
    """Return a page of runs.

    Raises:
        InputError: the cursor or the state is invalid, or the limit is not 1 to 1,000.
    """
    if (
        isinstance(cast("object", limit), bool)
        or not isinstance(cast("object", limit), int)
        or not 1 <= limit <= MAX_PAGE_SIZE
    ):
        raise InputError(option="limit", got=format_value(limit), want=f"write a number from 1 to {MAX_PAGE_SIZE:,}")
    if state is not None and state not in RUN_STATES:
        raise InputError(option="state", got=format_value(state), want=f"write one of {', '.join(RUN_STATES)}")
    query = RunQuery(state, destination, validate_label_filter(label), None if cursor is None else read_cursor(cursor))
    runs = await client.run_store.runs(query, limit + 1)
    last = runs[limit - 1] if len(runs) > limit else None
    return RunPage(runs=runs[:limit], next_cursor=last and f"{last.created_at}.{last.id}")


def read_cursor(cursor: str) -> tuple[int, str]:
    """Return the time and the id of a cursor.

    Raises:
        InputError: it is not one.
    """
    if not is_valid_text(cursor) or not re.match(CURSOR_PATTERN, cursor):
        raise InputError(option="cursor", got=format_value(cursor), want="write the nextCursor of the page before")
    at, _, id = cursor.partition(".")
    return int(at), id


def validate_label_filter(label: str | None, what: str = "run") -> str | None:
    """Return a label to filter by: any text, or None.

    Raises:
        InputError: it is not text.
    """
    if label is None:
        return None
    return validate_text("'label'", label, partial(InputError, field="label"), f"the label of a {what}, as text")


async def notify_event(client: RunClient, event_id: str, data: object, run_id: str | None) -> Sequence[str]:
    """Send an event to the runs that wait for it, and return their ids; see `Batchflow.notify`.

    Raises:
        InputError: the id or the data is not valid, or not what one of these runs waits for; nobody is notified.
    """
    event = validate_event_id(event_id)
    text = serialize_event_data(data, event)
    client.limit.check(text, f"the data of event '{event}'")
    run = None if run_id is None else validate_run_id(run_id)
    await check_event_data(client, event, text, run)
    return await client.notify(event, text, run)


async def list_waiters(client: RunClient, event_id: str) -> Sequence[Waiter]:
    """Return the runs that wait for the event."""
    return await client.run_store.waiters(validate_event_id(event_id))
