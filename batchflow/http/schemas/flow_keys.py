"""The documents of flow keys, and the bodies of the commands for them."""

from datetime import datetime
from typing import Literal

from pydantic import ConfigDict

from batchflow.core.breaker import Breaker
from batchflow.core.duration import format_duration
from batchflow.core.flow import FlowHolder, FlowStatus
from batchflow.http.schemas.base import ApiModel, required_datetime, to_datetime
from batchflow.serve.limits import FlowKeyPage


class CircuitBreakerInfo(ApiModel):
    """The circuit breaker of a flow key, which counts the attempts that have failed since the last success.

    While it is `open`, the key is parked until its `parkedUntil`; then one run or item is tried at a time, now
    `trialRunId`. A failure parks the key again for `openFor`, a success closes the breaker.
    """

    state: Literal["closed", "open"]
    failed_in_a_row: int
    open_for: str | None
    trial_run_id: str | None

    @classmethod
    def of(cls, breaker: Breaker) -> "CircuitBreakerInfo":
        """A circuit breaker in its present state."""
        return cls(
            state="open" if breaker.open_for else "closed",
            failed_in_a_row=breaker.in_a_row,
            open_for=format_duration(breaker.open_for) if breaker.open_for else None,
            trial_run_id=breaker.trial,
        )


class FlowKeyInfo(ApiModel):
    """A flow key: the limits in force, which of them an operator has pinned, and its messages.

    At most `parallelism` run at once and `rate` start per `period`; null means no limit. `inUse` are under way and
    `waiting` wait, due or not. `parallelismUntil`, `rateUntil` and `pausedUntil` are the times at which the pins and
    the pause end by themselves; null if only by hand. A service has limited the key's rate, or its circuit breaker has
    parked it, until `parkedUntil`. `circuitBreaker` is null unless attempts have failed in a row.
    """

    key: str
    parallelism: int | None
    rate: int | None
    period: str
    burst: int
    pinned_parallelism: bool
    pinned_rate: bool
    parallelism_until: datetime | None
    rate_until: datetime | None
    paused: bool
    paused_until: datetime | None
    in_use: int
    waiting: int
    parked_until: datetime | None
    circuit_breaker: CircuitBreakerInfo | None

    @classmethod
    def of(cls, flow: FlowStatus, now: int) -> "FlowKeyInfo":
        """A flow key in its present state."""
        limits = flow.limits
        return cls(
            key=limits.key or "",
            parallelism=limits.parallelism,
            rate=limits.rate,
            period=str(limits.period),
            burst=limits.burst,
            pinned_parallelism=flow.pinned_parallelism,
            pinned_rate=flow.pinned_rate,
            parallelism_until=to_datetime(flow.parallelism_until),
            rate_until=to_datetime(flow.rate_until),
            paused=flow.paused,
            paused_until=to_datetime(flow.paused_until),
            in_use=flow.in_use,
            waiting=flow.waiting,
            parked_until=to_datetime(flow.parked_until) if flow.parked_until > now else None,
            circuit_breaker=CircuitBreakerInfo.of(flow.breaker) if flow.breaker.in_a_row else None,
        )


class FlowHolderInfo(ApiModel):
    """A run or item that takes one of the places of a flow key, with the worker that has claimed it."""

    run_id: str
    batch_id: str | None
    item_id: str | None
    destination: str
    worker: str
    started_at: datetime

    @classmethod
    def of(cls, holder: FlowHolder) -> "FlowHolderInfo":
        """A claimed message."""
        return cls(
            run_id=holder.id,
            batch_id=holder.batch,
            item_id=holder.item or None,
            destination=holder.destination,
            worker=holder.worker,
            started_at=required_datetime(holder.started_at),
        )


class FlowKeyDetail(FlowKeyInfo):
    """A flow key with up to 100 of its holders, those that started first before the others."""

    holders: list[FlowHolderInfo]


class FlowKeyList(ApiModel):
    """Flow keys by name. The next page is read with `nextCursor` as `cursor`; null on the last one."""

    keys: list[FlowKeyInfo]
    next_cursor: str | None

    @classmethod
    def of(cls, page: FlowKeyPage, now: int) -> "FlowKeyList":
        """A page of flow keys."""
        return cls(keys=[FlowKeyInfo.of(it, now) for it in page.keys], next_cursor=page.next_cursor)


class PauseFlowRequest(ApiModel):
    """With a `duration`, such as "2h", the pause ends by itself after that time."""

    model_config = ConfigDict(extra="forbid")

    duration: str | int | None = None


class PinFlowRequest(PauseFlowRequest):
    """The limits to pin. `rate` is a number of starts per `period`, or text such as "2/s" and "100/1m"."""

    parallelism: int | None = None
    rate: int | str | None = None
    period: str | int | None = None


class UnpinFlowRequest(ApiModel):
    """The pins to remove; by default both."""

    model_config = ConfigDict(extra="forbid")

    parallelism: bool = True
    rate: bool = True
