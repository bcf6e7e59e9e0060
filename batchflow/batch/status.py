"""How far a batch is, as it can be asked for at any time."""

from dataclasses import dataclass

from batchflow.batch.summary import counted_more, spell_counted, spell_counts
from batchflow.core.batch import Batch, BatchState, Counts
from batchflow.core.duration import show


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
        walked = batch.is_final or batch.state == "sealed"
        return cls(
            id=batch.id,
            workflow=batch.workflow,
            state=batch.state,
            counts=batch.counts,
            total=batch.counts.started if walked else _expected(batch, walk_first=walk_first),
            is_total_known=walked or batch.total is not None,
            pages=batch.pages,
            chunks=batch.chunks,
            working=batch.working,
            elapsed_ms=max(0, ended - batch.created_at),
            label=batch.label,
            error=batch.error,
            counted=counted_more(batch),
        )

    @property
    def is_final(self) -> bool:
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
        if not self.is_total_known or self.is_final:
            return 0 if self.is_final else None
        left = max(0, self.total - self.counts.ended)
        speed = self.items_per_second
        return round(left * 1000 / speed) if speed else None

    def __str__(self) -> str:
        total = f"{self.total:,}" if self.is_total_known else f"{self.total:,} so far"
        percent = "" if self.percent is None else f" ({self.percent:.0f}%)"
        eta = f", {show(self.eta_ms)} to go" if self.eta_ms else ""
        done = f"{self.counts.ended:,} of {total}{percent}, {self.items_per_second:,.1f}/s{eta}"
        text = f"{self.workflow} {self.id} {self.state}: {done}; {spell_counts(self.counts)}"
        return text if self.counted is None else f"{text}; {spell_counted(self.counted, self.counts)}"


def _expected(batch: Batch, *, walk_first: bool) -> int:
    """How many items will run, from what was counted beforehand and what has turned out since."""
    counts = batch.counts
    if walk_first and batch.total is not None:
        # All of it is walked, and left out so far: what is left out from now on is already counted as eligible.
        return max(counts.started, counts.eligible - counts.skipped - counts.left_out)
    return max(counts.started, (batch.total or 0) - counts.skipped)
