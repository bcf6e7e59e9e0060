"""What is answered, as it stands on the wire: names are camelCase, instants ISO 8601 in UTC."""

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel
from pydantic_core import from_json

from batchflow.batch.status import BatchStatus
from batchflow.core.batch import Batch, BatchState, Counts, Item, ItemState
from batchflow.core.run import Run, RunState, Step, StepKind, StepState, Waiter
from batchflow.core.worker import WorkerStatus
from batchflow.serve.failure import headline


class ApiModel(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(
        frozen=True, alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, serialize_by_alias=True
    )


class ErrorResponse(ApiModel):
    """Why nothing was done, in one sentence; `field` is the part of the request at fault, where there is one."""

    success: Literal[False] = False
    error: str
    field: str | None = None


class StartBatchResponse(ApiModel):
    """A batch is started, and durable. Its status is at `statusUrl`, its entry's run is `workflowRunId`.

    `deduplicated` is true where it was there already and nothing was started.
    """

    success: Literal[True] = True
    workflow_run_id: str
    batch_id: str
    deduplicated: bool = False
    status_url: str


class StartRunResponse(ApiModel):
    """A run is started, and durable. How it stands is at `statusUrl`.

    `deduplicated` is true where it was there already and nothing was started.
    """

    success: Literal[True] = True
    workflow_run_id: str
    deduplicated: bool = False
    status_url: str


class ItemCounts(ApiModel):
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
    def of(cls, counts: Counts) -> "ItemCounts":
        """The counts of a batch."""
        return cls(**counts._asdict())


class BatchInfo(ApiModel):
    """A batch as it stands.

    `total` is how many items run in all: so far, until `isTotalKnown`; only then are there a `percent` and an `etaMs`.
    `isFinal`: nothing of it runs any more. `counted` is what the source's `count` said, where its pages named fewer.
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
    label: str | None
    error: str | None
    counted: int | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None

    @classmethod
    def of(cls, batch: Batch, now: int, *, walk_first: bool) -> "BatchInfo":
        """A batch at `now`."""
        status = BatchStatus.of(batch, now, walk_first=walk_first)
        return cls(
            batch_id=batch.id,
            workflow=batch.workflow,
            state=batch.state,
            is_final=status.is_final,
            counts=ItemCounts.of(batch.counts),
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
            created_at=to_datetime(batch.created_at),
            started_at=None if batch.started_at is None else to_datetime(batch.started_at),
            ended_at=None if batch.ended_at is None else to_datetime(batch.ended_at),
        )


class BatchList(ApiModel):
    """The latest batches, newest first."""

    batches: list[BatchInfo]


class CancelBatchResponse(ApiModel):
    """`cancelled` is false where the batch had ended before, or was being cancelled already."""

    success: Literal[True] = True
    cancelled: bool
    batch: BatchInfo


class ItemInfo(ApiModel):
    """An item of a batch. `result` is what `execute` returned, once it has succeeded and if results are kept."""

    number: int
    item_id: str
    state: ItemState
    result: Any
    error: str | None
    ended_at: datetime | None

    @classmethod
    def of(cls, item: Item) -> "ItemInfo":
        """An item as it stands."""
        return cls(
            number=item.number,
            item_id=item.id,
            state=item.state,
            result=_item_result(item.result),
            error=item.error,
            ended_at=None if item.ended_at is None else to_datetime(item.ended_at),
        )


class ItemList(ApiModel):
    """Items by number. `nextAfter` is the `after` of the next page; null: this is the last one."""

    items: list[ItemInfo]
    next_after: int | None


def _item_result(text: str | None) -> Any:
    """The value inside the pattern's answer for an item."""
    match None if text is None else from_json(text):
        case {"result": result}:
            return result
        case _:
            return None


def to_datetime(ms: int) -> datetime:
    """A time, as answers have it."""
    return datetime.fromtimestamp(ms / 1000, UTC)


_LATEST_MS = 253_402_300_799_999
# The end of the year 9999. What goes on later than that does not go on by time alone.


class StepInfo(ApiModel):
    """A step of a run. `attempts` are those of a step that executes; null for one that waits for something.

    `recordedAt` is when its outcome was recorded. Of one that is pending, `dueAt` is when it goes on by itself.
    """

    name: str
    kind: StepKind
    state: StepState
    attempts: int | None
    recorded_at: datetime | None
    due_at: datetime | None
    result: Any
    error: str | None

    @classmethod
    def of(cls, step: Step) -> "StepInfo":
        """A step as it is recorded."""
        return cls(
            name=step.name,
            kind=step.kind,
            state=step.state,
            attempts=step.failures + (step.state == "done") if step.kind == "run" else None,
            recorded_at=to_datetime(step.at) if step.position and step.at else None,
            due_at=to_datetime(step.due) if step.state == "pending" and 0 < step.due <= _LATEST_MS else None,
            result=None if step.value is None else from_json(step.value),
            error=None if step.error is None else headline(step.error),
        )


class RunInfo(ApiModel):
    """A run as it stands. `failures` are failed attempts outside of steps, `parent` is the run that invoked it."""

    workflow_run_id: str
    route: str
    state: RunState
    result: Any
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
        """A run as it stands."""
        return cls(**_run_fields(run))


class RunDetail(RunInfo):
    """A run with its steps, in the order in which its code asked for them."""

    steps: list[StepInfo]

    @classmethod
    def of(cls, run: Run) -> "RunDetail":
        """A run as it stands."""
        return cls(**_run_fields(run), steps=[StepInfo.of(step) for step in run.steps])


class RunList(ApiModel):
    """Runs, the latest first. `nextCursor` is the `cursor` of the next page; null: this is the last one."""

    runs: list[RunInfo]
    next_cursor: str | None


class CancelRunResponse(ApiModel):
    """`cancelled` is false where the run had ended before. One at work ends at its next step."""

    success: Literal[True] = True
    cancelled: bool
    run: RunInfo


class CancelRunsResponse(ApiModel):
    """`cancelled` is how many runs, and batches of the label, had not ended before."""

    success: Literal[True] = True
    cancelled: int


class NotifyResponse(ApiModel):
    """`runIds` are the runs that got it, or for which it is kept."""

    success: Literal[True] = True
    event_id: str
    run_ids: list[str]


class WaiterInfo(ApiModel):
    """A run that waits for an event; `until` is null where it waits as long as it takes."""

    workflow_run_id: str
    step: str
    since: datetime
    until: datetime | None

    @classmethod
    def of(cls, waiter: Waiter) -> "WaiterInfo":
        """A waiter."""
        until = None if waiter.until is None or waiter.until > _LATEST_MS else to_datetime(waiter.until)
        return cls(workflow_run_id=waiter.run, step=waiter.step, since=to_datetime(waiter.since), until=until)


class WaiterList(ApiModel):
    """Who waits for an event, those that have waited longest first."""

    event_id: str
    waiters: list[WaiterInfo]


class WebhookResponse(ApiModel):
    """The request is durable, and its run's."""

    success: Literal[True] = True
    workflow_run_id: str


def _run_fields(run: Run) -> dict[str, Any]:
    return {
        "workflow_run_id": run.id,
        "route": run.destination,
        "state": run.state,
        "result": None if run.result is None else from_json(run.result),
        "error": run.error,
        "failures": run.failures,
        "label": run.label,
        "parent": run.parent,
        "batch_id": run.batch,
        "created_at": to_datetime(run.created_at),
        "started_at": None if run.started_at is None else to_datetime(run.started_at),
        "ended_at": None if run.ended_at is None else to_datetime(run.ended_at),
    }


class WorkerInfo(ApiModel):
    """A worker: since when it works, its last heartbeat, when its claims are taken back unless another one comes.

    `holds` is how many claims it has, by destination, `hanging` how many threads it has given up because a plain
    function does not return. One that has died is `lost` until its claims are taken back.
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

    @classmethod
    def of(cls, worker: WorkerStatus) -> "WorkerInfo":
        """A worker as it stands."""
        return cls(
            name=worker.name,
            state="lost" if worker.lost else "working",
            since=to_datetime(worker.since) if worker.since else None,
            seen_at=to_datetime(worker.seen_at) if worker.seen_at else None,
            lease_until=to_datetime(worker.lease_until),
            concurrency=worker.concurrency or None,
            hanging=worker.hanging,
            held=worker.held,
            holds=dict(sorted(worker.holds.items())),
        )


class WorkerList(ApiModel):
    """Workers, by name."""

    workers: list[WorkerInfo]
