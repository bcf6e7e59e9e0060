"""The document of what a batch waits for."""

from collections.abc import Mapping
from datetime import datetime

from batchflow.batch.why import BindingKey, WaitReport
from batchflow.core.batch import BatchState
from batchflow.core.message import OpenMessage, OpenState
from batchflow.http.schemas.base import ApiModel, required_datetime, short_error, to_datetime
from batchflow.http.schemas.batches import ItemCounts, WaitReasonInfo
from batchflow.http.schemas.flow_keys import FlowHolderInfo, FlowKeyDetail, FlowKeyInfo
from batchflow.http.schemas.workers import UnservedInfo, WorkerInfo


class OpenMessageInfo(ApiModel):
    """An item of a batch that has not ended, or a message of its layers (`itemId` and `number` are null).

    `retrying` and `parked`: it waits after a failed attempt, or since a service limits its rate. `lost`: it waits since
    its worker died or hung. `running`: `worker` holds it. `suspended`: it has started, and waits for a time or for
    something from outside, in `step`. `waiting`: it may start at `dueAt`, or as soon as there is room. `attempts` are
    those that failed or were lost, and `error` is that of the last one.
    """

    run_id: str
    item_id: str | None
    number: int | None
    state: OpenState
    flow_key: str
    due_at: datetime | None
    started_at: datetime | None
    attempts: int
    error: str | None
    worker: str | None
    step: str | None

    @classmethod
    def of(cls, message: OpenMessage, steps: Mapping[str, str]) -> "OpenMessageInfo":
        """A message of a batch, with the steps that suspended runs wait for."""
        is_item = message.number >= 0
        return cls(
            run_id=message.id,
            item_id=message.item if is_item else None,
            number=message.number if is_item else None,
            state=message.state,
            flow_key=message.flow_key,
            due_at=to_datetime(message.due_at),
            started_at=to_datetime(message.started_at),
            attempts=message.attempts,
            error=short_error(message.error),
            worker=message.worker,
            step=steps.get(message.id),
        )


class BatchWaitInfo(ApiModel):
    """All that a batch waits for, under one `sentence`; of one that is done since when it has been.

    `items` are the first open ones: those that are tried again, by time; those that run, the oldest first; those that
    wait. `layers` are open messages of its entry, pages, chunks and `on_complete`. `flowKeys` are those that hold it
    back, a full one with its oldest holders, `workers` those that serve it, and `unserved` is what nobody serves.
    What waits under a key is not counted: its `waiting` is 0.
    """

    batch_id: str
    workflow: str
    state: BatchState
    sentence: str
    wait_reason: WaitReasonInfo | None
    counts: ItemCounts
    items: list[OpenMessageInfo]
    layers: list[OpenMessageInfo]
    flow_keys: list[FlowKeyDetail]
    workers: list[WorkerInfo]
    unserved: list[UnservedInfo]
    at: datetime

    @classmethod
    def of(cls, report: WaitReport) -> "BatchWaitInfo":
        """A report as JSON."""
        batch = report.batch
        return cls(
            batch_id=batch.id,
            workflow=batch.workflow,
            state=batch.state,
            sentence=report.sentence,
            wait_reason=WaitReasonInfo.of(report.reason),
            counts=ItemCounts.of(batch.counts),
            items=[OpenMessageInfo.of(it, report.steps) for it in report.items],
            layers=[OpenMessageInfo.of(it, report.steps) for it in report.layers],
            flow_keys=[_key_detail(it, report.at) for it in report.keys],
            workers=[WorkerInfo.of(it) for it in report.workers],
            unserved=[UnservedInfo.of(it) for it in report.unserved],
            at=required_datetime(report.at),
        )


def _key_detail(key: BindingKey, now: int) -> FlowKeyDetail:
    info = FlowKeyInfo.of(key.status, now).model_dump(by_alias=False)
    return FlowKeyDetail(**info, holders=[FlowHolderInfo.of(it) for it in key.holders])
