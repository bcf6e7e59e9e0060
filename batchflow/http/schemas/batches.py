"""The documents of batches."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from batchflow.batch.names import camel_case
from batchflow.batch.rollup import Totals
from batchflow.batch.status import BatchStatus, BatchSummary, WaitCode, WaitReason
from batchflow.core.batch import Batch, BatchState, Counts, ErrorGroup, NotificationState, StopReason
from batchflow.core.secrets import masked_value
from batchflow.http.schemas.base import ApiModel, required_datetime, short_error, stored_traceback, to_datetime
from batchflow.http.schemas.failure_budgets import FailureBudgetInfo
from batchflow.http.schemas.totals import TotalsInfo
from batchflow.serve.app_url import without_credentials


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


def wire_params(batch: Batch, names: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The parameters of a batch as a trigger over HTTP takes them, without secret values.

    `names` are those of fields in JSON; without them, as where its workflow is not known, all are camelCase.
    """
    return named_params(batch.params, names)


def named_params(text: str, names: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Parameters that are stored as this text; see `wire_params`."""
    params: dict[str, Any] = masked_value(text) or {}
    known = {name: camel_case(name) for name in params} if names is None else names
    return {known.get(name, name): value for name, value in params.items()}


class WaitReasonInfo(ApiModel):
    """The reason why a batch goes no faster, or not on at all, in a sentence without a period.

    `paused`: an operator has paused the batch. `failure_budget`: too many of its items have failed, and it is paused
    until an operator resumes it. `approval`: its canary has ended, and an operator has to approve the batch.
    `not_before`: its start time has not come. `unserved`: no worker serves it. `key_paused`: an operator has paused its
    flow key. `key_parked`: a service limits its rate. `breaker_open`: the circuit breaker of its flow key is open.
    `worker_silent`: a worker that holds items is not heard of. `limit`: a limit of its flow control, or the concurrency
    of the process. `completion`: its items have ended, and `on_complete` has not.
    """

    code: WaitCode
    sentence: str

    @classmethod
    def of(cls, reason: WaitReason | None) -> "WaitReasonInfo | None":
        """A reason, if there is one."""
        return None if reason is None else cls(code=reason.code, sentence=reason.sentence)


class NotificationInfo(ApiModel):
    """The notification of a batch's end: to `url`, without credentials and query, and its state since `at`.

    `state` is `pending` until the batch has ended. `error` is the reason why the URL was not reached.
    """

    url: str
    state: NotificationState | Literal["pending"]
    at: datetime | None
    error: str | None

    @classmethod
    def of(cls, batch: Batch) -> "NotificationInfo | None":
        """The notification of a batch that has a URL for it."""
        if batch.notify_url is None:
            return None
        sent = batch.notification
        return cls(
            url=without_credentials(batch.notify_url),
            state="pending" if sent is None else sent.state,
            at=None if sent is None else to_datetime(sent.at),
            error=None if sent is None else sent.error,
        )


class BatchInfo(ApiModel):
    """A batch and its progress.

    `total` is the number of items that run in all: so far, until `isTotalKnown`; `percent` and `etaMs` are null until
    then. `isFinal` is true once nothing of the batch runs any more. `counted` is the number that the source's `count`
    returned, where its pages named fewer. `lastErrors` are its failures in groups, those with the most attempts first;
    `completionError` is the reason why `on_complete` has failed for good. `waitReason` is the reason why the batch goes
    no faster; null if nothing holds it back, and in lists. `notification` is null unless it has a `notify_url`. Of the
    batches of a workflow, those with the highest `priority` start first. With a `canary` so many items run before all
    others, which wait as long as it `needsApproval`. `retryOf` is the batch of which it is a retry.
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
    paused: bool
    stop_reason: StopReason | None
    failure_budget: FailureBudgetInfo | None
    priority: int
    canary: int | None
    needs_approval: bool
    error: str | None
    completion_error: str | None
    last_errors: list[ErrorInfo]
    counted: int | None
    wait_reason: WaitReasonInfo | None = None
    notification: NotificationInfo | None = None
    retry_of: str | None = None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None

    @classmethod
    def of(
        cls, batch: Batch, now: int, *, walk_first: bool = False, wait_reason: WaitReason | None = None
    ) -> "BatchInfo":
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
            paused=batch.paused,
            stop_reason=batch.stop_reason,
            failure_budget=FailureBudgetInfo.of(batch.failure_budget),
            priority=batch.priority,
            canary=batch.canary,
            needs_approval=status.needs_approval,
            error=status.error if batch.error is None else short_error(batch.error),
            completion_error=batch.completion_error,
            last_errors=[ErrorInfo.of(group) for group in batch.errors],
            counted=status.counted,
            wait_reason=WaitReasonInfo.of(wait_reason),
            notification=NotificationInfo.of(batch),
            retry_of=batch.retry_of,
            created_at=required_datetime(batch.created_at),
            started_at=to_datetime(batch.started_at),
            ended_at=to_datetime(batch.ended_at),
        )


class RetryInfo(ApiModel):
    """A retry of a batch. `recovered` are those of its items that had not succeeded before, and have in it."""

    batch_id: str
    state: BatchState
    counts: ItemCounts
    recovered: int


class BatchDetail(BatchInfo):
    """A batch, whole: with its parameters, its retries, and the traceback of a walk that failed.

    `totals` are those of the batch and its retries; null without a retry. `counts` are its own.
    """

    params: Any
    traceback: str | None
    retries: list[RetryInfo]
    totals: TotalsInfo | None

    @classmethod
    def of_info(
        cls, info: BatchInfo, batch: Batch, names: Mapping[str, str] | None = None, retries: Sequence[Batch] = ()
    ) -> "BatchDetail":
        """The whole of a batch, of which `info` has the rest. `names` as for `wire_params`."""
        totals = Totals.of(batch, retries)
        return cls(
            **dict(info),
            params=wire_params(batch, names),
            traceback=stored_traceback(batch.error),
            retries=[
                RetryInfo(batch_id=it.id, state=it.state, counts=ItemCounts.of(it.counts), recovered=it.recovered)
                for it in retries
            ],
            totals=None if totals is None else TotalsInfo(**totals._asdict()),
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


class BatchNotification(BatchReport):
    """The end of a batch, as it is sent to its `notify_url`; `message` is one line about it for people."""

    retry_of: str | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime

    @classmethod
    def of_batch(cls, batch: Batch) -> "BatchNotification":
        """The notification of a batch that has ended."""
        summary = BatchSummary.of(batch)
        return cls(
            **dict(BatchReport.of(summary, str(summary))),
            retry_of=batch.retry_of,
            created_at=required_datetime(batch.created_at),
            started_at=to_datetime(batch.started_at),
            ended_at=required_datetime(batch.ended_at or 0),
        )


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


class BatchList(ApiModel):
    """Batches, newest first. `nextCursor` is null on the last page."""

    batches: list[BatchInfo]
    next_cursor: str | None = None


class PauseBatchResponse(ApiModel):
    """`paused` is false if the batch had ended before, or is being cancelled."""

    success: Literal[True] = True
    paused: bool
    batch: BatchInfo


class ResumeBatchResponse(ApiModel):
    """`resumed` is false if the batch was not paused."""

    success: Literal[True] = True
    resumed: bool
    batch: BatchInfo


class ApproveBatchResponse(ApiModel):
    """`approved` is false if the batch needed no approval: it had none to wait for, or has ended before."""

    success: Literal[True] = True
    approved: bool
    batch: BatchInfo


class BatchPriorityResponse(ApiModel):
    """`changed` is false if the batch had ended before, or is being cancelled."""

    success: Literal[True] = True
    changed: bool
    batch: BatchInfo


class PauseBatchesResponse(ApiModel):
    """`paused` is the number of the selected batches that had not ended."""

    success: Literal[True] = True
    paused: int


class ResumeBatchesResponse(ApiModel):
    """`resumed` is the number of the selected batches that were paused."""

    success: Literal[True] = True
    resumed: int


class CancelBatchesResponse(ApiModel):
    """`cancelled` is the number of the selected batches that had not ended before."""

    success: Literal[True] = True
    cancelled: int


class CancelBatchResponse(ApiModel):
    """`cancelled` is false if the batch had ended before, or was being cancelled already."""

    success: Literal[True] = True
    cancelled: bool
    batch: BatchInfo
