"""The documents of workers, and of an app's health."""

from datetime import datetime
from typing import Literal

from batchflow.core.failure_functions import HTTP_CALLS
from batchflow.core.message import UnservedWork, WorkerStatus
from batchflow.http.schemas.base import ApiModel, required_datetime, to_datetime


class WorkerInfo(ApiModel):
    """A worker: its start, its last heartbeat, and the time at which its claims are taken back without another one.

    `holds` is the number of its claims by destination, and `serves` are all those that it serves. `hanging` is the
    number of threads that it has given up because a plain function does not return. A worker that has died is `lost`
    until its claims are taken back.
    """

    name: str
    state: Literal["working", "lost"]
    since: datetime | None
    seen_at: datetime | None
    lease_until: datetime
    concurrency: int | None
    hanging: int
    held: int
    holds: dict[str, int]
    serves: list[str]

    @classmethod
    def of(cls, worker: WorkerStatus) -> "WorkerInfo":
        """A worker in its present state."""
        return cls(
            name=worker.name,
            state="lost" if worker.lost else "working",
            since=to_datetime(worker.since or None),
            seen_at=to_datetime(worker.seen_at or None),
            lease_until=required_datetime(worker.lease_until),
            concurrency=worker.concurrency or None,
            hanging=worker.hanging,
            held=worker.held,
            holds=dict(sorted(worker.holds.items())),
            serves=[it for it in worker.serves if it not in HTTP_CALLS],
        )


class UnservedInfo(ApiModel):
    """Due messages of a destination that no worker serves; `batchId` is their batch, if all belong to one."""

    destination: str
    waiting: int
    batch_id: str | None

    @classmethod
    def of(cls, work: UnservedWork) -> "UnservedInfo":
        """Work that nobody serves."""
        return cls(destination=work.destination, waiting=work.waiting, batch_id=work.batch)


class WorkerList(ApiModel):
    """Workers, by name, and the work that is due and that none of them serves."""

    workers: list[WorkerInfo]
    unserved: list[UnservedInfo]


class HealthInfo(ApiModel):
    """The health of an app. `reason` and the number of `workers` are for operators, and null for others."""

    status: Literal["ok", "unavailable"]
    reason: str | None = None
    workers: int | None = None
