"""What is answered of runs, of who waits for events, and to webhooks."""

from datetime import datetime
from typing import Any, Literal

from pydantic_core import from_json

from batchflow.core.run import Run, RunState, Step, StepKind, StepState, Waiter
from batchflow.http.answers import Answer, instant
from batchflow.serve.failure import headline

_LATEST_MS = 253_402_300_799_999
# The end of the year 9999. What goes on later than that does not go on by time alone.


class StepAnswer(Answer):
    """A step of a run. `attempts` are those of a step that executes; null for one that waits for something.

    `recordedAt` is when its outcome was recorded. Of one that is pending, `dueAt` is when it goes on by itself.
    """

    name: str
    kind: StepKind
    state: StepState
    attempts: int | None
    recorded_at: datetime | None
    due_at: datetime | None
    result: Any
    error: str | None

    @classmethod
    def of(cls, step: Step) -> "StepAnswer":
        """A step as it is recorded."""
        return cls(
            name=step.name,
            kind=step.kind,
            state=step.state,
            attempts=step.failures + (step.state == "done") if step.kind == "run" else None,
            recorded_at=instant(step.at) if step.position and step.at else None,
            due_at=instant(step.due) if step.state == "pending" and 0 < step.due <= _LATEST_MS else None,
            result=None if step.value is None else from_json(step.value),
            error=None if step.error is None else headline(step.error),
        )


class RunAnswer(Answer):
    """A run as it stands. `failures` are failed attempts outside of steps, `parent` is the run that invoked it."""

    workflow_run_id: str
    route: str
    state: RunState
    result: Any
    error: str | None
    failures: int
    label: str | None
    parent: str | None
    batch_id: str | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None

    @classmethod
    def of(cls, run: Run) -> "RunAnswer":
        """A run as it stands."""
        return cls(**_fields(run))


class RunStory(RunAnswer):
    """A run with its steps, in the order in which its code asked for them."""

    steps: list[StepAnswer]

    @classmethod
    def of(cls, run: Run) -> "RunStory":
        """A run as it stands."""
        return cls(**_fields(run), steps=[StepAnswer.of(step) for step in run.steps])


class RunList(Answer):
    """Runs, the latest first. `nextCursor` is the `cursor` of the next page; null: this is the last one."""

    runs: list[RunAnswer]
    next_cursor: str | None


class RunCancelled(Answer):
    """`cancelled` is false where the run had ended before. One at work ends at its next step."""

    success: Literal[True] = True
    cancelled: bool
    run: RunAnswer


class RunsCancelled(Answer):
    """`cancelled` is how many runs, and batches of the label, had not ended before."""

    success: Literal[True] = True
    cancelled: int


class EventTaken(Answer):
    """`runIds` are the runs that got it, or for which it is kept."""

    success: Literal[True] = True
    event_id: str
    run_ids: list[str]


class WaiterAnswer(Answer):
    """A run that waits for an event; `until` is null where it waits as long as it takes."""

    workflow_run_id: str
    step: str
    since: datetime
    until: datetime | None

    @classmethod
    def of(cls, waiter: Waiter) -> "WaiterAnswer":
        """A waiter."""
        until = None if waiter.until is None or waiter.until > _LATEST_MS else instant(waiter.until)
        return cls(workflow_run_id=waiter.run, step=waiter.step, since=instant(waiter.since), until=until)


class WaiterList(Answer):
    """Who waits for an event, those that have waited longest first."""

    event_id: str
    waiters: list[WaiterAnswer]


class WebhookTaken(Answer):
    """The request is durable, and its run's."""

    success: Literal[True] = True
    workflow_run_id: str


def _fields(run: Run) -> dict[str, Any]:
    return {
        "workflow_run_id": run.id,
        "route": run.destination,
        "state": run.state,
        "result": None if run.result is None else from_json(run.result),
        "error": run.error,
        "failures": run.failures,
        "label": run.label,
        "parent": run.parent,
        "batch_id": run.batch,
        "created_at": instant(run.created_at),
        "started_at": None if run.started_at is None else instant(run.started_at),
        "ended_at": None if run.ended_at is None else instant(run.ended_at),
    }
