"""Reading runs, batches, items and workers."""

from collections.abc import Sequence
from typing import Any

from pydantic_core import from_json, to_json

from batchflow.core.batch import Batch, Item, ItemState
from batchflow.core.message import OpenMessage, UnservedWork, WorkerStatus
from batchflow.core.run import NEVER, Run, RunQuery
from batchflow.core.store import ITEMS_SIZE, MOST_COUNTED, SEARCHED_BATCHES, SEARCHED_LANES, SEARCHED_MESSAGES
from batchflow.stores import base
from batchflow.stores.sql import messages
from batchflow.stores.sql.steps import journal_of
from batchflow.stores.sql.transaction import Tx


def run(tx: Tx, id: str) -> Run | None:
    """A run with its journal."""
    found = tx.json("run_read", id=id, now=tx.now, never=NEVER)
    if not found:
        return None
    return base.run(found[0], tuple(journal_of(tx, id)))


def run_list(tx: Tx, query: RunQuery, limit: int) -> list[Run]:
    """The latest runs, without what may be large."""
    before_at, before_id = query.before or (NEVER, "")
    found = tx.json(
        "run_list",
        state=query.state,
        destination=query.destination,
        label=query.label,
        before_at=before_at,
        before_id=before_id,
        limit=limit,
        now=tx.now,
        never=NEVER,
    )
    return [base.run(row) for row in found]


def under_way(tx: Tx, open_dedup: str) -> str | None:
    """The run or batch that has not ended under this key."""
    return tx.one("dedup_under_way", open_dedup=open_dedup)


def batch(tx: Tx, id: str) -> Batch | None:
    """A batch."""
    found = tx.json("batch_read", id=id)
    return base.batch(found[0]) if found else None


def batch_list(
    tx: Tx, workflow: str | None, label: str | None, open_only: bool, limit: int, params: bool, before: str | None
) -> list[Batch]:
    """The latest batches, or those older than `before`."""
    key = NEVER if before is None else tx.batch_key(before)
    found = tx.json(
        "batch_list", workflow=workflow, label=label, open_only=open_only, limit=limit, params=params, before=key
    )
    return [base.batch(row) for row in found]


def items(tx: Tx, id: str, state: ItemState | None, after: int, limit: int, results: bool) -> list[Item]:
    """Items of a batch, by number."""
    key = tx.batch_key(id)
    if key is None:
        return []
    if results and limit > 1:
        limit = _fitting(tx.json("item_sizes", batch=key, state=state, after=after, limit=limit))
    found = tx.json("item_read", batch=key, state=state, after=after, limit=limit, results=results)
    return [base.item(row) for row in found]


def _fitting(sizes: Sequence[int]) -> int:
    """The number of items of these sizes that are read at once."""
    total = 0
    for count, size in enumerate(sizes, 1):
        total += size
        if total >= ITEMS_SIZE:
            return count
    return len(sizes)


def open_messages(tx: Tx, batch: str, layers: bool, limit: int) -> list[OpenMessage]:
    """The messages of a batch that have not ended."""
    key = tx.batch_key(batch)
    if key is None:
        return []
    found = tx.json(
        "message_open_of_batch",
        batch=key,
        completion=messages.completion_id(tx, key),
        layers=layers,
        limit=limit,
        lanes=SEARCHED_LANES,
        look=SEARCHED_MESSAGES,
        now=tx.now,
        never=NEVER,
    )
    return base.open_messages(found)


def find_item(tx: Tx, batch: str, item: str) -> Item | None:
    """The item of a batch with this id."""
    found = tx.json("item_find_in_batch", batch=tx.batch_key(batch), item=item)
    return base.item(found[0]) if found else None


def workers(tx: Tx) -> list[WorkerStatus]:
    """Workers, by name."""
    return [
        WorkerStatus(
            *(name, since, seen_at, ends, concurrency, hanging, holds),
            lost=ends <= tx.now or tx.is_gone(name),
            serves=tuple(from_json(serves or "[]")),
        )
        for name, since, seen_at, ends, concurrency, hanging, holds, serves in _worker_rows(tx)
    ]


def _worker_rows(tx: Tx) -> list[Any]:
    return tx.json("worker_status")


def unserved(tx: Tx, limit: int) -> list[UnservedWork]:
    """Due messages whose destination no live worker serves."""
    served: set[str] = set()
    for name, _, _, ends, *_, serves in _worker_rows(tx):
        if ends > tx.now and not tx.is_gone(name):
            if serves is None:
                return []
            served.update(from_json(serves))
    found = tx.json(
        "work_unserved", served=to_json(sorted(served)).decode(), now=tx.now, most=MOST_COUNTED, limit=limit
    )
    return [UnservedWork._make(row) for row in found]


def find_items(tx: Tx, workflow: str, item: str, limit: int) -> list[tuple[str, Item]]:
    """The items with this id of the latest batches of a workflow."""
    found = tx.json("item_find", workflow=workflow, item=item, batches=SEARCHED_BATCHES, limit=limit)
    return [(batch, base.item(row)) for batch, *row in found]
