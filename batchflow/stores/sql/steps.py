"""Steps of claimed runs: recording them with their effects, and reading journals."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from pydantic_core import from_json

from batchflow.core.run import Arrival, Journal, Step, StepState, Waiter, apply_arrivals
from batchflow.core.settlement import (
    AcceptWebhook,
    Effect,
    FinishEntry,
    FinishWalk,
    Listen,
    Notify,
    OpenBatch,
    Publish,
    RecordPage,
    StartItems,
    Unlisten,
)
from batchflow.core.store import KEPT_EVENTS, RecordResult
from batchflow.stores.sql import batches, flows, messages
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
    lanes: set[int] = set()
    asleep: list[tuple[str]] = []
    for run, lane in tx.json_rows("message_suspended", runs, now=tx.now):
        asleep.append((run,))
        lanes.add(lane)
    if asleep:
        tx.run_rows("message_wake", asleep, now=tx.now)
        for lane in lanes:
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
    """Remove everything that ended runs waited for."""
    drop_arrivals(tx, runs)
    rows = [(run,) for run in runs]
    tx.run_rows("listener_drop_of_runs", rows)
    tx.run_rows("kept_event_drop", rows)
    tx.run_rows("webhook_drop", rows)


def waiters(tx: Tx, event: str) -> list[Waiter]:
    """The steps that wait for an event."""
    return [
        Waiter(run, step, since, until or None)
        for run, step, since, until in tx.json("listener_read", event=event, now=tx.now)
    ]


def webhook(tx: Tx, token: str) -> str | None:
    """The run of a webhook."""
    return tx.one("webhook_run", token=token)


def record(tx: Tx, records: Sequence[tuple[str, int, Step]]) -> list[RecordResult]:
    """Record steps of held claims."""
    written = put(tx, records)
    verdicts: list[RecordResult] = ["recorded"] * len(records)
    if written < len(records):
        claims = [(slot, claim, fence) for slot, (claim, fence, _) in enumerate(records)]
        for slot, cancelled in tx.json_rows("step_refused", claims):
            verdicts[slot] = "cancelled" if cancelled else "stale"
    return verdicts


def record_with_effects(tx: Tx, records: Sequence[tuple[str, int, Step, tuple[Effect, ...]]]) -> list[RecordResult]:
    """Record steps of held claims; the effects of a step are written with it, and only once."""
    keys = [(run, step.number, step.state, step.position) for run, _, step, _ in records]
    # Read before the steps are written.
    known: set[int] = set(tx.json_rows("step_written", [(slot, *key) for slot, key in enumerate(keys)]))
    verdicts = record(tx, [(claim, fence, step) for claim, fence, step, _ in records])
    # A repeated record can be in the same group as the first one.
    fresh: dict[tuple[object, ...], int] = {}
    for slot, key in enumerate(keys):
        if verdicts[slot] == "recorded" and slot not in known:
            fresh.setdefault(key, slot)
    apply_effects(tx, [(records[slot][0], effect) for slot in fresh.values() for effect in records[slot][3]])
    return verdicts


def put(tx: Tx, records: Sequence[tuple[str, int, Step]]) -> int:
    """Write steps of held claims, and return how many were held. An outcome sets failures and losses to 0."""
    written = tx.run_rows("step_put", [(claim, fence, *step) for claim, fence, step in records])
    again = [(claim, fence) for claim, fence, step in records if fence > 1 and step.position]
    if again:
        tx.run_rows("message_reset_counts", again)
    return written


def journals(tx: Tx, runs: list[tuple[str]]) -> tuple[dict[str, Journal], set[str]]:
    """The journals of claimed runs, in which due timers and arrivals are recorded.

    The second result are the runs for which something was recorded: their failures and losses start again from 0.
    """
    steps: dict[str, dict[int, Step]] = {}
    for run, *fields in steps_of(tx, runs):
        step = Step._make(fields)
        steps.setdefault(run, {})[step.number] = step
    arrivals: dict[str, list[Arrival]] = {}
    for run, *fields in tx.json_rows("arrival_of_runs", runs):
        arrivals.setdefault(run, []).append(Arrival._make(fields))
    ripe = [
        (run, step)
        for run, journal in steps.items()
        for step in apply_arrivals(tuple(journal.values()), tx.now, arrivals.get(run, ()))
    ]
    woken = {run for run, _ in ripe}
    for run, step in ripe:
        steps[run][step.number] = step
    if ripe:
        tx.run_rows("step_resolve", [(run, *step) for run, step in ripe])
        tx.run_rows("message_reset_woken", [(run,) for run in woken])
        waited = [(run, step.number) for run, step in ripe if step.kind == "wait"]
        if waited:
            unlisten(tx, waited)
    if arrivals:
        drop_arrivals(tx, arrivals)
    return {run: tuple(journal.values()) for run, journal in steps.items()}, woken


def steps_of(tx: Tx, runs: Sequence[tuple[str]]) -> list[Any]:
    """The steps of these runs, each row with its run first."""
    return tx.json_rows("step_of_runs", runs)


def apply_effects(tx: Tx, effects: Sequence[tuple[str, Effect]]) -> None:
    """Write effects, each of a run."""
    starts: list[StartItems] = []
    publish: list[Publish] = []
    for run, effect in effects:
        match effect:
            case StartItems():
                starts.append(effect)
            case Publish():
                publish.append(effect)
            case OpenBatch():
                batches.open_batch(tx, effect.batch, effect.messages)
            case _:
                _apply_one(tx, run, effect)
    if publish:
        messages.publish(tx, [message for effect in publish for message in effect.messages])
    if starts:
        batches.start_items(tx, starts)


def _apply_one(tx: Tx, run: str, effect: Effect) -> None:
    match effect:
        case FinishEntry():
            batches.enter(tx, effect)
        case RecordPage():
            batches.page(tx, effect)
        case FinishWalk():
            batches.walked(tx, effect)
        case Listen():
            listen(tx, run, effect.number, effect.event, effect.until)
        case Unlisten():
            unlisten(tx, [(run, number) for number in effect.numbers])
        case AcceptWebhook():
            add_webhook(tx, run, effect.token)
        case Notify():
            notify(tx, effect.event, effect.data, effect.run)
        case _:
            raise AssertionError(effect)
