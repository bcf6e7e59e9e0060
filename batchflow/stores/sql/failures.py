"""Failed attempts: the attempts and the error of an item, and the error groups of a batch."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from batchflow.core.settlement import STAYS, Settlement
from batchflow.stores import base
from batchflow.stores.sql.transaction import Tx


class ErrorRow(NamedTuple):
    """The part of an error group of a batch that one transaction adds; `place` is the user's own last frame."""

    batch: int
    type: str
    place: str
    attempts: int
    items: int
    message: str
    number: int


def note(tx: Tx, failed: Sequence[tuple[int, int, Settlement]]) -> None:
    """Note failed attempts, given as batch, number and settlement, in items and in the error groups of batches."""
    rows = [
        (batch, number, settlement.failed_attempts, settlement.grouped[-1].message if settlement.grouped else None)
        for batch, number, settlement in failed
        if number >= 0
    ]
    if rows:
        note_in_items(tx, rows)
    _add_to_groups(tx, failed)


def note_in_items(tx: Tx, rows: Sequence[tuple[object, ...]]) -> None:
    """Note failed attempts in items: batch, number, attempts, and the error of the last one (None: it was lost)."""
    tx.run_rows("item_fail", rows)


def _add_to_groups(tx: Tx, failed: Iterable[tuple[int, int, Settlement]]) -> None:
    """Add the failures of settlements, given as batch, number and settlement, to the error groups of their batches."""
    known: dict[int, set[tuple[str, str]]] = {}
    rows: dict[tuple[int, str, str], ErrorRow] = {}
    for key, number, settlement in failed:
        failures = settlement.grouped
        ended_item = number >= 0 and settlement.ending not in STAYS
        for left, failure in enumerate(failures, 1 - len(failures)):
            if key not in known:
                known[key] = {(kind, place) for kind, place in tx.json("failure_groups", batch=key)}
            kind, place = base.error_group_of(failure, known[key])
            known[key].add((kind, place))
            before = rows.get((key, kind, place))
            attempts, items = (0, 0) if before is None else (before.attempts, before.items)
            # Only the last of its failures is the one that an item ended with.
            items += ended_item and left == 0
            rows[key, kind, place] = ErrorRow(key, kind, place, attempts + 1, items, failure.message, number)
    if rows:
        tx.run_rows("failure_add", list(rows.values()), now=tx.now)
