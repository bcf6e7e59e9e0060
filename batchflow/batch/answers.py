"""The answers of the layers, as JSON text."""

from pydantic_core import from_json, to_json

from batchflow.batch.status import BatchSummary
from batchflow.core.batch import Item
from batchflow.core.codec import Codec
from batchflow.serve.endpoint import FailureResult


def _text(body: dict[str, object]) -> str:
    return to_json(body).decode()


def nothing_eligible() -> str:
    """Entry: there are no items."""
    return _text({"success": True, "totalEligible": 0, "message": "No eligible items found"})


def started(total: int, to_process: int, already_processed: int) -> str:
    """Entry: the trigger has listed the ids."""
    return _text(
        {
            "success": True,
            "totalEligible": total,
            "toProcess": to_process,
            "alreadyProcessed": already_processed,
            "message": f"Triggered pagination for {to_process} items",
        }
    )


def started_uncounted(total: int | None) -> str:
    """Entry: the walk over the pages starts; `total` is the result of `count`, if there is one."""
    counted = {} if total is None else {"totalEligible": total}
    return _text({"success": True, **counted, "message": "Triggered pagination"})


def walk_complete() -> str:
    """Paginate: an empty page ends the walk."""
    return _text({"success": True, "message": "Pagination complete"})


def chunk(processed: int) -> str:
    """Paginate: the items of a chunk are started."""
    return _text({"success": True, "processedItems": processed})


def page(processed: int, skipped: int, next_cursor: str | None) -> str:
    """Paginate: the items of a page are started, or published in chunks."""
    return _text({"success": True, "processedItems": processed, "skippedItems": skipped, "nextCursor": next_cursor})


def missing(key: str) -> FailureResult:
    """Execute: the payload has no id."""
    error = f"Missing {key}"
    return FailureResult(error, _text({"success": False, "error": error}))


def not_found(key: str, id: str) -> FailureResult:
    """Execute: `load` has returned None for this id."""
    error = "Item not found"
    return FailureResult(error, _text({"success": False, "error": error, key: id}))


def refused(error: str) -> FailureResult:
    """Any layer: the payload is invalid."""
    return FailureResult(error, _text({"success": False, "error": error}))


def completed(summary: BatchSummary) -> str:
    """Complete: `on_complete` has run. The summary is for the run that waits for the batch."""
    return f'{{"success":true,"summary":{_summary_codec().encode(summary)}}}'


def read_summary(text: str) -> BatchSummary:
    """Return the summary in an answer of `completed`."""
    return _summary_codec().decode(to_json(from_json(text)["summary"]))


class ItemAnswer:
    """Execute: the item has succeeded. Every item composes one, so the constant parts are joined only once."""

    __slots__ = ("_head",)

    def __init__(self, key: str) -> None:
        self._head = '{"success":true,' + _text({key: ""})[1:-3]

    def text(self, id: str, result: str) -> str:
        """Compose the answer of an item around the JSON text of its result; `result_text` takes it out again."""
        return f'{self._head}{to_json(id).decode()},"result":{result}}}'


def result_text(item: Item) -> str | None:
    """Return the JSON text of an item's result: None if it has not succeeded, or results are not kept."""
    if item.result is None or item.state != "succeeded":
        return None
    head = f':{to_json(item.id).decode()},"result":'
    return item.result[item.result.index(head) + len(head) : -1]


def _summary_codec() -> Codec[BatchSummary]:
    # Built with the first summary and not at import.
    return Codec.of(BatchSummary)
