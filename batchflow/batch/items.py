"""`BatchItem`: one item of a batch, and reading the items of a batch."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from batchflow.batch.answers import result_text
from batchflow.batch.definition import Definition
from batchflow.core.batch import Item, ItemState
from batchflow.core.store import BatchReads

Result = TypeVar("Result")

ITEMS_PER_READ = 500
"""The number of items in one read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchItem(Generic[Result]):
    """One item of a batch as it is now.

    `number` is its place in the batch. `result` is the value that `execute` returned, None until the item has succeeded
    or if the type of results is None. `error` is the reason of a failed item, of an open one that of its last failed
    attempt: a line, then the traceback. `attempts` are those that have ended, `ended_at` is in ms since the epoch.
    """

    number: int
    id: str
    state: ItemState
    result: Result | None = None
    error: str | None = None
    attempts: int = 0
    ended_at: int | None = None


def batch_item(definition: Definition, item: Item) -> BatchItem[Any]:
    """Return an item with its result as `execute` returned it."""
    text = result_text(item)
    return BatchItem(
        number=item.number,
        id=item.id,
        state=item.state,
        result=None if text is None else definition.result_codec.decode(text),
        error=item.error,
        attempts=item.attempts,
        ended_at=item.ended_at,
    )


async def read_items(
    store: BatchReads, definition: Definition, batch: str, state: ItemState | None
) -> AsyncIterator[BatchItem[Any]]:
    """Yield the started items of a batch, or those in `state`, ordered by number."""
    after = -1
    while items := await store.items(batch, state=state, after=after, limit=ITEMS_PER_READ):
        for item in items:
            yield batch_item(definition, item)
        after = items[-1].number
