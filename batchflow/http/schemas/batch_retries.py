"""The document of a retry of a batch."""

from typing import Literal

from batchflow.batch.retry import RetryResult
from batchflow.http.schemas.base import ApiModel
from batchflow.http.schemas.batches import BatchInfo


class RetryBatchResponse(ApiModel):
    """`resumed` dead letters go on; `linkedBatchId` is the batch that runs other items, null if there are none.

    `deduplicated` is true if the same retry was under way. `skipped` ids had succeeded before. `lost` items have failed
    and cannot run again: neither their dead letters are kept, nor can the workflow load them.
    """

    success: Literal[True] = True
    resumed: int
    linked_batch_id: str | None
    deduplicated: bool
    skipped: int
    lost: int
    batch: BatchInfo

    @classmethod
    def of(cls, done: RetryResult, batch: BatchInfo) -> "RetryBatchResponse":
        """The response to a retry of a batch."""
        return cls(
            resumed=done.resumed,
            linked_batch_id=None if done.linked is None else done.linked.id,
            deduplicated=done.linked is not None and done.linked.deduplicated,
            skipped=done.skipped,
            lost=done.lost,
            batch=batch,
        )
