"""Records of the steps, runs and batches of a test, and a table of them as text."""

import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar, cast

from batchflow.batch.handle import BatchHandle
from batchflow.batch.status import BatchSummary
from batchflow.core.codec import Codec
from batchflow.core.dead_letters import FailureCall
from batchflow.core.duration import humanize_duration
from batchflow.core.run import RunState, Step, StepKind, StepState
from batchflow.core.secrets import revealed_value
from batchflow.core.suggestions import did_you_mean
from batchflow.errors import hook_name, hook_step, hook_suffix

Result = TypeVar("Result")
FINAL_STATES: frozenset[RunState] = frozenset({"completed", "failed", "cancelled"})


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One execution of a step, or the end of one that waited.

    `attempt` counts the executions of the step in its run from 1, those after a failure and those after a crash alike.
    `args` and `kwargs` are what its function was called with; of a call the URL, of an event its id, of a child its
    payload. `output` is what was returned, of a call its `CallResponse`; `error` is a sentence. `at` is virtual time.
    """

    run: str
    name: str
    kind: StepKind
    state: StepState
    attempt: int
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any
    error: str | None
    at: datetime


class RunRecord(Generic[Result]):
    """One run as of the latest drive: of a served function, of a child, of a batch's item."""

    def __init__(self, id: str, function: str, batch: str | None, item: str, describe: Callable[[], str]) -> None:
        self.id = id
        self.function = function
        """Its route."""
        self.batch = batch
        self.item = item
        """The item's id, for an item of a batch."""
        self.state: RunState = "waiting"
        self.error: str | None = None
        self.ended: datetime | None = None
        self.history: list[StepRecord] = []
        """Every execution of its steps, and the ends of those that waited."""
        self.journal: dict[str, Step] = {}
        """Its recorded steps, by name."""
        self.is_layer = False
        """True for the part of a batch that reads pages and starts items, and for the call of a failure function."""
        self.is_failure_call = False
        """True for the call of a failure function."""
        self.failure: FailureCall | None = None
        """The state and the outcome of the call of its failure function or URL, if it has failed and has one."""
        self.codec: Codec[Any] | None = None
        self.text: str | None = None
        self.body = "null"
        self._describe = describe

    def __repr__(self) -> str:
        return f"RunRecord('{self.id}', {self.state}, steps={self.steps})"

    @property
    def steps(self) -> list[str]:
        """The names of the steps that have ended, in the order in which their outcomes were recorded."""
        outcomes = sorted((step for step in self.journal.values() if step.position), key=lambda step: step.position)
        names = [step.name for step in outcomes]
        # An item's last step is settled with the item, and is never in its journal.
        riding = [record.name for record in self.history if self.item and record.state == "done"]
        return list(dict.fromkeys([*names, *riding]))

    @property
    def payload(self) -> Any:
        """The payload that it was started with, as plain data."""
        return revealed_value(self.body)

    @property
    def result(self) -> Result:
        """The function's result.

        Raises:
            AssertionError: it has not completed; the message shows all that happened.
        """
        self.assert_completed()
        text = self.text or "null"
        return cast("Result", revealed_value(text) if self.codec is None else self.codec.decode(text))

    def step(self, name: str) -> StepRecord:
        """Return the latest record of a step.

        Raises:
            AssertionError: the run has not executed it; the message shows all that happened.
        """
        found = [record for record in self.history if record.name in (name, hook_step(name))]
        if not found:
            near = did_you_mean(name, {it for record in self.history for it in (record.name, hook_name(record.name))})
            raise AssertionError(f"run '{self.id}' has not executed step '{name}'{near}\n{self._describe()}")
        return found[-1]

    def assert_completed(self) -> None:
        """Assert that the function has returned a result.

        Raises:
            AssertionError: it has not; the message shows all that happened.
        """
        if self.state != "completed":
            why = f": {self.error}" if self.error else ""
            raise AssertionError(f"run '{self.id}' of '{self.function}' is {self.state}{why}\n{self._describe()}")


@dataclass(slots=True, kw_only=True)
class BatchRecord(Generic[Result]):
    """One batch as of the latest drive. `results` has the results of the items that succeeded, by id."""

    handle: BatchHandle[Result]
    describe: Callable[[], str]
    ended: BatchSummary | None = None
    results: dict[str, Result] = field(default_factory=dict[str, Result])

    def __repr__(self) -> str:
        return f"BatchRecord('{self.id}', {self.ended or 'not ended'})"

    @property
    def id(self) -> str:
        """The id of the batch."""
        return self.handle.id

    @property
    def summary(self) -> BatchSummary:
        """The summary of its end.

        Raises:
            AssertionError: it has not ended; the message shows all that happened.
        """
        if self.ended is None:
            raise AssertionError(f"batch '{self.id}' of '{self.handle.workflow}' has not ended\n{self.describe()}")
        return self.ended

    def assert_completed(self) -> None:
        """Assert that every item that had to run has succeeded.

        Raises:
            AssertionError: one has not, or the batch has not ended; the message shows all that happened.
        """
        if not self.summary.succeeded:
            raise AssertionError(f"{self.summary.failure()}\n{self.describe()}")


MAX_RUNS = 20
"""The number of runs that the table shows."""

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


def format_table(
    start: datetime, now: datetime, runs: Iterable[RunRecord[Any]], batches: Iterable[BatchRecord[Any]]
) -> str:
    """Format all runs with their steps, in the order of their first appearance; times count from `start`."""
    seen = [run for run in runs if not run.is_layer or run.is_failure_call or run.state == "failed"]
    lines = [f"{len(seen)} run{'' if len(seen) == 1 else 's'}, at {now:%Y-%m-%d %H:%M:%S} UTC ({_since(start, now)})"]
    for batch in batches:
        lines.append(f"batch {batch.ended}" if batch.ended else f"batch {batch.handle.workflow} {batch.id} not ended")
    for run in seen[:MAX_RUNS]:
        lines.append(_title(run, start))
        lines.extend(_columns([*_ended(run, start), *_waiting(run, start)]))
    if (more := len(seen) - MAX_RUNS) > 0:
        lines.append(f"… and {more} more run{'' if more == 1 else 's'}")
    return "\n".join(lines)


def _title(run: RunRecord[Any], start: datetime) -> str:
    what = f"{run.function} {run.id}{f' of {run.item!r}' if run.item else ''} {run.state}"
    if run.state in FINAL_STATES and run.ended is not None:
        what = f"{what} {_since(start, run.ended)}"
    if run.state == "completed":
        return f"{what}: {_cut(run.text or 'null')}"
    return f"{what}: {run.error}" if run.error else what


def _ended(run: RunRecord[Any], start: datetime) -> Iterable[Sequence[str]]:
    for record in run.history:
        state = record.state if record.attempt == 1 else f"{record.state} (attempt {record.attempt})"
        yield (
            f"{record.name}{hook_suffix(record.name)}",
            record.kind,
            state,
            _since(start, record.at),
            _input_and_output(record),
        )


def _waiting(run: RunRecord[Any], start: datetime) -> Iterable[Sequence[str]]:
    for step in run.journal.values():
        if step.state == "pending" and run.state not in FINAL_STATES:
            until = f"until +{humanize_duration(step.due - _ms(start))}" if step.due else ""
            yield f"{step.name}{hook_suffix(step.name)}", step.kind, "pending", until, step.error or ""


def _input_and_output(record: StepRecord) -> str:
    given = [_SHORT.repr(value) for value in record.args]
    if record.kind == "run":
        given += [f"{name}={_SHORT.repr(value)}" for name, value in record.kwargs.items()]
    if record.error is not None:
        outcome = record.error.partition("\n")[0]
    elif record.kind == "call" and record.state == "done":
        outcome = str(record.output.status)
    else:
        outcome = _SHORT.repr(record.output)
    if record.kind == "sleep":
        return ""
    return f"({', '.join(given)}) → {outcome}"


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return ["    no steps"]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return [
        "    " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _cut(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:79]}…"


def _since(start: datetime, at: datetime) -> str:
    return f"+{humanize_duration(_ms(at) - _ms(start))}"


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)
