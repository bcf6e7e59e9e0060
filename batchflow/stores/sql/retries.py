"""Retries: the earlier runs of their items, and reads of what a batch and its retries have started."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from batchflow.core.batch import Batch, Item, ItemState, Replaced
from batchflow.core.settlement import StartItems
from batchflow.stores import base
from batchflow.stores.sql.transaction import Tx


class Again(NamedTuple):
    """An item that a retry is to start: its slot, the batch that is retried, its id, and its number there or -1."""

    slot: int
    origin: int | None
    id: str
    number: int


def again(tx: Tx, start: StartItems, key: int, slot: int) -> list[Again]:
    """The items of a start in a retry, in the slots from `slot` on."""
    origin = tx.batch_head(key).origin
    numbers = start.again or (-1,) * len(start.ids)
    return [Again(slot + place, origin, id, numbers[place]) for place, id in enumerate(start.ids)]


def earlier_states(tx: Tx, items: Sequence[Again]) -> dict[int, ItemState]:
    """The states of the earlier runs of these items, by slot."""
    return dict(tx.json_rows("retry_earlier", items))


def note(tx: Tx, key: int, started: Sequence[tuple[int, str]], replaced: Mapping[str, ItemState]) -> None:
    """Note that a retry has started items, given as number and id; `replaced` are the states of their earlier runs."""
    origin = tx.batch_head(key).origin
    if origin is None or not started:
        return
    tx.run_rows("retry_note", [(origin, id, key, number, replaced.get(id)) for number, id in started])
    states = Counter(replaced[id] for _, id in started if id in replaced)
    if states:
        tx.run("retry_count", batch=key, **{state: states[state] for state in Replaced._fields})


def recover(tx: Tx, key: int, succeeded: Sequence[int]) -> None:
    """Count those items of a retry that have succeeded, given by number, and had not before."""
    origin = tx.batch_head(key).origin
    if origin is not None and succeeded:
        tx.run_rows("retry_recover", [(number,) for number in succeeded], batch=key, origin=origin)


def has_taken(tx: Tx, key: int, number: int) -> bool:
    """True if a retry has started an item of the batch again, or a later one an item of this retry."""
    head = tx.batch_head(key)
    origin = head.origin if head.is_retry else key
    return tx.one("retry_has_taken", origin=origin, batch=key, number=number) is not None


def listed(tx: Tx, id: str) -> list[Batch]:
    """The retries of a batch."""
    return [base.batch(row) for row in tx.json("batch_retries", batch=id)]


def items(tx: Tx, id: str, ids: Sequence[str]) -> dict[str, tuple[str, Item]]:
    """The latest runs of items that retries of a batch have started, by id."""
    found = tx.json_rows("retry_items", [(one,) for one in ids], origin=tx.batch_key(id))
    return {item.id: (batch, item) for batch, item in ((batch, base.item(row)) for batch, *row in found)}


def missing(tx: Tx, id: str, ids: Sequence[str]) -> frozenset[str]:
    """The ones of `ids` that neither the batch which a retry retries, nor any of its retries, has started."""
    key = tx.batch_key(id)
    origin = None if key is None else tx.batch_head(key).origin
    if origin is None or not ids:
        return frozenset()
    known = tx.json_rows("retry_known", [(one,) for one in ids], batch=key, origin=origin)
    return frozenset(ids) - frozenset(known)


def items_with_ids(tx: Tx, id: str, ids: Sequence[str]) -> list[Item]:
    """The items of a batch with these ids."""
    return [base.item(row) for row in tx.json_rows("items_with_ids", [(one,) for one in ids], batch=tx.batch_key(id))]
