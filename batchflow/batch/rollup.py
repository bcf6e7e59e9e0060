"""The outcome of a batch and its retries, taken together."""

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from batchflow.core.batch import Batch, BatchState, Counts, Item, ItemState
from batchflow.core.store import BatchReads


class RetryOutcome(NamedTuple):
    """A retry of a batch. `recovered` are those of its items that had not succeeded before, and have in it."""

    id: str
    state: BatchState
    counts: Counts
    recovered: int = 0


class Totals(NamedTuple):
    """The items of a batch and of its retries, each counted once, by the state of its latest run.

    `recovered` have succeeded in a retry and had failed or been cancelled before.
    """

    open: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    recovered: int = 0

    @classmethod
    def of(cls, batch: Batch, retries: Sequence[Batch]) -> "Totals | None":
        """The totals of a batch with these retries; None without any."""
        if not retries:
            return None
        # Every run but the latest of an item is replaced by a later one.
        return cls(
            open=sum(it.counts.open for it in (batch, *retries)),
            succeeded=sum(it.counts.succeeded - it.replaced.succeeded for it in (batch, *retries)),
            failed=sum(it.counts.failed - it.replaced.failed for it in (batch, *retries)),
            cancelled=sum(it.counts.cancelled - it.replaced.cancelled for it in (batch, *retries)),
            recovered=sum(it.recovered for it in retries),
        )

    def __str__(self) -> str:
        succeeded = f"{self.succeeded:,} succeeded"
        succeeded += f" ({self.recovered:,} recovered)" if self.recovered else ""
        named = {"open": self.open, "failed": self.failed, "cancelled": self.cancelled}
        return ", ".join([succeeded, *(f"{count:,} {name}" for name, count in named.items() if count)])


def retry_outcomes(retries: Sequence[Batch]) -> tuple[RetryOutcome, ...]:
    """The outcomes of retries."""
    return tuple(RetryOutcome(it.id, it.state, it.counts, it.recovered) for it in retries)


async def read_retries(store: BatchReads, batch: Batch) -> Sequence[Batch]:
    """The retries of a batch; a retry has none itself."""
    return () if batch.retry_of is not None else await store.retries(batch.id)


async def latest_items(
    store: BatchReads, batch: Batch, retries: Sequence[Batch], state: ItemState | None, limit: int
) -> AsyncIterator[Sequence[Item]]:
    """Yield the items of a batch, some at a time, each as its latest run has left it, with its own number.

    Those that only a retry has run come last.
    """
    after = -1
    while items := await store.items(batch.id, state=None if retries else state, after=after, limit=limit):
        after = items[-1].number
        yield await _latest(store, batch.id, items, state) if retries else items
    for retry in retries:
        if retry.counts.started > sum(retry.replaced):
            after = -1
            while items := await store.items(retry.id, after=after, limit=limit):
                after = items[-1].number
                yield await _latest(store, batch.id, items, state)


async def _latest(store: BatchReads, batch: str, items: Sequence[Item], state: ItemState | None) -> Sequence[Item]:
    retried = await store.retried_items(batch, [item.id for item in items])
    found = [retried[item.id][1] if item.id in retried else item for item in items]
    return [item for item in found if state in (None, item.state)]
