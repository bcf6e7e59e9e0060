"""Ending what was not asked to go on, and taking back what dead workers held."""

from collections.abc import Sequence
from typing import Any

from batchflow.core.message import LOSS_LIMIT
from batchflow.core.settlement import Settlement
from batchflow.stores.sqlite import batches, flows, settling
from batchflow.stores.sqlite.settling import SLICE, Ended, Held
from batchflow.stores.sqlite.transaction import Tx


def cancel_run(tx: Tx, id: str) -> bool:
    """End a waiting run, or mark a leased one."""
    waiting = tx.json("message_waiting", id=id)
    if waiting:
        _end_waiting(tx, waiting)
        return True
    return tx.run("message_cancel", id=id) > 0


def cancel_all(tx: Tx, destination: str | None, label: str | None) -> int:
    """End a slice of the runs of a function or with a label; how many."""
    if destination is None:
        ids = tx.json("message_open_of_label", label=label, limit=SLICE)
    else:
        ids = tx.json("message_open_of_function", destination=destination, label=label, limit=SLICE)
    for id in ids:
        # One that its parent, which came before it, has taken along counts as well.
        cancel_run(tx, id)
    return len(ids)


def begin_cancel(tx: Tx, id: str) -> bool:
    """Mark a batch and what is leased of it; nothing more of it is leased from here on."""
    key = tx.batch_key(id)
    return key is not None and settling.begin_cancel(tx, key)


def sweep_cancelled(tx: Tx) -> int:
    """End one slice of the waiting messages of cancelled batches; how many."""
    ended = 0
    for key in tx.json("batches_cancelling"):
        waiting = settling.waiting_of_batch(tx, key, SLICE - ended)
        if waiting:
            _end_waiting(tx, waiting)
        batches.finish(tx, [key])
        ended += len(waiting)
        if ended == SLICE:
            break
    return ended


def _end_waiting(tx: Tx, waiting: Sequence[Sequence[Any]]) -> None:
    settling.end_waiting(tx, settling.unclaimed(waiting))
    for lane in {row[1] for row in waiting}:
        flows.recount(tx, lane)


def take_back_all(tx: Tx, worker: int, *, lost: bool) -> int:
    """Take back what a worker holds, as losses or as if it had not been claimed."""
    return _take_back(tx, tx.json("message_of_worker", worker=worker), lost=lost)


def take_back(tx: Tx, worker: int, claims: Sequence[tuple[str, int]]) -> int:
    """Take back some claims of a worker as losses."""
    return _take_back(tx, tx.json_rows("message_of_claims", claims, worker=worker), lost=True)


def _take_back(tx: Tx, rows: Sequence[Sequence[Any]], *, lost: bool) -> int:
    back: list[tuple[object, ...]] = []
    ended: list[Ended] = []
    lanes: list[int] = []
    for id, _fence, *fields in rows:
        held = Held._make(fields)
        losses = held.losses + lost
        if held.cancelled:
            ended.append(Ended(Settlement(str(id), 0, "cancelled"), held))
        elif lost and losses >= LOSS_LIMIT:
            error = f"WorkerLost: {losses} workers in a row died or hung while they ran it"
            # No failure of its own: the one that ends it was the workers'.
            ended.append(Ended(Settlement(str(id), 0, "dead", error=error), held._replace(failures=held.failures - 1)))
        else:
            back.append((id, tx.now, held.failures, losses, None))
            lanes.append(held.lane)
    if back:
        settling.give_back(tx, back)
        settling.give_back_places(tx, lanes)
        for lane in set(lanes):
            flows.ready_by(tx, lane, tx.now)
    if ended:
        settling.end_held(tx, ended)
    return len(rows)
