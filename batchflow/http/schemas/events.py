"""The documents of events, and of the runs that wait for them."""

from datetime import datetime
from typing import Literal

from batchflow.core.run import Waiter
from batchflow.http.schemas.base import ApiModel, to_datetime


class WaiterInfo(ApiModel):
    """A run that waits for an event. `since` is null where that is not known, `until` where the wait has no end."""

    workflow_run_id: str
    step: str
    since: datetime | None
    until: datetime | None

    @classmethod
    def of(cls, waiter: Waiter) -> "WaiterInfo":
        """A waiting run."""
        return cls(
            workflow_run_id=waiter.run,
            step=waiter.step,
            since=to_datetime(waiter.since),
            until=to_datetime(waiter.until),
        )


class WaiterList(ApiModel):
    """The runs that wait for an event, the longest wait first."""

    event_id: str
    waiters: list[WaiterInfo]


class NotifyResponse(ApiModel):
    """`runIds` are the runs that received the event, or for which it is kept."""

    success: Literal[True] = True
    event_id: str
    run_ids: list[str]


class WebhookResponse(ApiModel):
    """The request is stored for its run."""

    success: Literal[True] = True
    workflow_run_id: str
