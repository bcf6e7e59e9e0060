"""What is known of a batch once it has ended."""

from dataclasses import dataclass

from batchflow.core.batch import Batch, BatchState, Counts
from batchflow.core.duration import show

MOVED = (
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
            counted=counted_more(batch),
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
        return f"batch '{self.id}' of '{self.workflow}' {how}: {self.error or spell_counts(self.counts)}"

    def __str__(self) -> str:
        label = f" ({self.label})" if self.label else ""
        text = f"{self.workflow} {self.id}{label} {self.state} in {show(self.duration_ms)}: {spell_counts(self.counts)}"
        text = f"{text}; {self.error}" if self.error else text
        return text if self.counted is None else f"{text}; {spell_counted(self.counted, self.counts)}"


def counted_more(batch: Batch) -> int | None:
    """What `count` said of a batch whose walk is through and has named fewer; else None."""
    walked = batch.state in ("sealed", "completed")
    return batch.total if walked and batch.total is not None and batch.counts.eligible < batch.total else None


def spell_counted(counted: int, counts: Counts) -> str:
    """One sentence about a walk that has named fewer items than `count` said."""
    return f"count said {counted:,} and the pages have named {counts.eligible:,}: {MOVED}"


def spell_counts(counts: Counts) -> str:
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
