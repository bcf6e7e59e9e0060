"""Dead letters: making them, the calls of their failure functions, redriving, reading."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pydantic_core import from_json, to_json

from batchflow.core import ids
from batchflow.core.batch import RUN_AFTER_CANCEL
from batchflow.core.dead_letters import (
    KEPT_ATTEMPTS,
    DeadLetter,
    DeadLetterGroup,
    DeadLetterQuery,
    LoggedAttempt,
    fingerprint_of,
    status_of,
)
from batchflow.core.flow import FlowControl
from batchflow.core.message import FAILURE_STEP, Message, failure_flow
from batchflow.core.retry import RetryPolicy
from batchflow.core.run import NEVER, Step
from batchflow.core.settlement import Settlement
from batchflow.stores import base
from batchflow.stores.sql import events, flows, messages, notifications, retries, steps
from batchflow.stores.sql.messages import HeldMessage
from batchflow.stores.sql.transaction import Tx


def log_attempts(tx: Tx, failed: Iterable[tuple[str, Sequence[LoggedAttempt]]]) -> None:
    """Keep failed attempts with their messages, each given as id and attempts, the latest first."""
    rows = [(id, to_json(attempts).decode()) for id, attempts in failed if attempts]
    if rows:
        tx.run_rows("message_log_attempts", rows, most=KEPT_ATTEMPTS)


def make(tx: Tx, dead: Sequence[tuple[Settlement, HeldMessage]]) -> None:
    """Make dead letters of messages whose attempts are used up."""
    rows: list[tuple[object, ...]] = []
    for s, held in dead:
        error = s.error or ""
        attempts = held.attempts + s.failed_attempts
        rows.append((s.id, error, held.failures + 1, held.losses, attempts, status_of(error), fingerprint_of(error)))
    tx.run_rows("message_make_dead_letter", rows, now=tx.now)


def call_failure_functions(tx: Tx, dead: Iterable[tuple[str, int, str]], number: int = 1) -> None:
    """Publish the failure messages of dead letters, each given as id, fence and destination of the failure message."""
    calls = [(id, ids.failure_id(id, fence, number), destination) for id, fence, destination in dead]
    messages.publish(
        tx,
        [
            Message(
                id=call,
                destination=destination,
                flow=failure_flow(destination),
                body=to_json(id).decode(),
                parent=(id, FAILURE_STEP),
            )
            for id, call, destination in calls
        ],
    )
    rows = [(id, to_json((call, number, "in_progress", tx.now, None, None)).decode()) for id, call, _ in calls]
    tx.run_rows("message_begin_failure", rows)


def end_failure_calls(tx: Tx, ended: Iterable[tuple[Settlement, HeldMessage]]) -> None:
    """Note the outcomes of the failure functions of dead letters, given as the ends of failure messages."""
    rows = [
        (held.parent, s.id, "succeeded" if s.ending == "done" else "failed", s.result, s.error or s.sentence)
        for s, held in ended
    ]
    tx.run_rows("message_end_failure", rows, now=tx.now)


class Dead(NamedTuple):
    """A dead letter that is to be redriven, or whose failure function is to be called."""

    lane: int
    destination: str
    lane_batch: int
    parent: str | None
    batch: int | None
    number: int
    fence: int
    on_failure: str | None
    failure: str | None


def _find(tx: Tx, id: str) -> Dead | None:
    found = tx.json("message_dead", id=id)
    return Dead._make(found[0]) if found else None


def redrive(
    tx: Tx, id: str, restart: bool = False, retry: RetryPolicy | None = None, flow: FlowControl | None = None
) -> bool:
    """Put a dead letter back into its queue; False if that is impossible."""
    dead = _find(tx, id)
    if dead is None or (dead.batch is not None and not _reopen(tx, dead.batch, dead.number, id)):
        return False
    dropped = _dropped_steps(tx, id, restart)
    for step in dropped:
        child = ids.child_id(id, step.number)
        if step.kind in _CHILDREN and (restart or (not redrive(tx, child) and step.state == "failed")):
            _drop_ended(tx, child)
    tx.run_rows("step_drop_some", [(id, step.number) for step in dropped])
    if restart:
        events.drop_webhooks(tx, [id])
    lane = dead.lane if flow is None else flows.lane_of(tx, dead.destination, flow, dead.lane_batch, parent=dead.parent)
    tx.run("message_redrive", id=id, lane=lane, retry=to_json(retry.as_wire()).decode() if retry else None)
    flows.mark_ready(tx, lane, 0)
    return True


_CHILDREN = ("invoke", "call")


def _dropped_steps(tx: Tx, id: str, restart: bool) -> list[Step]:
    """The steps that a redriven run executes again: all, or pending ones and the latest that failed."""
    journal = steps.journal_of(tx, id)
    failed = max((step.position for step in journal if step.state == "failed"), default=0)
    return [it for it in journal if restart or it.state == "pending" or (it.state, it.position) == ("failed", failed)]


def _drop_ended(tx: Tx, id: str) -> None:
    """Drop a child that has ended, with its own children, so that it can be started anew."""
    journal = steps.journal_of(tx, id)
    if not delete(tx, id):
        if not tx.run("run_drop", id=id):
            return
        steps.drop(tx, [(id,)])
    for step in journal:
        if step.kind in _CHILDREN:
            _drop_ended(tx, ids.child_id(id, step.number))


def delete(tx: Tx, id: str) -> bool:
    """Remove a dead letter; False if it is not one."""
    if _find(tx, id) is None:
        return False
    messages.drop(tx, [id])
    steps.drop(tx, [(id,)])
    events.drop_webhooks(tx, [id])
    return True


def call_failure_again(tx: Tx, id: str) -> bool:
    """Publish another failure message of a dead letter; False if it has no destination, or the latest has not ended."""
    dead = _find(tx, id)
    if dead is None:
        return False
    of_item = dead.batch is not None and dead.number >= 0
    destination = _failure_of_batch(tx, dead.batch) if of_item else dead.on_failure
    _, number, state, *_ = from_json(dead.failure) if dead.failure else (None, 0, None)
    if destination is None or state == "in_progress":
        return False
    call_failure_functions(tx, [(id, dead.fence, destination)], number + 1)
    return True


def _failure_of_batch(tx: Tx, batch: int | None) -> str | None:
    # A dead letter may outlive its batch.
    if batch is None or not _batch_exists(tx, batch):
        return None
    return tx.batch_head(batch).on_failure


def _batch_exists(tx: Tx, batch: int) -> bool:
    return bool(tx.one("batch_exists", batch=batch))


def _reopen(tx: Tx, batch: int, number: int, id: str) -> bool:
    if not _batch_exists(tx, batch):
        return False
    if ids.completes(id, tx.batch_head(batch).id):
        notifications.drop(tx, batch)
        messages.change_counts(tx, batch, working=1)
        return True
    if number >= 0 and retries.has_taken(tx, batch, number):
        return False
    completion = messages.completion_id(tx, batch)
    reopen = "batch_reopen_item" if number >= 0 else "batch_reopen_layer"
    if not tx.run(reopen, batch=batch, cancelled=RUN_AFTER_CANCEL):
        return False
    notifications.drop(tx, batch)
    tx.run("lanes_undo_cancel", batch=batch)
    if waits := messages.waiting_message(tx, completion):
        # The completion of an end that is undone.
        messages.drop(tx, [completion])
        messages.change_counts(tx, batch, working=-1)
        flows.recount_lane(tx, waits[0].lane)
    if number < 0:
        return True
    tx.run("item_reopen", batch=batch, number=number)
    tx.run("mark_hold", batch=batch, number=number, ledger=tx.batch_head(batch).ledger)
    return True


# Reads


def read(tx: Tx, id: str) -> DeadLetter | None:
    """A dead letter, whole."""
    found = tx.json("dead_letter_read", id=id)
    if not found:
        return None
    return base.dead_letter(found[0], tuple(steps.journal_of(tx, id)))


def listed(tx: Tx, query: DeadLetterQuery, limit: int, before: tuple[int, str] | None) -> list[DeadLetter]:
    """The latest dead letters, without what may be large."""
    values = _filter(query, before)
    if query.batch is None:
        found = tx.json("dead_letter_list", **values, limit=limit)
    else:
        about = {"batch": tx.batch_key(query.batch), "completion": ids.complete_id(query.batch)}
        found = tx.json("dead_letter_list_of_batch", **values, **about, limit=limit)
    return [base.dead_letter(row, ()) for row in found]


def groups(tx: Tx, query: DeadLetterQuery, limit: int) -> list[DeadLetterGroup]:
    """Dead letters by the fingerprint of their error, the largest group first."""
    batch = None if query.batch is None else tx.batch_key(query.batch)
    if query.batch is not None and batch is None:
        return []
    return [DeadLetterGroup._make(row) for row in _group_rows(tx, query, batch, limit)]


def _group_rows(tx: Tx, query: DeadLetterQuery, batch: int | None, limit: int) -> list[list[object]]:
    return tx.json("dead_letter_groups", **_filter(query, None), batch=batch, limit=limit)


def _filter(query: DeadLetterQuery, before: tuple[int, str] | None) -> dict[str, object]:
    before_at, before_id = before or (NEVER, "")
    destination, is_url = query.endpoint
    return {
        "before_at": before_at,
        "before_id": before_id,
        "destination": destination,
        "is_url": is_url,
        **{name: getattr(query, name) for name in ("workflow", "run", "item", "label", "status", "fingerprint")},
        "since": query.since,
        "until": query.until,
    }
