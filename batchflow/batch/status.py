"""How far a batch is, as it can be asked for at any time."""

from dataclasses import dataclass

from batchflow.core.batch import Batch, BatchState, Counts
from batchflow.core.duration import humanize_duration

ROWS_MOVED = (
    "rows may have moved while they were walked, as with LIMIT and OFFSET over what is not done yet; page by a key, or "
    "set walk_first"
)
"""Why a walk may name fewer items than there were, and what helps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSummary:
    """How a batch ended: what `on_complete` is given and `BatchHandle.wait` returns.

    `duration_ms` runs from the trigger to the end of the last item. `error` says why the walk over the pages broke
    off, where it did. `counted` is what `count` said where the pages have named fewer, else None. As text it is one
    line for people.
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

    @classmethod
    def of(cls, batch: Batch) -> "BatchSummary":
        """The summary of a batch that has ended."""
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
            error=batch.error,
            counted=overstated_count(batch),
        )

    @property
    def succeeded(self) -> bool:
        """Whether every item that was to run has run without a failure."""
        return self.state == "completed" and not self.counts.failed and not self.counts.cancelled

    def failure(self) -> str:
        """One sentence about a batch that did not succeed."""
        match self.state:
            case "completed":
                how = "ended with items that did not succeed"
            case "cancelled":
                how = "was cancelled"
            case _:
                how = self.state
        return f"batch '{self.id}' of '{self.workflow}' {how}: {self.error or format_counts(self.counts)}"

    def __str__(self) -> str:
        label = f" ({self.label})" if self.label else ""
        text = f"{self.workflow} {self.id}{label} {self.state} in {humanize_duration(self.duration_ms)}"
        text = f"{text}: {format_counts(self.counts)}"
        text = f"{text}; {self.error}" if self.error else text
        return text if self.counted is None else f"{text}; {format_overstated_count(self.counted, self.counts)}"


def overstated_count(batch: Batch) -> int | None:
    """What `count` said of a batch whose walk is through and has named fewer; else None."""
    walked = batch.state in ("sealed", "completed")
    return batch.total if walked and batch.total is not None and batch.counts.eligible < batch.total else None


def format_overstated_count(counted: int, counts: Counts) -> str:
    """One sentence about a walk that has named fewer items than `count` said."""
    return f"count said {counted:,} and the pages have named {counts.eligible:,}: {ROWS_MOVED}"


def format_counts(counts: Counts) -> str:
    """Counts as people read them: "78 succeeded, 2 failed, 20 already processed"; zeros are left out."""
    named = {
        "open": counts.open,
        "succeeded": counts.succeeded,
        "failed": counts.failed,
        "cancelled": counts.cancelled,
        "already processed": counts.already_processed,
        "in flight elsewhere": counts.in_flight,
        "duplicates": counts.duplicates,
        "left out": counts.left_out,
    }
    return ", ".join(f"{count:,} {name}" for name, count in named.items() if count) or "no items"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStatus:
    """A batch as it stands. As text it is one line for people.

    `total` is how many items run in all: so far, until `is_total_known`; only then are there a `percent` and an
    `eta_ms`. Where it was counted beforehand it follows what turns out on the way, and is exact once all pages are
    walked. `items_per_second` is the mean since the batch was triggered. `counted` is what `count` said where the pages
    have named fewer, else None.
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
    error: str | None = None
    counted: int | None = None

    @classmethod
    def of(cls, batch: Batch, now: int, *, walk_first: bool = False) -> "BatchStatus":
        """The status of a batch at `now`; `walk_first` says that a total it has is that of its whole walk."""
        ended = batch.ended_at if batch.ended_at is not None else now
        walked = batch.items_ended or batch.state == "sealed"
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
            error=batch.error,
            counted=overstated_count(batch),
        )

    @property
    def is_over(self) -> bool:
        """True once nothing of the batch runs any more, its `on_complete` included."""
        return self.state in ("completed", "failed", "cancelled") and not self.working

    @property
    def percent(self) -> float | None:
        """How much of the items has ended, 0 to 100; None while the total is not known."""
        if not self.is_total_known:
            return None
        return 100.0 * self.counts.ended / self.total if self.total else 100.0

    @property
    def items_per_second(self) -> float:
        """Ended items per second since the trigger."""
        return self.counts.ended * 1000 / self.elapsed_ms if self.elapsed_ms else 0.0

    @property
    def eta_ms(self) -> int | None:
        """How long it will take at the speed so far; None while the total or the speed is not known."""
        if not self.is_total_known or self.is_over:
            return 0 if self.is_over else None
        left = max(0, self.total - self.counts.ended)
        speed = self.items_per_second
        return round(left * 1000 / speed) if speed else None

    def __str__(self) -> str:
        total = f"{self.total:,}" if self.is_total_known else f"{self.total:,} so far"
        percent = "" if self.percent is None else f" ({self.percent:.0f}%)"
        eta = f", {humanize_duration(self.eta_ms)} to go" if self.eta_ms else ""
        done = f"{self.counts.ended:,} of {total}{percent}, {self.items_per_second:,.1f}/s{eta}"
        text = f"{self.workflow} {self.id} {self.state}: {done}; {format_counts(self.counts)}"
        return text if self.counted is None else f"{text}; {format_overstated_count(self.counted, self.counts)}"


def _expected_total(batch: Batch, *, walk_first: bool) -> int:
    """How many items will run, from what was counted beforehand and what has turned out since."""
    counts = batch.counts
    if walk_first and batch.total is not None:
        # All of it is walked, and left out so far: what is left out from now on is already counted as eligible.
        return max(counts.started, counts.eligible - counts.skipped - counts.left_out)
    return max(counts.started, (batch.total or 0) - counts.skipped)
