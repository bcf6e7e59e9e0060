"""The documents of runs."""

from datetime import datetime
from typing import Any, Literal

from batchflow.core.run import Run, RunState, Step, StepKind, StepState
from batchflow.core.secrets import masked_value
from batchflow.http.schemas.base import ApiModel, required_datetime, short_error, stored_traceback, to_datetime


class StepInfo(ApiModel):
    """A step of a run. `attempts` counts the executions of a step; it is null for one that waits for something.

    `recordedAt` is the time at which the outcome was recorded. A pending step goes on by itself at `dueAt`.
    """

    name: str
    kind: StepKind
    state: StepState
    attempts: int | None
    recorded_at: datetime | None
    due_at: datetime | None
    result: Any
    error: str | None
    traceback: str | None

    @classmethod
    def of(cls, step: Step) -> "StepInfo":
        """A step as it is recorded."""
        return cls(
            name=step.name,
            kind=step.kind,
            state=step.state,
            attempts=step.failures + (step.state == "done") if step.kind == "run" else None,
            recorded_at=to_datetime(step.at) if step.position and step.at else None,
            due_at=to_datetime(step.due) if step.state == "pending" and step.due > 0 else None,
            result=masked_value(step.value) if step.position else None,
            error=short_error(step.error),
            traceback=stored_traceback(step.error),
        )


class RunInfo(ApiModel):
    """A run, without what may be large.

    `failures` counts failed attempts outside of steps; `parent` is the run that invoked it.
    """

    workflow_run_id: str
    route: str
    state: RunState
    error: str | None
    failures: int
    label: str | None
    parent: str | None
    batch_id: str | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None

    @classmethod
    def of(cls, run: Run) -> "RunInfo":
        """A run in its present state."""
        return cls(**_run_fields(run))


class RunDetail(RunInfo):
    """A run, whole, with its steps in the order in which its code asked for them."""

    payload: Any
    result: Any
    traceback: str | None
    steps: list[StepInfo]

    @classmethod
    def of(cls, run: Run) -> "RunDetail":
        """A run in its present state."""
        return cls(
            **_run_fields(run),
            payload=masked_value(run.payload),
            result=masked_value(run.result),
            traceback=stored_traceback(run.error),
            steps=[StepInfo.of(step) for step in run.steps],
        )


class RunList(ApiModel):
    """Runs, the latest first. `nextCursor` is the `cursor` of the next page; null on the last page."""

    runs: list[RunInfo]
    next_cursor: str | None


class StartRunResponse(ApiModel):
    """The run is stored. Its status is at `statusUrl`, as for a batch.

    `deduplicated` is true if the run existed before and nothing was started.
    """

    success: Literal[True] = True
    workflow_run_id: str
    deduplicated: bool = False
    status_url: str | None


class CancelRunResponse(ApiModel):
    """`cancelled` is false if the run had ended before. A running one ends at its next step."""

    success: Literal[True] = True
    cancelled: bool
    run: RunInfo


class CancelRunsResponse(ApiModel):
    """`cancelled` is the number of runs, and of batches with the label, that had not ended before."""

    success: Literal[True] = True
    cancelled: int


def _run_fields(run: Run) -> dict[str, Any]:
    return {
        "workflow_run_id": run.id,
        "route": run.destination,
        "state": run.state,
        "error": short_error(run.error),
        "failures": run.failures,
        "label": run.label,
        "parent": run.parent,
        "batch_id": run.batch,
        "created_at": required_datetime(run.created_at),
        "started_at": to_datetime(run.started_at),
        "ended_at": to_datetime(run.ended_at),
    }
