"""The status of a batch at any time, and its summary at the end."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from batchflow.batch.names import quantity
from batchflow.batch.rollup import RetryOutcome, Totals, retry_outcomes
from batchflow.core.batch import Batch, BatchState, Counts, ErrorGroup, Notification, StopReason
from batchflow.core.duration import humanize_duration
from batchflow.core.failure_budget import FailureBudget
from batchflow.core.report import headline, one_line

ROWS_MOVED = (
    "rows may have moved while they were walked, as with LIMIT and OFFSET over what is not done yet; page by a key, or "
    "set walk_first"
)
"""The likely reason for a walk over fewer items than `count` returned, and the remedy."""

_MOST_PERCENT = 99.9
# The percentage of a batch that is not completed, however many of its items have run.


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSummary:
    """The summary of an ended batch, for `on_complete` and from `BatchHandle.wait`.

    `duration_ms` is the time from the trigger to the end of the last item. `error` is the reason of a walk that failed,
    or for which the `failure_budget` (the `stop_reason`) has cancelled the batch, `completion_error` that of an
    `on_complete` that failed for good, each in one sentence. `errors` are the failures in
    groups. `counted` is the result of `count` if the pages had fewer ids, else None. `str()` of it is one line for
    people.

    `retries` are the batches that were linked to it by `retry` by now, and `totals` count the items of all of them by
    their latest outcomes; None without a retry. The `counts` stay its own. In a retry, `retry_of` is the batch that it
    retries.
    """

    id: str
    workflow: str
    state: BatchState
    counts: Counts
    duration_ms: int
    pages: int = 0
    chunks: int = 0
    label: str | None = None
    error: str | None = None
    counted: int | None = None
    errors: tuple[ErrorGroup, ...] = ()
    completion_error: str | None = None
    stop_reason: StopReason | None = None
    retry_of: str | None = None
    retries: tuple[RetryOutcome, ...] = ()
    totals: Totals | None = None

    @classmethod
    def of(cls, batch: Batch, retries: Sequence[Batch] = ()) -> "BatchSummary":
        """Create the summary of an ended batch."""
        ended = batch.ended_at if batch.ended_at is not None else batch.created_at
        return cls(
            id=batch.id,
            workflow=batch.workflow,
            state=batch.state,
            counts=batch.counts,
            duration_ms=max(0, ended - batch.created_at),
            pages=batch.pages,
            chunks=batch.chunks,
            label=batch.label,
            error=_error_of(batch),
            counted=overstated_count(batch),
            errors=batch.errors,
            completion_error=batch.completion_error,
            stop_reason=batch.stop_reason,
            retry_of=batch.retry_of,
            retries=retry_outcomes(retries),
            totals=Totals.of(batch, retries),
        )

    @property
    def recovered(self) -> int:
        """The number of items that had failed or been cancelled, and have succeeded in a retry."""
        return self.totals.recovered if self.totals else 0

    @property
    def succeeded(self) -> bool:
        """True if every item that was to run has succeeded, here or in a retry, and `on_complete` after them."""
        complete = self.state == "completed" and self.completion_error is None
        latest = self.totals or self.counts
        return complete and not latest.failed and not latest.cancelled and not latest.open

    def failure(self) -> str:
        """Return one sentence about a batch that did not succeed."""
        match self.state:
            case "completed" if self.completion_error is not None and not self.counts.failed:
                return f"batch '{self.id}' of '{self.workflow}' has ended, but {_format_completion(self)}"
            case "completed":
                how = "ended with items that did not succeed"
            case "cancelled":
                how = "was cancelled"
            case _:
                how = self.state
        text = f"batch '{self.id}' of '{self.workflow}' {how}: {self.error or format_counts(self.counts)}"
        return text if self.completion_error is None else f"{text}; {_format_completion(self)}"

    def __str__(self) -> str:
        label = f" ({self.label})" if self.label else ""
        text = f"{self.workflow} {self.id}{label} {self.state} in {humanize_duration(self.duration_ms)}"
        text = f"{text}: {format_counts(self.counts)}"
        text = f"{text}; {self.error}" if self.error else text
        text = f"{text}; {_format_completion(self)}" if self.completion_error else text
        text = text if self.totals is None else f"{text}; {format_totals(self.totals, len(self.retries))}"
        return text if self.counted is None else f"{text}; {format_overstated_count(self.counted, self.counts)}"


def format_totals(totals: Totals, retries: int) -> str:
    """Return the totals of a batch with its retries as text."""
    return f"with its {quantity(retries, 'retry', 'retries')}: {totals}"


def overstated_count(batch: Batch) -> int | None:
    """Return the result of `count` if the ended walk had fewer ids; else None."""
    walked = batch.state in ("sealed", "completed")
    return batch.total if walked and batch.total is not None and batch.counts.eligible < batch.total else None


def format_overstated_count(counted: int, counts: Counts) -> str:
    """Return one sentence about a walk with fewer ids than `count` returned."""
    return f"count said {counted:,} and the pages have named {counts.eligible:,}: {ROWS_MOVED}"


def _format_completion(batch: "BatchSummary | BatchStatus") -> str:
    return f"its on_complete failed: {batch.completion_error}"


def _error_of(batch: Batch) -> str | None:
    if batch.error is None and batch.stop_reason is not None and batch.state in ("cancelling", "cancelled"):
        return budget_sentence(batch)
    # A store that an older version has written may hold the traceback.
    return None if batch.error is None else one_line(headline(batch.error))


def budget_sentence(batch: Batch) -> str:
    """Return one sentence, without a period, about a batch that its failure budget has paused or cancelled."""
    counts = batch.counts
    ended = counts.succeeded + counts.failed
    # An operator may have removed it since.
    limit = f": {batch.failure_budget}" if batch.failure_budget is not None else ""
    if batch.failure_budget is not None and not batch.failure_budget.is_exceeded(counts.succeeded, counts.failed):
        # Some have been retried since, a resumed batch has counted anew, or the budget has been changed.
        return (
            f"it went over its failure budget, now{limit[1:]}; by now {counts.failed:,} of {ended:,} items have failed"
        )
    return f"{counts.failed:,} of {ended:,} items failed, over the failure budget{limit}"


def format_counts(counts: Counts) -> str:
    """Return the counts above zero as text: "78 succeeded, 2 failed, 20 already processed"."""
    named = {
        f"open{_format_waiting(counts)}": counts.open,
        "succeeded": counts.succeeded,
        "failed": counts.failed,
        "cancelled": counts.cancelled,
        "already processed": counts.already_processed,
        "in flight elsewhere": counts.in_flight,
        "duplicates": counts.duplicates,
        "beyond the limit": counts.left_out,
    }
    return ", ".join(f"{count:,} {name}" for name, count in named.items() if count) or "no items"


def _format_waiting(counts: Counts) -> str:
    named = {"retrying": counts.retrying, "parked": counts.parked}
    text = ", ".join(f"{count:,} {name}" for name, count in named.items() if count)
    return f" ({text})" if text else ""


WaitCode: TypeAlias = Literal[
    "paused",
    "failure_budget",
    "approval",
    "not_before",
    "unserved",
    "key_paused",
    "key_parked",
    "breaker_open",
    "worker_silent",
    "limit",
    "completion",
]
"""The kinds of reasons for which a batch goes no faster."""


class WaitReason(NamedTuple):
    """The reason why a batch goes no faster, or not on at all: its code, and a sentence without a period.

    `paused`: an operator has paused the batch. `failure_budget`: too many of its items have failed, and it is paused
    until an operator resumes it. `approval`: its canary has ended, and an operator has to approve the batch.
    `not_before`: its start time has not come. `unserved`: no worker serves it.
    `key_paused`: an operator has paused its flow key. `key_parked`: a service limits its rate. `breaker_open`: the
    circuit breaker of its flow key is open. `worker_silent`: a worker that holds items is not heard of. `limit`: a
    limit of its flow control, or the concurrency of this process. `completion`: its items have ended, and `on_complete`
    has not.
    """

    code: WaitCode
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStatus:
    """The status of a batch. `str()` of it is one line for people.

    `total` is the number of items to run: those found so far, until `is_total_known`. Only then are there a `percent`
    and an `eta_ms`. A total from `count` is corrected page by page, and is exact once the walk has ended.
    `items_per_second` is the mean since the trigger. `error` is the reason of a walk that failed, `completion_error`
    that of an `on_complete` that failed for good, and `errors` are the failures so far in groups. `counted` is the
    result of `count` if the pages had fewer ids, else None. `wait_reason` is the reason why the batch goes no faster;
    None if nothing holds it back. `stop_reason` is `failure_budget` while that has paused the batch, or if it has
    cancelled it; None if an operator has. `notification` is that of its end, if it has a `notify_url` and has ended.
    `retry_of`, `retries` and `totals` are as in `BatchSummary`. Of the batches of a workflow, those with the highest
    `priority` start first.
    `canary` is the number of items that run before all others; all others wait until the batch is approved, and no
    longer `needs_approval`.
    """

    id: str
    workflow: str
    state: BatchState
    counts: Counts
    total: int
    is_total_known: bool
    pages: int = 0
    chunks: int = 0
    working: int = 0
    elapsed_ms: int = 0
    label: str | None = None
    paused: bool = False
    canary: int | None = None
    needs_approval: bool = False
    stop_reason: StopReason | None = None
    failure_budget: FailureBudget | None = None
    error: str | None = None
    counted: int | None = None
    errors: tuple[ErrorGroup, ...] = ()
    completion_error: str | None = None
    wait_reason: WaitReason | None = None
    notification: Notification | None = None
    retry_of: str | None = None
    retries: tuple[RetryOutcome, ...] = ()
    totals: Totals | None = None
    priority: int = 0

    @classmethod
    def of(
        cls,
        batch: Batch,
        now: int,
        *,
        walk_first: bool = False,
        wait_reason: WaitReason | None = None,
        retries: Sequence[Batch] = (),
    ) -> "BatchStatus":
        """Create the status of a batch at `now`; with `walk_first` its total is that of the whole walk."""
        ended = batch.ended_at if batch.ended_at is not None else now
        # A walk that failed has not named all items.
        walked = batch.state in ("sealed", "cancelled", "completed")
        return cls(
            id=batch.id,
            workflow=batch.workflow,
            state=batch.state,
            counts=batch.counts,
            total=batch.counts.started if walked else _expected_total(batch, walk_first=walk_first),
            is_total_known=walked or batch.total is not None,
            pages=batch.pages,
            chunks=batch.chunks,
            working=batch.working,
            elapsed_ms=max(0, ended - batch.created_at),
            label=batch.label,
            paused=batch.paused,
            canary=batch.canary,
            needs_approval=batch.needs_approval and not batch.items_ended,
            stop_reason=batch.stop_reason,
            failure_budget=batch.failure_budget,
            error=_error_of(batch),
            counted=overstated_count(batch),
            errors=batch.errors,
            completion_error=batch.completion_error,
            wait_reason=wait_reason,
            notification=batch.notification,
            retry_of=batch.retry_of,
            retries=retry_outcomes(retries),
            totals=Totals.of(batch, retries),
            priority=batch.priority,
        )

    @property
    def is_over(self) -> bool:
        """True once nothing of the batch runs any more, its `on_complete` included."""
        return self.state in ("completed", "failed", "cancelled") and not self.working

    @property
    def percent(self) -> float | None:
        """The percentage of items that have run; None while the total is not known. Only a completed batch has 100."""
        if self.state == "completed":
            return 100.0
        if not self.is_total_known:
            return None
        return min(_MOST_PERCENT, 100.0 * _ran(self.counts) / self.total) if self.total else 0.0

    @property
    def items_per_second(self) -> float:
        """Items per second that have run since the trigger; cancelled ones have not."""
        return _ran(self.counts) * 1000 / self.elapsed_ms if self.elapsed_ms else 0.0

    @property
    def eta_ms(self) -> int | None:
        """The time left at the mean speed so far; None while the total or the speed is not known."""
        if not self.is_total_known or self.is_over:
            return 0 if self.is_over else None
        left = max(0, self.total - self.counts.ended)
        speed = self.items_per_second
        return round(left * 1000 / speed) if speed else None

    def __str__(self) -> str:
        total = f"{self.total:,}" if self.is_total_known else f"{self.total:,} so far"
        percent = "" if self.percent is None else f" ({math.floor(self.percent)}%)"
        eta = f", {humanize_duration(self.eta_ms)} to go" if self.eta_ms else ""
        done = f"{self.counts.ended:,} of {total}{percent}, {self.items_per_second:,.1f}/s{eta}"
        text = f"{self.workflow} {self.id} {self.state}: {done}; {format_counts(self.counts)}"
        text = f"{text}; {self.error}" if self.error else text
        text = f"{text}; {_format_completion(self)}" if self.completion_error else text
        text = text if self.totals is None else f"{text}; {format_totals(self.totals, len(self.retries))}"
        return text if self.counted is None else f"{text}; {format_overstated_count(self.counted, self.counts)}"


def _ran(counts: Counts) -> int:
    return counts.succeeded + counts.failed


def _expected_total(batch: Batch, *, walk_first: bool) -> int:
    """Estimate the number of items to run from the result of `count` and the pages so far."""
    counts = batch.counts
    # Only the pages of listed ids have named fewer than are to run.
    if walk_first and batch.total is not None and counts.eligible >= batch.total:
        # The whole walk has been counted: items left out from now on are already among the eligible ones.
        return max(counts.started, counts.eligible - counts.skipped - counts.left_out)
    return max(counts.started, (batch.total or 0) - counts.skipped)
