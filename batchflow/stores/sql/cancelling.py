"""Ending what was not asked to go on, and taking back what dead workers held."""

from collections.abc import Sequence
from typing import Any

from batchflow.core.message import LOSS_LIMIT, WORKER_LOST, loss_wait_ms
from batchflow.core.settlement import Settlement
from batchflow.stores import slices
from batchflow.stores.sql import batches, flows, messages, settling
from batchflow.stores.sql.settling import Ended, Held
from batchflow.stores.sql.transaction import Tx

_STAGE = 2 + Held._fields.index("stage")


def cancel_run(tx: Tx, id: str) -> bool:
    """End a waiting run, or mark a leased one."""
    waiting = messages.waiting_message(tx, id)
    if waiting:
        _end_waiting(tx, waiting)
        return True
    return tx.run("message_cancel", id=id) > 0


def cancel_all(tx: Tx, destination: str | None, label: str | None) -> int:
    """End a slice of the runs of a function or with a label; how many."""
    if destination is None:
        ids = tx.json("message_open_of_label", label=label, limit=slices.SWEPT)
    else:
        ids = tx.json("message_open_of_function", destination=destination, label=label, limit=slices.SWEPT)
    for id in ids:
        # One that its parent, which came before it, has taken along counts as well.
        cancel_run(tx, id)
    return len(ids)


def begin_cancel(tx: Tx, id: str) -> bool:
    """Mark a batch and what is leased of it; nothing more of it is leased from here on. A small batch ends at once."""
    key = tx.batch_key(id)
    if key is None or not settling.begin_cancel(tx, key):
        return False
    _sweep(tx, key, slices.SWEPT_AT_ONCE)
    return True


def pause_batch(tx: Tx, id: str) -> bool:
    """Lease nothing more of a batch."""
    key = tx.batch_key(id)
    if key is None or not tx.run("batch_pause", batch=key):
        return False
    flows.close(tx, key, flows.PAUSED)
    return True


def resume_batch(tx: Tx, id: str) -> bool:
    """Undo that."""
    key = tx.batch_key(id)
    if key is None or not tx.run("batch_resume", batch=key):
        return False
    flows.open_again(tx, key, flows.PAUSED)
    return True


def sweep_cancelled(tx: Tx) -> int:
    """End one slice of the waiting messages of cancelled batches; how many."""
    ended = 0
    for key in tx.json("batches_cancelling"):
        ended += _sweep(tx, key, slices.SWEPT - ended)
        if ended == slices.SWEPT:
            break
    if ended < slices.SWEPT:
        count, touched = settling.end_broken(tx, slices.SWEPT - ended)
        batches.finish(tx, touched)
        ended += count
    return ended


def _sweep(tx: Tx, batch: int, limit: int) -> int:
    waiting = settling.waiting_of_batch(tx, batch, limit)
    if waiting:
        _end_waiting(tx, waiting)
    batches.finish(tx, [batch])
    return len(waiting)


def _end_waiting(tx: Tx, waiting: Sequence[messages.Waits]) -> None:
    settling.end_waiting(tx, settling.unclaimed(waiting))
    for lane in {it.lane for it in waiting}:
        flows.recount(tx, lane)


def take_back_all(tx: Tx, worker: int, *, lost: bool) -> int:
    """Take back what a worker holds, as losses or as if it had not been claimed.

    Where it held one that is claimed alone, that is what the worker was lost of, and nothing else.
    """
    rows = tx.json("message_of_worker", worker=worker)
    suspects = [row for row in rows if lost and row[_STAGE] == settling.SUSPECT]
    if not suspects:
        return _take_back(tx, rows, lost=lost)
    others = [row for row in rows if row[_STAGE] != settling.SUSPECT]
    return _take_back(tx, suspects, lost=True) + _take_back(tx, others, lost=False)


def take_back(tx: Tx, worker: int, claims: Sequence[tuple[str, int]]) -> int:
    """Take back some claims of a worker as losses."""
    return _take_back(tx, tx.json_rows("message_of_claims", claims, worker=worker), lost=True)


def _take_back(tx: Tx, rows: Sequence[Sequence[Any]], *, lost: bool) -> int:
    back: list[tuple[object, ...]] = []
    ended: list[Ended] = []
    lanes: list[int] = []
    for id, fence, *fields in rows:
        held = Held._make(fields)
        losses = held.losses + lost
        if held.cancelled:
            ended.append(Ended(Settlement(str(id), 0, "cancelled"), held))
        elif lost and losses >= LOSS_LIMIT:
            error = WORKER_LOST % losses
            # No failure of its own: the one that ends it was the workers'.
            death = Settlement(str(id), int(fence), "dead", error=error)
            ended.append(Ended(death, held._replace(failures=held.failures - 1, losses=losses)))
        else:
            wait = loss_wait_ms(losses) if lost else 0
            due = tx.now + wait if wait else 0
            back.append((id, due, held.failures, losses, None, settling.stage_of(losses)))
            lanes.append(held.lane)
    if back:
        settling.give_back(tx, back)
        settling.give_back_places(tx, lanes)
        for lane in set(lanes):
            flows.ready_by(tx, lane, 0)
    if ended:
        settling.end_held(tx, ended)
    return len(rows)
