"""Workers that renew, leave or are lost, and what becomes of their claims."""

from collections.abc import Sequence
from typing import Any

from batchflow.core.dead_letters import LoggedAttempt
from batchflow.core.message import (
    LOSS_LIMIT,
    LOST,
    WORKER_LOST,
    loss_delay_ms,
)
from batchflow.core.settlement import Settlement
from batchflow.stores.sql import breakers, dead_letters, flows, settling
from batchflow.stores.sql import failures as failed_attempts
from batchflow.stores.sql.claims import worker_key
from batchflow.stores.sql.messages import HeldMessage
from batchflow.stores.sql.settling import EndedMessage
from batchflow.stores.sql.transaction import Tx

_STAGE = 2 + HeldMessage._fields.index("stage")


def reclaim_all(tx: Tx, worker: int, *, lost: bool) -> int:
    """Reclaim all messages of a worker, as lost or as if they had not been claimed.

    If it holds a suspect, only the suspect counts as lost: it was claimed alone.
    """
    rows = tx.json("message_of_worker", worker=worker)
    suspects = [row for row in rows if lost and row[_STAGE] == settling.SUSPECT]
    if not suspects:
        return _reclaim(tx, rows, lost=lost)
    others = [row for row in rows if row[_STAGE] != settling.SUSPECT]
    return _reclaim(tx, suspects, lost=True) + _reclaim(tx, others, lost=False)


def reclaim(tx: Tx, worker: int, claims: Sequence[tuple[str, int]]) -> int:
    """Reclaim some claims of a worker as lost."""
    return _reclaim(tx, tx.json_rows("message_of_claims", claims, worker=worker), lost=True)


def _reclaim(tx: Tx, rows: Sequence[Sequence[Any]], *, lost: bool) -> int:
    back: list[tuple[object, ...]] = []
    ended: list[EndedMessage] = []
    freed: list[tuple[str, int]] = []
    lost_items: list[tuple[object, ...]] = []
    for id, fence, *fields in rows:
        held = HeldMessage._make(fields)
        losses = held.losses + lost
        if held.cancelled:
            ended.append(EndedMessage(Settlement(str(id), 0, "cancelled"), held))
        elif lost and losses >= LOSS_LIMIT:
            error = WORKER_LOST % losses
            # Not counted as a failure: the workers were lost, the message did not fail.
            ending = "failed" if held.is_report else "dead"
            death = Settlement(str(id), int(fence), ending, error=error)
            ended.append(EndedMessage(death, held._replace(failures=held.failures - 1, losses=losses)))
        else:
            wait = loss_delay_ms(losses) if lost else 0
            due = tx.now + wait if wait else 0
            back.append((id, due, held.failures, losses, None, settling.stage_of(losses), 0, held.attempts + lost))
            freed.append((str(id), held.lane))
            if lost and held.batch is not None and held.number >= 0:
                lost_items.append((held.batch, held.number, 1, None))
    if back:
        if lost:
            entry = [LoggedAttempt(tx.now, None, LOST)]
            dead_letters.log_attempts(tx, [(str(row[0]), entry) for row in back])
        settling.release_messages(tx, back)
        breakers.release(tx, freed)
        for lane in {lane for _, lane in freed}:
            flows.mark_ready(tx, lane, 0)
    if lost_items:
        failed_attempts.note_in_items(tx, lost_items)
    if ended:
        settling.end_held(tx, ended)
    return len(rows)


def renew(tx: Tx, worker: str, lease_ms: int, hung: list[tuple[str, int]], hanging: int) -> bool:
    key = worker_key(tx, worker)
    if key is None:
        return False
    if hung:
        reclaim(tx, key, hung)
    return tx.run("worker_renew", name=worker, until=tx.now + lease_ms, hanging=hanging, now=tx.now) > 0


def deregister(tx: Tx, worker: str) -> None:
    key = worker_key(tx, worker)
    if key is not None:
        _delete_worker(tx, key, lost=False)


def _delete_worker(tx: Tx, key: int, *, lost: bool) -> int:
    count = reclaim_all(tx, key, lost=lost)
    tx.run("worker_delete", worker=key)
    return count


def expire(tx: Tx) -> int:
    return sum(
        _delete_worker(tx, key, lost=True)
        for key, name, lease_until in tx.json("worker_all")
        if lease_until <= tx.now or tx.is_gone(name)
    )
