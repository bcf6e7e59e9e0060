"""The answers to changes of a batch."""

from typing import Literal

from batchflow.http.schemas.base import ApiModel
from batchflow.http.schemas.batches import BatchInfo


class FailureBudgetResponse(ApiModel):
    """`changed` is false if the batch had ended before, or is being cancelled."""

    success: Literal[True] = True
    changed: bool
    batch: BatchInfo
