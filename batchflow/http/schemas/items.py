"""The documents of items."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from batchflow.batch.answers import result_text
from batchflow.core.batch import Item, ItemState
from batchflow.core.secrets import masked_value
from batchflow.http.schemas.base import ApiModel, short_error, stored_traceback, to_datetime


class ItemInfo(ApiModel):
    """An item of a batch, without what may be large. `error` of an open item is that of its last failed attempt."""

    number: int
    item_id: str
    state: ItemState
    attempts: int
    error: str | None
    ended_at: datetime | None

    @classmethod
    def of(cls, item: Item) -> "ItemInfo":
        """An item in its present state."""
        return cls(**_item_fields(item))


class ItemDetail(ItemInfo):
    """An item of a batch, whole.

    `result` is what `execute` returned, if the item has succeeded and results are kept.
    """

    result: Any
    traceback: str | None

    @classmethod
    def of(cls, item: Item) -> "ItemDetail":
        """An item in its present state."""
        result = masked_value(result_text(item))
        return cls(**_item_fields(item), result=result, traceback=stored_traceback(item.error))


class ItemList(ApiModel):
    """Items by number. `nextAfter` is the `after` of the next page; null on the last page."""

    items: list[ItemInfo]
    next_after: int | None


class ItemOfBatch(ItemInfo):
    """An item, with its batch."""

    batch_id: str


class ItemHistory(ApiModel):
    """One item over the latest batches of its workflow, newest first."""

    workflow: str
    item_id: str
    items: list[ItemOfBatch]

    @classmethod
    def of(cls, workflow: str, item_id: str, found: Sequence[tuple[str, Item]]) -> "ItemHistory":
        """The item as these batches have it."""
        items = [ItemOfBatch(**_item_fields(item), batch_id=batch) for batch, item in found]
        return cls(workflow=workflow, item_id=item_id, items=items)


def _item_fields(item: Item) -> dict[str, Any]:
    return {
        "number": item.number,
        "item_id": item.id,
        "state": item.state,
        "attempts": item.attempts,
        "error": short_error(item.error),
        "ended_at": to_datetime(item.ended_at),
    }
