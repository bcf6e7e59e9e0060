"""Cancelling runs and posts; pausing, resuming and cancelling batches, and their failure budgets."""

from collections.abc import Sequence

from batchflow.core.posts import LogEntry
from batchflow.stores import base
from batchflow.stores.sql import batches, flows, messages, post_log, posts, settling
from batchflow.stores.sql.transaction import Tx


def cancel_run(tx: Tx, id: str) -> bool:
    """End a waiting run, or mark a leased one; False if it has ended."""
    waiting = messages.waiting_message(tx, id)
    if waiting:
        _end_waiting(tx, waiting)
        return True
    return tx.run("message_cancel_leased", id=id) > 0


def cancel_listed(tx: Tx, ids: Sequence[str]) -> int:
    """Cancel a slice of runs by id, and return how many of them had not ended."""
    return sum(cancel_run(tx, id) for id in ids)


def cancel_all(tx: Tx, destination: str | None, label: str | None) -> int:
    """Cancel a slice of the runs of a function or with a label, and return how many."""
    if destination is None:
        ids = tx.json("message_open_of_label", label=label, limit=base.SWEEP_LIMIT)
    else:
        ids = tx.json("message_open_of_function", destination=destination, label=label, limit=base.SWEEP_LIMIT)
    for id in ids:
        # A run that was cancelled with its parent counts as well.
        cancel_run(tx, id)
    return len(ids)


def cancel_posts(tx: Tx, tenant: str, ids: Sequence[str]) -> list[str]:
    """End the waiting ones of some posts, mark the leased ones, and return all that had not ended."""
    progress = posts.progress(tx, tenant, ids)
    found = [id for id in dict.fromkeys(ids) if id in progress]
    if requested := [id for id in found if progress[id] < posts.CANCELLED]:
        post_log.log(tx, [LogEntry(id, tenant, "CANCEL_REQUESTED", tx.now) for id in requested])
    settling.cancel_posts(tx, tenant, progress)
    return found


def cancel_batch(tx: Tx, id: str) -> bool:
    """Cancel a batch: nothing more of it is leased, and a small batch ends at once."""
    key = tx.batch_key(id)
    if key is None or not batches.begin_cancel(tx, key):
        return False
    _sweep(tx, key, base.SWEEP_LIMIT_AT_CANCEL)
    return True


def pause_batch(tx: Tx, id: str) -> bool:
    """Lease nothing more of a batch."""
    key = tx.batch_key(id)
    return key is not None and batches.pause(tx, key)


def resume_batch(tx: Tx, id: str) -> bool:
    """Undo `pause_batch`."""
    key = tx.batch_key(id)
    if key is None or not tx.run("batch_resume", batch=key):
        return False
    flows.reopen_lanes(tx, key, flows.PAUSED)
    return True


def set_failure_budget(tx: Tx, id: str, budget: str | None) -> bool:
    """Set the failure budget of a batch, or remove it."""
    key = tx.batch_key(id)
    if key is None or not tx.run("batch_set_failure_budget", batch=key, budget=budget):
        return False
    # It has the circuit breaker.
    tx.heads.pop(key, None)
    return True


def sweep_cancelled(tx: Tx) -> int:
    """End one slice of the waiting messages of cancelled batches, and return how many."""
    ended = 0
    for key in tx.json("batches_cancelling"):
        ended += _sweep(tx, key, base.SWEEP_LIMIT - ended)
        if ended == base.SWEEP_LIMIT:
            break
    if ended < base.SWEEP_LIMIT:
        count, touched = settling.cancel_held_back(tx, base.SWEEP_LIMIT - ended)
        batches.end_finished(tx, touched)
        ended += count
    return ended


def _sweep(tx: Tx, batch: int, limit: int) -> int:
    waiting = settling.waiting_of_batch(tx, batch, limit)
    if waiting:
        _end_waiting(tx, waiting)
    batches.end_finished(tx, [batch])
    return len(waiting)


def _end_waiting(tx: Tx, waiting: Sequence[messages.WaitingMessage]) -> None:
    settling.end_unclaimed(tx, settling.cancellations_of(waiting))
    for lane in {it.lane for it in waiting}:
        flows.recount_lane(tx, lane)
