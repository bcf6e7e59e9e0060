"""The document of the totals of a batch and its retries."""

from batchflow.http.schemas.base import ApiModel


class TotalsInfo(ApiModel):
    """The items of a batch and of its retries, each counted once, by the state of its latest run.

    `recovered` have succeeded in a retry and had failed or been cancelled before.
    """

    open: int
    succeeded: int
    failed: int
    cancelled: int
    recovered: int
