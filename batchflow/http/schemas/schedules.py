"""The documents of schedules."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Literal

from batchflow.core.message import WorkerStatus
from batchflow.core.schedule import FireOutcome, FireResult, NewSchedule, Overlap, ScheduleStatus
from batchflow.core.secrets import masked_value
from batchflow.http.schemas.base import ApiModel, required_datetime, to_datetime
from batchflow.http.schemas.batches import named_params

UPCOMING = 5
"""The number of the next fires that a document has."""


class ScheduleInfo(ApiModel):
    """A schedule: its cron expression, read in `timezone`, starts a batch or run, as `starts` says, of `target`.

    `destination` is the route of that work, and `isServed` is true if a live worker serves it. A `declared` schedule
    belongs to the code of its target. `payload` is what each fire starts with; secret values are masked. `upcoming` are
    the times of the next fires, with the offset of the time zone; none while it is paused. `fires` have started work,
    for the last time the batch or run `lastStartedId`, scheduled for `lastScheduleTime`; `skips` have not, since the
    previous one had not ended. The fire of `queuedTime` waits for that. `error` says why the latest fire could start
    nothing.
    """

    schedule_id: str
    target: str
    starts: Literal["batch", "run"]
    destination: str
    cron: str
    timezone: str
    overlap: Overlap
    payload: Any
    label: str | None
    declared: bool
    is_paused: bool
    is_served: bool
    created_at: datetime
    next_schedule_time: datetime | None
    upcoming: list[datetime]
    last_schedule_time: datetime | None
    last_started_id: str | None
    fires: int
    skips: int
    last_skipped_time: datetime | None
    queued_time: datetime | None
    error: str | None

    @classmethod
    def of(cls, status: ScheduleStatus, served: Collection[str]) -> "ScheduleInfo":
        """A schedule in its present state; `served` are the destinations that live workers serve."""
        schedule = status.schedule
        upcoming = status.upcoming(UPCOMING)
        return cls(
            schedule_id=status.id,
            target=schedule.target,
            starts=schedule.starts,
            destination=schedule.destination,
            cron=schedule.cron.expression,
            timezone=schedule.cron.timezone,
            overlap=schedule.overlap,
            payload=shown_payload(schedule),
            label=schedule.label,
            declared=schedule.declared,
            is_paused=status.paused,
            is_served=schedule.destination in served,
            created_at=required_datetime(status.created_at),
            next_schedule_time=to_datetime(upcoming[0]) if upcoming else None,
            upcoming=[schedule.cron.local_time(at) for at in upcoming],
            last_schedule_time=to_datetime(status.last_at),
            last_started_id=status.last_id,
            fires=status.fires,
            skips=status.skips,
            last_skipped_time=to_datetime(status.skipped_at),
            queued_time=to_datetime(status.queued_at),
            error=status.error,
        )


class ScheduleList(ApiModel):
    """A page of schedules, by id. `nextCursor` is the `cursor` of the next one; null after the last."""

    schedules: list[ScheduleInfo]
    next_cursor: str | None


class DeleteScheduleResponse(ApiModel):
    """A schedule was deleted."""

    deleted: bool = True
    schedule_id: str


class TriggerScheduleResponse(ApiModel):
    """The outcome of a fire by hand: `startedId` is the batch or run, if it has started one."""

    outcome: FireOutcome
    started_id: str | None
    schedule: ScheduleInfo | None

    @classmethod
    def of(cls, result: FireResult, served: Collection[str]) -> "TriggerScheduleResponse":
        """The outcome of a fire."""
        status = result.schedule
        return cls(
            outcome=result.outcome,
            started_id=status.last_id if status is not None and result.outcome == "fired" else None,
            schedule=None if status is None else ScheduleInfo.of(status, served),
        )


def shown_payload(schedule: NewSchedule) -> Any:
    """The payload without secret values; the parameters of a batch have their names of JSON."""
    return named_params(schedule.payload) if schedule.starts == "batch" else masked_value(schedule.payload)


def served_by(workers: Sequence[WorkerStatus]) -> frozenset[str]:
    """The destinations that live workers serve."""
    return frozenset(destination for it in workers if not it.lost for destination in it.serves)
