"""The history of a test: every run, and every execution of its steps."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from batchflow.core.call import CallRequest, call_result_codec
from batchflow.core.failure_functions import HTTP_CALLS, is_failure_destination
from batchflow.core.message import Claim
from batchflow.core.report import headline
from batchflow.core.run import Run, Step, StepKind
from batchflow.core.secrets import revealed_value
from batchflow.core.settlement import Effect, Listen, Settlement
from batchflow.serve.calls import CallResponse
from batchflow.serve.failure import describe_error
from batchflow.testing.records import FINAL_STATES, RunRecord, StepRecord

_STATES: Mapping[str, Literal["completed", "failed", "cancelled"]] = {
    "done": "completed",
    "failed": "failed",
    "dead": "failed",
    "cancelled": "cancelled",
}


@dataclass(slots=True)
class StepExecution:
    """One execution of a step's function; its end adds a record."""

    step: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    add: Callable[[StepRecord], None]
    run: str
    attempt: int
    now: Callable[[], datetime]

    def done(self, output: object) -> None:
        """Record that it returned."""
        self.add(self._record("done", output, None))

    def failed(self, error: Exception) -> None:
        """Record that it raised."""
        self.add(self._record("failed", None, describe_error(error)))

    def _record(self, state: Literal["done", "failed"], output: object, error: str | None) -> StepRecord:
        return StepRecord(
            run=self.run,
            name=self.step,
            kind="run",
            state=state,
            attempt=self.attempt,
            args=self.args,
            kwargs=self.kwargs,
            output=output,
            error=error,
            at=self.now(),
        )


@dataclass(slots=True)
class History:
    """All runs by id, in the order of their first appearance, and all executions, in the order of their ends."""

    now_ms: Callable[[], int]
    table: Callable[[], str]
    runs: dict[str, RunRecord[Any]] = field(default_factory=dict[str, RunRecord[Any]])
    steps: list[StepRecord] = field(default_factory=list[StepRecord])
    calls: dict[tuple[str, int], CallRequest] = field(default_factory=dict[tuple[str, int], CallRequest])
    _events: dict[tuple[str, int], str] = field(default_factory=dict[tuple[str, int], str])
    _attempts: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])

    def now(self) -> datetime:
        """Return the virtual time."""
        return datetime.fromtimestamp(self.now_ms() / 1000, UTC)

    def run(self, id: str, function: str, *, batch: str | None = None, item: str = "") -> RunRecord[Any]:
        """Return the record of a run, which is created at its first appearance."""
        found = self.runs.get(id)
        if found is None:
            found = self.runs[id] = RunRecord(id, function, batch, item, self.table)
        return found

    def kinds(self) -> dict[str, str]:
        """Return the kinds of all requested steps, by name."""
        found: dict[str, str] = {record.name: record.kind for record in self.steps}
        for run in self.runs.values():
            found.update((step.name, step.kind) for step in run.journal.values())
        found.update((request.step, "call") for request in self.calls.values())
        return found

    # Events

    def start_step(self, run: str, step: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> StepExecution:
        """Begin an execution of a step's function."""
        place = (run, step)
        self._attempts[place] = attempt = self._attempts.get(place, 0) + 1
        return StepExecution(step, args, kwargs, self._add, run, attempt, self.now)

    def on_claim(self, claim: Claim) -> None:
        """Record the claim of a message by a worker."""
        if claim.destination in HTTP_CALLS:
            return
        run = self.run(claim.id, claim.destination, batch=claim.batch, item=claim.item)
        run.is_failure_call = is_failure_destination(claim.destination)
        run.is_layer = run.is_failure_call or (claim.batch is not None and claim.number < 0)
        run.state, run.body = "running", claim.body
        for step in claim.journal:
            self._update_step(run, step)

    def on_record(self, id: str, step: Step, effects: tuple[Effect, ...]) -> None:
        """Record that the store has written a step."""
        self._events.update(((id, it.number), it.event) for it in effects if isinstance(it, Listen))
        self._update_step(self.runs[id], step)

    def on_settle(self, settlement: Settlement) -> None:
        """Record the settlement of a claim."""
        run = self.runs.get(settlement.id)
        if run is None:
            return
        for step in settlement.steps:
            self._update_step(run, step)
        run.state = _STATES.get(settlement.ending, "waiting")
        if run.state in FINAL_STATES:
            run.text, run.error, run.ended = settlement.result, _headline(settlement.error), self.now()

    def update(self, stored: Run) -> None:
        """Update the record of a run from the store."""
        run = self.run(stored.id, stored.destination, batch=stored.batch)
        run.state, run.text, run.error = stored.state, stored.result, _headline(stored.error)
        run.body = stored.payload
        if stored.ended_at is not None:
            run.ended = datetime.fromtimestamp(stored.ended_at / 1000, UTC)
        for step in stored.journal:
            self._update_step(run, step)

    def _update_step(self, run: RunRecord[Any], step: Step) -> None:
        known = run.journal.get(step.name)
        run.journal[step.name] = step
        if not step.position or (known is not None and known.position):
            return
        if step.kind == "run" and (run.id, step.name) in self._attempts:
            return
        self._add(self._record_of_wait(run.id, step))

    def _record_of_wait(self, run: str, step: Step) -> StepRecord:
        """Make the record of a step that executed no function."""
        args, kwargs = self._input(run, step)
        return StepRecord(
            run=run,
            name=step.name,
            kind=step.kind,
            state="done" if step.state == "pending" else step.state,
            attempt=1,
            args=args,
            kwargs=kwargs,
            output=_output(step),
            error=_headline(step.error),
            at=datetime.fromtimestamp((step.at or self.now_ms()) / 1000, UTC),
        )

    def _input(self, run: str, step: Step) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        place = (run, step.number)
        if request := self.calls.get(place):
            return (request.url,), {"method": request.method, "headers": request.headers, "body": request.body.content}
        if event := self._events.get(place):
            return (event,), {}
        child = self.runs.get(f"{run}.{step.number}")
        return ((child.payload,) if child is not None else ()), {}

    def _add(self, record: StepRecord) -> None:
        self.steps.append(record)
        if (run := self.runs.get(record.run)) is not None:
            run.history.append(record)


def _output(step: Step) -> object:
    if step.value is None or step.state != "done" or _is_timer(step.kind):
        return None
    if step.kind == "call":
        answered: CallResponse[Any] = CallResponse(step.name, call_result_codec().decode(step.value), None)
        return answered
    return revealed_value(step.value)


def _is_timer(kind: StepKind) -> bool:
    return kind == "sleep"


def _headline(error: str | None) -> str | None:
    return headline(error) if error else None
