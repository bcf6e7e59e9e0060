"""What runs wait for: events, webhooks, the ends of children; and how it reaches them."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from pydantic_core import from_json

from batchflow.core.run import StepState, Waiter
from batchflow.core.store import KEPT_EVENTS
from batchflow.stores.sql import flows
from batchflow.stores.sql.transaction import Tx


class NewArrival(NamedTuple):
    """What came in for step `number` of `run`."""

    run: str
    number: int
    state: StepState
    value: str | None = None
    error: str | None = None


def add_arrivals(tx: Tx, came: Sequence[NewArrival]) -> None:
    """Keep what came in until a claim records it; runs that are suspended are due at once."""
    if not came:
        return
    tx.run_rows("arrival_add", came, now=tx.now)
    runs = sorted({(one.run,) for one in came})
    lanes: set[int] = set()
    asleep: list[tuple[str]] = []
    for run, lane in tx.json_rows("message_asleep", runs, now=tx.now):
        asleep.append((run,))
        lanes.add(lane)
    if asleep:
        tx.run_rows("message_awake", asleep, now=tx.now)
        for lane in lanes:
            flows.mark_ready(tx, lane, tx.now)


def runs_with_arrivals(tx: Tx, runs: Sequence[str]) -> frozenset[str]:
    """Those of `runs` for which something has come in."""
    return frozenset(tx.json_rows("arrival_runs", [(run,) for run in runs]))


def notify(tx: Tx, event: str, data: str, run: str | None) -> list[str]:
    """Give an event to those that wait for it, or keep it for the one run."""
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
    """Step `number` of `run` waits for `event`; what was kept for it arrives at once."""
    mark_linked(tx, [run])
    kept = tx.one("kept_event_oldest", run=run, event=event)
    if kept is None:
        tx.run("listener_add", run=run, number=number, event=event, until=until, now=tx.now)
        return
    key, data = from_json(kept)
    tx.run("kept_event_take", key=key)
    add_arrivals(tx, [NewArrival(run, number, "done", data)])


def unlisten(tx: Tx, steps: Sequence[tuple[str, int]]) -> None:
    """These steps, each of a run, do not wait any more."""
    tx.run_rows("listener_drop", steps)


def mark_linked(tx: Tx, runs: Iterable[str]) -> None:
    """These runs wait for something: their end has more to clear away."""
    tx.run_rows("message_link", [(run,) for run in runs])


def drop_arrivals(tx: Tx, runs: Iterable[str]) -> None:
    """What came in for these runs is recorded, or wanted no more."""
    tx.run_rows("arrival_drop", [(run,) for run in runs])


def add_webhook(tx: Tx, run: str, token: str) -> None:
    """What is sent to the webhook `token` is for `run`."""
    mark_linked(tx, [run])
    tx.run("webhook_add", token=token, run=run)


def drop_waits(tx: Tx, runs: Sequence[str]) -> None:
    """Runs that have ended wait for nothing."""
    drop_arrivals(tx, runs)
    rows = [(run,) for run in runs]
    tx.run_rows("listener_drop_of_runs", rows)
    tx.run_rows("kept_event_drop", rows)
    tx.run_rows("webhook_drop", rows)


def waiters(tx: Tx, event: str) -> list[Waiter]:
    """Who waits for an event."""
    return [
        Waiter(run, step, since, until or None)
        for run, step, since, until in tx.json("listener_read", event=event, now=tx.now)
    ]


def webhook(tx: Tx, token: str) -> str | None:
    """The run that a webhook is for."""
    return tx.one("webhook_run", token=token)
