"""What is answered, as it stands on the wire: names are camelCase, instants ISO 8601 in UTC."""

from datetime import UTC, datetime
from typing import Any, Literal

from fastapi import Response
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel
from pydantic_core import from_json

from batchflow.batch.status import BatchStatus
from batchflow.core.batch import Batch, BatchState, Counts, Item, ItemState


class Answer(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(
        frozen=True, alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, serialize_by_alias=True
    )


class Refusal(Answer):
    """Why nothing was done, in one sentence; `field` is the part of the request at fault, where there is one."""

    success: Literal[False] = False
    error: str
    field: str | None = None


class BatchStarted(Answer):
    """A batch is started, and durable. Its status is at `statusUrl`, its entry's run is `workflowRunId`.

    `deduplicated` is true where it was there already and nothing was started.
    """

    success: Literal[True] = True
    workflow_run_id: str
    batch_id: str
    deduplicated: bool = False
    status_url: str


class RunStarted(Answer):
    """A run is started, and durable. How it stands is at `statusUrl`.

    `deduplicated` is true where it was there already and nothing was started.
    """

    success: Literal[True] = True
    workflow_run_id: str
    deduplicated: bool = False
    status_url: str


class CountsOfItems(Answer):
    """Where the items stand. `eligible` is all that was named so far, every mention counted."""

    eligible: int
    open: int
    succeeded: int
    failed: int
    cancelled: int
    already_processed: int
    in_flight: int
    duplicates: int
    left_out: int

    @classmethod
    def of(cls, counts: Counts) -> "CountsOfItems":
        """The counts of a batch."""
        return cls(**counts._asdict())


class BatchAnswer(Answer):
    """A batch as it stands.

    `total` is how many items run in all: so far, until `isTotalKnown`; only then are there a `percent` and an `etaMs`.
    `isFinal`: nothing of it runs any more. `counted` is what the source's `count` said, where its pages named fewer.
    """

    batch_id: str
    workflow: str
    state: BatchState
    is_final: bool
    counts: CountsOfItems
    total: int
    is_total_known: bool
    percent: float | None
    items_per_second: float
    eta_ms: int | None
    elapsed_ms: int
    pages: int
    chunks: int
    label: str | None
    error: str | None
    counted: int | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None

    @classmethod
    def of(cls, batch: Batch, now: int, *, walk_first: bool) -> "BatchAnswer":
        """A batch at `now`."""
        status = BatchStatus.of(batch, now, walk_first=walk_first)
        return cls(
            batch_id=batch.id,
            workflow=batch.workflow,
            state=batch.state,
            is_final=status.is_final,
            counts=CountsOfItems.of(batch.counts),
            total=status.total,
            is_total_known=status.is_total_known,
            percent=status.percent,
            items_per_second=status.items_per_second,
            eta_ms=status.eta_ms,
            elapsed_ms=status.elapsed_ms,
            pages=batch.pages,
            chunks=batch.chunks,
            label=batch.label,
            error=batch.error,
            counted=status.counted,
            created_at=instant(batch.created_at),
            started_at=None if batch.started_at is None else instant(batch.started_at),
            ended_at=None if batch.ended_at is None else instant(batch.ended_at),
        )


class BatchList(Answer):
    """The latest batches, newest first."""

    batches: list[BatchAnswer]


class CancelAnswer(Answer):
    """`cancelled` is false where the batch had ended before, or was being cancelled already."""

    success: Literal[True] = True
    cancelled: bool
    batch: BatchAnswer


class ItemAnswer(Answer):
    """An item of a batch. `result` is what `execute` returned, once it has succeeded and if results are kept."""

    number: int
    item_id: str
    state: ItemState
    result: Any
    error: str | None
    ended_at: datetime | None

    @classmethod
    def of(cls, item: Item) -> "ItemAnswer":
        """An item as it stands."""
        return cls(
            number=item.number,
            item_id=item.id,
            state=item.state,
            result=_result_of_item(item.result),
            error=item.error,
            ended_at=None if item.ended_at is None else instant(item.ended_at),
        )


class ItemPage(Answer):
    """Items by number. `nextAfter` is the `after` of the next page; null: this is the last one."""

    items: list[ItemAnswer]
    next_after: int | None


def respond(answer: BaseModel, status: int = 200, **headers: str) -> Response:
    """The response that carries an answer; `Retry_After="1"` gives the header `Retry-After`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    skip_none = isinstance(answer, Refusal)
    return Response(
        answer.model_dump_json(by_alias=True, exclude_none=skip_none), status, named, media_type="application/json"
    )


def _result_of_item(text: str | None) -> Any:
    """The value inside the pattern's answer for an item."""
    match None if text is None else from_json(text):
        case {"result": result}:
            return result
        case _:
            return None


def instant(ms: int) -> datetime:
    """A time, as answers have it."""
    return datetime.fromtimestamp(ms / 1000, UTC)
