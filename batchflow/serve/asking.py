"""What can be done with the runs of an app, whichever function they are of."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, cast

from batchflow.core.ports import Client
from batchflow.core.run import RUN_STATES, Run, RunQuery, RunState, Waiter
from batchflow.errors import InputError
from batchflow.serve.checks import checked_run_id, checked_text
from batchflow.serve.sending import event_text
from batchflow.serve.showing import is_text, shown
from batchflow.serve.waiting import checked_event

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
    if isinstance(cast("object", limit), bool) or not isinstance(cast("object", limit), int) or not 1 <= limit <= MOST:
        raise InputError(f"'limit' cannot be {shown(limit)}; write a number from 1 to {MOST:,}", field="limit")
    if state is not None and state not in RUN_STATES:
        raise InputError(f"'state' cannot be {shown(state)}; write one of {', '.join(RUN_STATES)}", field="state")
    query = RunQuery(state, destination, sought_label(label), None if cursor is None else _read_cursor(cursor))
    runs = await client.store.runs(query, limit + 1)
    last = runs[limit - 1] if len(runs) > limit else None
    return RunPage(runs=runs[:limit], next_cursor=last and f"{last.created_at}.{last.id}")


def _read_cursor(cursor: str) -> tuple[int, str]:
    at, _, id = cursor.partition(".") if is_text(cursor) else ("", "", "")
    if not at.isdecimal() or len(at) > _DIGITS or not id:
        raise InputError(f"'cursor' cannot be {shown(cursor)}; write the nextCursor of the page before", field="cursor")
    return int(at), id


def sought_label(label: str | None, what: str = "run") -> str | None:
    """A label to look for: any text.

    Raises:
        InputError: it is none.
    """
    if label is None:
        return None
    return checked_text("'label'", label, partial(InputError, field="label"), f"the label of a {what}, as text")


async def cancel(client: Client, which: Selection) -> int:
    """End runs: at once while they wait, at their next step while they are at work; how many there were.

    With a label alone it ends the batches of that label too, and counts them.

    Raises:
        InputError: it is not said which, or ids are named beside a label or a function.
    """
    if which.ids:
        if which.label is not None or which.destination is not None:
            raise InputError("name the runs to cancel by id, or by label and function, not both", field="ids")
        ids = dict.fromkeys([checked_run_id(id, "ids") for id in which.ids])
        return sum([await client.cancel_run(id) for id in ids])
    if which.label is None and which.destination is None:
        raise InputError("say which runs to cancel: their ids, a label or a function", field="ids")
    label = sought_label(which.label)
    # First, so that nothing of theirs is started meanwhile.
    batches = await _cancel_batches(client, label) if label is not None and which.destination is None else 0
    return batches + await client.cancel_runs(destination=which.destination, label=label)


async def _cancel_batches(client: Client, label: str) -> int:
    count = 0
    while found := [
        it for it in await client.store.batches(label=label, open_only=True, limit=MOST) if it.state != "cancelling"
    ]:
        count += sum([await client.cancel_batch(it.id) for it in found])
    return count


async def notify(client: Client, event_id: str, data: object, run_id: str | None) -> Sequence[str]:
    """Give `data` to who waits for the event; see `Batchflow.notify`."""
    event = checked_event(event_id)
    text = event_text(data, event)
    client.limit.check(text, f"the data of event '{event}'")
    return await client.notify(event, text, None if run_id is None else checked_run_id(run_id))


async def waiters(client: Client, event_id: str) -> Sequence[Waiter]:
    """Who waits for the event."""
    return await client.store.waiters(checked_event(event_id))
