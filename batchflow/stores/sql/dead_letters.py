"""Dead letters: making them, the calls of their failure functions, redriving, reading."""

from collections.abc import Iterable, Sequence

from pydantic_core import to_json

from batchflow.core import ids
from batchflow.core.dead_letters import (
    KEPT_ATTEMPTS,
    DeadLetter,
    DeadLetterGroup,
    DeadLetterQuery,
    LoggedAttempt,
    fingerprint_of,
    status_of,
)
from batchflow.core.message import FAILURE_FLOW, FAILURE_STEP, Message
from batchflow.core.run import NEVER, Step
from batchflow.core.settlement import Settlement
from batchflow.stores import base
from batchflow.stores.sql import flows, messages
from batchflow.stores.sql.messages import HeldMessage
from batchflow.stores.sql.steps import steps_of
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
                flow=FAILURE_FLOW,
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


def redrive(tx: Tx, id: str) -> bool:
    """Put a dead letter back into its queue; False if that is impossible."""
    found = tx.json("message_dead", id=id)
    if not found:
        return False
    lane, batch, number = found[0]
    if batch is not None and not _reopen(tx, batch, number, id):
        return False
    tx.run("step_drop_unfinished", run=id)
    tx.run("message_redrive", id=id)
    flows.mark_ready(tx, lane, 0)
    return True


def _reopen(tx: Tx, batch: int, number: int, id: str) -> bool:
    if not tx.one("batch_exists", batch=batch):
        return False
    if ids.completes(id, tx.batch_head(batch).id):
        messages.change_counts(tx, batch, working=1)
        return True
    completion = messages.completion_id(tx, batch)
    if not tx.run("batch_reopen_item" if number >= 0 else "batch_reopen_layer", batch=batch):
        return False
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
    return base.dead_letter(found[0], tuple(Step(*row[1:]) for row in steps_of(tx, [(id,)])))


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
