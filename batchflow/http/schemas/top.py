"""The document of one frame of `batchflow top`."""

from collections.abc import Sequence
from datetime import datetime

from batchflow.core.flow import FlowStatus
from batchflow.core.message import WorkerStatus
from batchflow.http.schemas.base import ApiModel, required_datetime
from batchflow.http.schemas.batches import BatchInfo
from batchflow.http.schemas.flow_keys import FlowKeyInfo
from batchflow.http.schemas.workers import WorkerInfo


class TopFrame(ApiModel):
    """The open batches at a time, newest first, the flow keys of theirs that are in use or closed, and the workers.

    `hasMore` is true if there are more open batches. What waits under a key is not counted: its `waiting` is 0.
    """

    at: datetime
    batches: list[BatchInfo]
    has_more: bool
    flow_keys: list[FlowKeyInfo]
    workers: list[WorkerInfo]

    @classmethod
    def of(
        cls,
        at: int,
        batches: list[BatchInfo],
        has_more: bool,
        keys: Sequence[FlowStatus],
        workers: Sequence[WorkerStatus],
    ) -> "TopFrame":
        """A frame as JSON."""
        return cls(
            at=required_datetime(at),
            batches=batches,
            has_more=has_more,
            flow_keys=[FlowKeyInfo.of(it, at) for it in keys],
            workers=[WorkerInfo.of(it) for it in workers],
        )
