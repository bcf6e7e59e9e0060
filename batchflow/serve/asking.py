"""What can be done with the runs of an app, whichever function they are of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from batchflow.core.ports import Client
from batchflow.core.run import RUN_STATES, Run, RunQuery, RunState, Waiter
from batchflow.errors import InputError
from batchflow.serve.waiting import ANYTHING, checked_event

_DIGITS = 15
MOST = 1_000
"""How many runs a page can have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPage:
    """Some runs, the latest first; `next_cursor` names the page after them, None when there is none."""

    runs: Sequence[Run]
    next_cursor: str | None = None


class Selection(NamedTuple):
    """Which runs to cancel."""

    ids: tuple[str, ...] = ()
    label: str | None = None
    destination: str | None = None


async def run_page(
    client: Client,
    *,
    state: RunState | None = None,
    destination: str | None = None,
    label: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> RunPage:
    """One page of runs.

    Raises:
        InputError: the cursor is none, or the limit is not 1 to 1,000.
    """
    if not 1 <= limit <= MOST:
        raise InputError(f"'limit' cannot be {limit}; write a number from 1 to {MOST:,}", field="limit")
    if state is not None and state not in RUN_STATES:
        raise InputError(f"'state' cannot be {state!r}; write one of {', '.join(RUN_STATES)}", field="state")
    query = RunQuery(state, destination, label, None if cursor is None else _read_cursor(cursor))
    runs = await client.runs(query, limit + 1)
    last = runs[limit - 1] if len(runs) > limit else None
    return RunPage(runs=runs[:limit], next_cursor=last and f"{last.created_at}.{last.id}")


def _read_cursor(cursor: str) -> tuple[int, str]:
    at, _, id = cursor.partition(".")
    if not at.isdecimal() or len(at) > _DIGITS or not id:
        raise InputError(f"'cursor' cannot be {cursor!r}; write the nextCursor of the page before", field="cursor")
    return int(at), id


async def cancel(client: Client, which: Selection) -> int:
    """End runs: at once while they wait, at their next step while they are at work; how many there were.

    Raises:
        InputError: it is not said which, or ids are named beside a label or a function.
    """
    if which.ids:
        if which.label is not None or which.destination is not None:
            raise InputError("name the runs to cancel by id, or by label and function, not both", field="ids")
        return sum([await client.cancel_run(id) for id in dict.fromkeys(which.ids)])
    if which.label is None and which.destination is None:
        raise InputError("say which runs to cancel: their ids, a label or a function", field="ids")
    return await client.cancel_runs(destination=which.destination, label=which.label)


async def notify(client: Client, event_id: str, data: object, run_id: str | None) -> Sequence[str]:
    """Give `data` to who waits for the event; see `Batchflow.notify`."""
    event, text = checked_event(event_id), ANYTHING.encode(data)
    client.limit.check(text, f"the data of event '{event}'")
    return await client.notify(event, text, run_id)


async def waiters(client: Client, event_id: str) -> Sequence[Waiter]:
    """Who waits for the event."""
    return await client.waiters(checked_event(event_id))
