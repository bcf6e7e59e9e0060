"""What a test is told of a step, a run and a batch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar, cast

from pydantic_core import from_json

from batchflow.batch.handle import BatchHandle
from batchflow.batch.summary import BatchSummary
from batchflow.core.codec import Codec
from batchflow.core.run import RunState, Step, StepKind, StepState
from batchflow.core.spelling import did_you_mean

Result = TypeVar("Result")
FINAL: frozenset[RunState] = frozenset({"completed", "failed", "cancelled"})


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
    """One run, as it stands after the latest drive: of a served function, of a child, of a batch's item."""

    def __init__(self, id: str, function: str, batch: str | None, item: str, told: Callable[[], str]) -> None:
        self.id = id
        self.function = function
        """Its route."""
        self.batch = batch
        self.item = item
        """The item's id, where it is one of a batch."""
        self.state: RunState = "waiting"
        self.error: str | None = None
        self.ended: datetime | None = None
        self.history: list[StepRecord] = []
        """Every execution of its steps, and the ends of those that waited."""
        self.journal: dict[str, Step] = {}
        """Its steps as they are recorded, by name."""
        self.is_layer = False
        """Whether it is a part of a batch that walks pages and starts items."""
        self.codec: Codec[Any] | None = None
        self.text: str | None = None
        self.body = "null"
        self._told = told

    def __repr__(self) -> str:
        return f"RunRecord('{self.id}', {self.state}, steps={self.steps})"

    @property
    def steps(self) -> list[str]:
        """The names of the steps that have ended, in the order in which their outcomes were recorded."""
        outcomes = sorted((step for step in self.journal.values() if step.position), key=lambda step: step.position)
        names = [step.name for step in outcomes]
        # The last step of an item goes with the item's end, and is in no journal.
        riding = [record.name for record in self.history if self.item and record.state == "done"]
        return list(dict.fromkeys([*names, *riding]))

    @property
    def payload(self) -> Any:
        """What it was started with, as plain data."""
        return from_json(self.body)

    @property
    def result(self) -> Result:
        """What the function returned.

        Raises:
            AssertionError: it has not completed; all that happened is printed.
        """
        self.assert_completed()
        text = self.text or "null"
        return cast("Result", from_json(text) if self.codec is None else self.codec.decode(text))

    def step(self, name: str) -> StepRecord:
        """The latest record of a step.

        Raises:
            AssertionError: it has not been executed; all that happened is printed.
        """
        found = [record for record in self.history if record.name == name]
        if not found:
            near = did_you_mean(name, {record.name for record in self.history})
            raise AssertionError(f"run '{self.id}' has not executed step '{name}'{near}\n{self._told()}")
        return found[-1]

    def assert_completed(self) -> None:
        """It has returned a result.

        Raises:
            AssertionError: it has not; all that happened is printed.
        """
        if self.state != "completed":
            why = f": {self.error}" if self.error else ""
            raise AssertionError(f"run '{self.id}' of '{self.function}' is {self.state}{why}\n{self._told()}")


@dataclass(slots=True, kw_only=True)
class BatchRecord(Generic[Result]):
    """One batch, as it stands after the latest drive. `results` are those of its items that succeeded, by id."""

    handle: BatchHandle[Result]
    told: Callable[[], str]
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
        """How it ended.

        Raises:
            AssertionError: it has not; all that happened is printed.
        """
        if self.ended is None:
            raise AssertionError(f"batch '{self.id}' of '{self.handle.workflow}' has not ended\n{self.told()}")
        return self.ended

    def assert_completed(self) -> None:
        """Every item that was to run has succeeded.

        Raises:
            AssertionError: one has not, or it has not ended; all that happened is printed.
        """
        if not self.summary.succeeded:
            raise AssertionError(f"{self.summary.failure()}\n{self.told()}")
