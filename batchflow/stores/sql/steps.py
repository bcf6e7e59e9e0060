"""Steps of claimed runs: recording them with their effects, and reading journals."""

from collections.abc import Sequence
from typing import Any

from batchflow.core.posts import LogEntry, Post
from batchflow.core.run import Arrival, Journal, Step, apply_arrivals
from batchflow.core.settlement import (
    AcceptWebhook,
    Effect,
    FinishEntry,
    FinishWalk,
    LeaveQueue,
    Listen,
    Log,
    Notify,
    OpenBatch,
    Publish,
    RecordPage,
    SendPosts,
    StartItems,
    Unlisten,
)
from batchflow.core.store import RecordResult
from batchflow.stores.sql import batches, messages, post_log, posts, queues
from batchflow.stores.sql.events import add_webhook, drop_arrivals, listen, notify, unlisten
from batchflow.stores.sql.transaction import Tx


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


def drop(tx: Tx, runs: Sequence[tuple[str]]) -> None:
    """Remove the journals of these runs."""
    tx.run_rows("step_drop", runs)


def steps_of(tx: Tx, runs: Sequence[tuple[str]]) -> list[Any]:
    """The steps of these runs, each row with its run first."""
    return tx.json_rows("step_of_runs", runs)


def journal_of(tx: Tx, run: str) -> list[Step]:
    """The steps of one run as they are recorded."""
    return [Step(*row[1:]) for row in steps_of(tx, [(run,)])]


def apply_effects(tx: Tx, effects: Sequence[tuple[str, Effect]]) -> None:
    """Write effects, each of a run."""
    starts: list[StartItems] = []
    publish: list[Publish] = []
    logged: list[LogEntry] = []
    sent: list[Post] = []
    left: list[LeaveQueue] = []
    for run, effect in effects:
        match effect:
            case StartItems():
                starts.append(effect)
            case Publish():
                publish.append(effect)
            case Log():
                logged += effect.entries
            case SendPosts():
                sent += effect.posts
            case LeaveQueue():
                left.append(effect)
            case OpenBatch():
                batches.open_batch(tx, effect.batch, effect.messages)
            case _:
                _apply_one(tx, run, effect)
    if publish:
        messages.publish(tx, [message for effect in publish for message in effect.messages])
    if starts:
        batches.start_items(tx, starts)
    if logged:
        post_log.log(tx, logged)
    if sent:
        posts.send(tx, sent)
    if left:
        queues.leave(tx, left)


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
