"""The JSON documents of HTTP responses and of `--json`. Names are camelCase, times ISO 8601 in UTC.

Each class has a constructor `of` that takes the value of the core that it shows. FastAPI is not imported here.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from batchflow.batch.answers import result_text
from batchflow.batch.status import BatchStatus, BatchSummary
from batchflow.core.batch import Batch, BatchState, Counts, ErrorGroup, Item, ItemState
from batchflow.core.call import CALL_DESTINATION
from batchflow.core.message import DeadLetter, UnservedWork, WorkerStatus
from batchflow.core.run import Run, RunState, Step, StepKind, StepState, Waiter
from batchflow.core.secrets import masked_value
from batchflow.serve.failure import headline, one_line, own_frame, traceback_text

LATEST_MS = 253_402_300_799_999
"""The end of the year 9999. A later time means: never by itself."""


class ApiModel(BaseModel):
    """Base of all documents."""

    model_config = ConfigDict(
        frozen=True,
        alias_generator=to_camel,
        field_title_generator=lambda name, _: name.replace("_", " ").capitalize(),
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )

    def document(self) -> dict[str, Any]:
        """The document as plain JSON values."""
        return self.model_dump(mode="json")


# Batches


class ItemCounts(ApiModel):
    """The number of items in each state. `eligible` counts every mention of an item so far.

    Of the `open` items, `retrying` wait after a failed attempt, and `parked` because a service limits their rate.
    """

    eligible: int
    open: int
    succeeded: int
    failed: int
    cancelled: int
    already_processed: int
    in_flight: int
    duplicates: int
    left_out: int
    retrying: int
    parked: int

    @classmethod
    def of(cls, counts: Counts) -> "ItemCounts":
        """The counts of a batch."""
        return cls(**counts._asdict())


class ErrorInfo(ApiModel):
    """Failures of a batch with the same exception type, and the same last line of your code (`where`).

    `attempts` failed in all, and `items` of them failed their item for good. `message` is the latest error, of `itemId`
    where an item failed.
    """

    type: str
    where: str
    attempts: int
    items: int
    message: str
    item_id: str | None
    at: datetime | None

    @classmethod
    def of(cls, group: ErrorGroup) -> "ErrorInfo":
        """An error group of a batch."""
        return cls(
            type=group.type,
            where=group.where,
            attempts=group.attempts,
            items=group.items,
            message=group.message,
            item_id=group.item,
            at=to_datetime(group.at or None),
        )


class BatchInfo(ApiModel):
    """A batch and its progress.

    `total` is the number of items that run in all: so far, until `isTotalKnown`; `percent` and `etaMs` are null until
    then. `isFinal` is true once nothing of the batch runs any more. `counted` is the number that the source's `count`
    returned, where its pages named fewer. `lastErrors` are its failures in groups, those with the most attempts first;
    `completionError` is the reason why `on_complete` has failed for good.
    """

    batch_id: str
    workflow: str
    state: BatchState
    is_final: bool
    counts: ItemCounts
    total: int
    is_total_known: bool
    percent: float | None
    items_per_second: float
    eta_ms: int | None
    elapsed_ms: int
    pages: int
    chunks: int
    force: bool
    label: str | None
    error: str | None
    completion_error: str | None
    last_errors: list[ErrorInfo]
    counted: int | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None

    @classmethod
    def of(cls, batch: Batch, now: int, *, walk_first: bool = False) -> "BatchInfo":
        """The progress of a batch at `now`; `walk_first` as its workflow sets it."""
        status = BatchStatus.of(batch, now, walk_first=walk_first)
        return cls(
            batch_id=batch.id,
            workflow=batch.workflow,
            state=batch.state,
            is_final=status.is_over,
            counts=ItemCounts.of(batch.counts),
            total=status.total,
            is_total_known=status.is_total_known,
            percent=status.percent,
            items_per_second=status.items_per_second,
            eta_ms=status.eta_ms,
            elapsed_ms=status.elapsed_ms,
            pages=batch.pages,
            chunks=batch.chunks,
            force=batch.force,
            label=batch.label,
            error=None if status.error is None else short_error(batch.error),
            completion_error=batch.completion_error,
            last_errors=[ErrorInfo.of(group) for group in batch.errors],
            counted=status.counted,
            created_at=_datetime(batch.created_at),
            started_at=to_datetime(batch.started_at),
            ended_at=to_datetime(batch.ended_at),
        )


class BatchDetail(BatchInfo):
    """A batch, whole: with its parameters, and the traceback of a walk that failed."""

    params: Any
    traceback: str | None

    @classmethod
    def of_info(cls, info: BatchInfo, batch: Batch, names: Mapping[str, str]) -> "BatchDetail":
        """The whole of a batch, of which `info` has the rest. `names` are those of its parameters in JSON."""
        params: dict[str, Any] = masked_value(batch.params) or {}
        return cls(
            **dict(info),
            params={names.get(name, name): value for name, value in params.items()},
            traceback=_traceback(batch.error),
        )


class BatchList(ApiModel):
    """The latest batches, newest first."""

    batches: list[BatchInfo]


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
        return cls(**_item_fields(item), result=result, traceback=_traceback(item.error))


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


class DeadLetterInfo(ApiModel):
    """A message whose attempts are used up: `attempts` executions in all."""

    id: str
    destination: str
    item_id: str | None
    attempts: int
    error: str
    died_at: datetime | None

    @classmethod
    def of(cls, letter: DeadLetter) -> "DeadLetterInfo":
        """A dead letter."""
        return cls(
            id=letter.id,
            destination=letter.message.destination,
            item_id=letter.item,
            attempts=letter.attempts,
            error=letter.error,
            died_at=to_datetime(letter.died_at),
        )


class BatchReport(ApiModel):
    """The end of a batch that a command has run, or its state at the interruption, with a sentence about it."""

    batch_id: str
    workflow: str
    state: BatchState
    success: bool
    message: str
    counts: ItemCounts
    pages: int
    chunks: int
    duration_ms: int
    label: str | None
    error: str | None
    completion_error: str | None
    last_errors: list[ErrorInfo]
    counted: int | None

    @classmethod
    def of(cls, batch: BatchSummary | BatchStatus, message: str) -> "BatchReport":
        """The report of a batch that has ended (a summary), or that goes on elsewhere or later (a status)."""
        ended = isinstance(batch, BatchSummary)
        return cls(
            batch_id=batch.id,
            workflow=batch.workflow,
            state=batch.state,
            success=ended and batch.succeeded,
            message=message,
            counts=ItemCounts.of(batch.counts),
            pages=batch.pages,
            chunks=batch.chunks,
            duration_ms=batch.duration_ms if ended else batch.elapsed_ms,
            label=batch.label,
            error=batch.error,
            completion_error=batch.completion_error,
            last_errors=[ErrorInfo.of(group) for group in batch.errors],
            counted=batch.counted,
        )


# Runs


class StepInfo(ApiModel):
    """A step of a run. `attempts` counts the executions of a step; it is null for one that waits for something.

    `recordedAt` is the time at which the outcome was recorded. A pending step goes on by itself at `dueAt`.
    """

    name: str
    kind: StepKind
    state: StepState
    attempts: int | None
    recorded_at: datetime | None
    due_at: datetime | None
    result: Any
    error: str | None
    traceback: str | None

    @classmethod
    def of(cls, step: Step) -> "StepInfo":
        """A step as it is recorded."""
        return cls(
            name=step.name,
            kind=step.kind,
            state=step.state,
            attempts=step.failures + (step.state == "done") if step.kind == "run" else None,
            recorded_at=to_datetime(step.at) if step.position and step.at else None,
            due_at=to_datetime(step.due) if step.state == "pending" and step.due > 0 else None,
            result=masked_value(step.value) if step.position else None,
            error=short_error(step.error),
            traceback=_traceback(step.error),
        )


class RunInfo(ApiModel):
    """A run, without what may be large.

    `failures` counts failed attempts outside of steps; `parent` is the run that invoked it.
    """

    workflow_run_id: str
    route: str
    state: RunState
    error: str | None
    failures: int
    label: str | None
    parent: str | None
    batch_id: str | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None

    @classmethod
    def of(cls, run: Run) -> "RunInfo":
        """A run in its present state."""
        return cls(**_run_fields(run))


class RunDetail(RunInfo):
    """A run, whole, with its steps in the order in which its code asked for them."""

    payload: Any
    result: Any
    traceback: str | None
    steps: list[StepInfo]

    @classmethod
    def of(cls, run: Run) -> "RunDetail":
        """A run in its present state."""
        return cls(
            **_run_fields(run),
            payload=masked_value(run.payload),
            result=masked_value(run.result),
            traceback=_traceback(run.error),
            steps=[StepInfo.of(step) for step in run.steps],
        )


class RunList(ApiModel):
    """Runs, the latest first. `nextCursor` is the `cursor` of the next page; null on the last page."""

    runs: list[RunInfo]
    next_cursor: str | None


class WaiterInfo(ApiModel):
    """A run that waits for an event. `until` is null where the wait has no end."""

    workflow_run_id: str
    step: str
    since: datetime
    until: datetime | None

    @classmethod
    def of(cls, waiter: Waiter) -> "WaiterInfo":
        """A waiting run."""
        return cls(
            workflow_run_id=waiter.run,
            step=waiter.step,
            since=_datetime(waiter.since),
            until=to_datetime(waiter.until),
        )


class WaiterList(ApiModel):
    """The runs that wait for an event, the longest wait first."""

    event_id: str
    waiters: list[WaiterInfo]


# Workers


class WorkerInfo(ApiModel):
    """A worker: its start, its last heartbeat, and the time at which its claims are taken back without another one.

    `holds` is the number of its claims by destination, and `serves` are all those that it serves. `hanging` is the
    number of threads that it has given up because a plain function does not return. A worker that has died is `lost`
    until its claims are taken back.
    """

    name: str
    state: Literal["working", "lost"]
    since: datetime | None
    seen_at: datetime | None
    lease_until: datetime
    concurrency: int | None
    hanging: int
    held: int
    holds: dict[str, int]
    serves: list[str]

    @classmethod
    def of(cls, worker: WorkerStatus) -> "WorkerInfo":
        """A worker in its present state."""
        return cls(
            name=worker.name,
            state="lost" if worker.lost else "working",
            since=to_datetime(worker.since or None),
            seen_at=to_datetime(worker.seen_at or None),
            lease_until=_datetime(worker.lease_until),
            concurrency=worker.concurrency or None,
            hanging=worker.hanging,
            held=worker.held,
            holds=dict(sorted(worker.holds.items())),
            serves=[it for it in worker.serves if it != CALL_DESTINATION],
        )


class UnservedInfo(ApiModel):
    """Due messages of a destination that no worker serves; `batchId` is their batch, if all belong to one."""

    destination: str
    waiting: int
    batch_id: str | None

    @classmethod
    def of(cls, work: UnservedWork) -> "UnservedInfo":
        """Work that nobody serves."""
        return cls(destination=work.destination, waiting=work.waiting, batch_id=work.batch)


class WorkerList(ApiModel):
    """Workers, by name, and the work that is due and that none of them serves."""

    workers: list[WorkerInfo]
    unserved: list[UnservedInfo] = []


class HealthInfo(ApiModel):
    """The health of an app. `reason` and the number of `workers` are for operators, and null for others."""

    status: Literal["ok", "unavailable"]
    reason: str | None = None
    workers: int | None = None


# Responses to requests that change something


class ErrorResponse(ApiModel):
    """The reason why nothing was done, in one sentence. `field` is the part of the request at fault, if any."""

    success: Literal[False] = False
    error: str
    field: str | None = None


class StartBatchResponse(ApiModel):
    """The batch is stored. `workflowRunId` is the run of its entry.

    Its status is at `statusUrl`: only a path if the public URL is not known, null if the app has no admin router.

    `deduplicated` is true if the batch existed before and nothing was started.
    """

    success: Literal[True] = True
    workflow_run_id: str
    batch_id: str
    deduplicated: bool = False
    status_url: str | None


class StartRunResponse(ApiModel):
    """The run is stored. Its status is at `statusUrl`, as for a batch.

    `deduplicated` is true if the run existed before and nothing was started.
    """

    success: Literal[True] = True
    workflow_run_id: str
    deduplicated: bool = False
    status_url: str | None


class CancelBatchResponse(ApiModel):
    """`cancelled` is false if the batch had ended before, or was being cancelled already."""

    success: Literal[True] = True
    cancelled: bool
    batch: BatchInfo


class CancelRunResponse(ApiModel):
    """`cancelled` is false if the run had ended before. A running one ends at its next step."""

    success: Literal[True] = True
    cancelled: bool
    run: RunInfo


class CancelRunsResponse(ApiModel):
    """`cancelled` is the number of runs, and of batches with the label, that had not ended before."""

    success: Literal[True] = True
    cancelled: int


class NotifyResponse(ApiModel):
    """`runIds` are the runs that received the event, or for which it is kept."""

    success: Literal[True] = True
    event_id: str
    run_ids: list[str]


class WebhookResponse(ApiModel):
    """The request is stored for its run."""

    success: Literal[True] = True
    workflow_run_id: str


def to_datetime(ms: int | None) -> datetime | None:
    """A time in UTC; None for no time, and for one after the year 9999."""
    return None if ms is None or ms > LATEST_MS else _datetime(ms)


def _datetime(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def short_error(text: str | None) -> str | None:
    """The first line of a stored error, with the user's own last frame; None for no error."""
    if text is None:
        return None
    frame = own_frame(text)
    return f"{one_line(headline(text))} ({frame})" if frame else one_line(headline(text))


def _traceback(text: str | None) -> str | None:
    return traceback_text(text or "") or None


def _item_fields(item: Item) -> dict[str, Any]:
    return {
        "number": item.number,
        "item_id": item.id,
        "state": item.state,
        "attempts": item.attempts,
        "error": short_error(item.error),
        "ended_at": to_datetime(item.ended_at),
    }


def _run_fields(run: Run) -> dict[str, Any]:
    return {
        "workflow_run_id": run.id,
        "route": run.destination,
        "state": run.state,
        "error": short_error(run.error),
        "failures": run.failures,
        "label": run.label,
        "parent": run.parent,
        "batch_id": run.batch,
        "created_at": _datetime(run.created_at),
        "started_at": to_datetime(run.started_at),
        "ended_at": to_datetime(run.ended_at),
    }
