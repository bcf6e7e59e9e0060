"""Events, webhooks and ended children that runs wait for, and their delivery as arrivals."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from pydantic_core import from_json

from batchflow.core.run import StepState, Waiter
from batchflow.core.store import KEPT_EVENTS
from batchflow.stores.sql import flows
from batchflow.stores.sql.transaction import Tx


class NewArrival(NamedTuple):
    """An arrival for step `number` of `run`."""

    run: str
    number: int
    state: StepState
    value: str | None = None
    error: str | None = None


def add_arrivals(tx: Tx, arrivals: Sequence[NewArrival]) -> None:
    """Keep arrivals until a claim records them; suspended runs are due at once."""
    if not arrivals:
        return
    tx.run_rows("arrival_add", arrivals, now=tx.now)
    runs = sorted({(one.run,) for one in arrivals})
    wake(tx, tx.json_rows("message_suspended", runs, now=tx.now))


def wake(tx: Tx, asleep: Sequence[tuple[str, int]]) -> None:
    """Make waiting messages due at once; each is given with its lane."""
    if asleep:
        tx.run_rows("message_wake", [(id,) for id, _ in asleep], now=tx.now)
        for lane in {lane for _, lane in asleep}:
            flows.mark_ready(tx, lane, tx.now)


def runs_with_arrivals(tx: Tx, runs: Sequence[str]) -> frozenset[str]:
    """The ones of `runs` that have an arrival."""
    return frozenset(tx.json_rows("arrival_known_runs", [(run,) for run in runs]))


def notify(tx: Tx, event: str, data: str, run: str | None) -> list[str]:
    """Deliver an event to the runs that wait for it, or keep it for the one run; the ids of these runs."""
    found: list[Any]
    if run is None:
        found = tx.json("listener_of_event", event=event, now=tx.now)
    else:
        found = tx.json("listener_of_run", event=event, run=run, now=tx.now)
        if not found:
            kept = tx.run("kept_event_add", run=run, event=event, data=data, now=tx.now, most=KEPT_EVENTS)
            if kept:
                mark_linked(tx, [run])
            return [run] if kept else []
    add_arrivals(tx, [NewArrival(waiting, number, "done", data) for waiting, number in found])
    if found:
        unlisten(tx, found)
    return list(dict.fromkeys(waiting for waiting, _ in found))


def listen(tx: Tx, run: str, number: int, event: str, until: int) -> None:
    """Register step `number` of `run`, which waits for `event`; a kept event arrives at once."""
    mark_linked(tx, [run])
    kept = tx.one("kept_event_oldest", run=run, event=event)
    if kept is None:
        tx.run("listener_add", run=run, number=number, event=event, until=until, now=tx.now)
        return
    key, data = from_json(kept)
    tx.run("kept_event_delete", key=key)
    add_arrivals(tx, [NewArrival(run, number, "done", data)])


def unlisten(tx: Tx, steps: Sequence[tuple[str, int]]) -> None:
    """Remove the registration of steps that no longer wait."""
    tx.run_rows("listener_drop", steps)


def mark_linked(tx: Tx, runs: Iterable[str]) -> None:
    """Record that these runs wait for something, so that their end clears it away."""
    tx.run_rows("message_mark_linked", [(run,) for run in runs])


def drop_arrivals(tx: Tx, runs: Iterable[str]) -> None:
    """Remove the arrivals of runs that have recorded them or have ended."""
    tx.run_rows("arrival_drop", [(run,) for run in runs])


def add_webhook(tx: Tx, run: str, token: str) -> None:
    """Register the webhook `token` of `run`."""
    mark_linked(tx, [run])
    tx.run("webhook_add", token=token, run=run)


def drop_waits(tx: Tx, runs: Sequence[str]) -> None:
    """Remove everything that ended runs waited for, but for their webhooks."""
    drop_arrivals(tx, runs)
    rows = [(run,) for run in runs]
    tx.run_rows("listener_drop_of_runs", rows)
    tx.run_rows("kept_event_drop", rows)


def drop_webhooks(tx: Tx, runs: Iterable[str]) -> None:
    """Remove the webhooks of runs that will not go on; a dead letter keeps its own, since it may be redriven."""
    tx.run_rows("webhook_drop", [(run,) for run in runs])


def waiters(tx: Tx, event: str) -> list[Waiter]:
    """The steps that wait for an event."""
    return [
        Waiter(run, step, since, until or None)
        for run, step, since, until in tx.json("listener_read", event=event, now=tx.now)
    ]


def webhook(tx: Tx, token: str) -> str | None:
    """The run of a webhook."""
    return tx.one("webhook_run", token=token)
