"""The part of a test environment that tells what happened, and asserts it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from batchflow.core.spelling import did_you_mean
from batchflow.testing.clock import ManualClock
from batchflow.testing.history import History
from batchflow.testing.records import BatchRecord, RunRecord, StepRecord
from batchflow.testing.standins import HasId, id_of
from batchflow.testing.table import table


class Happened:
    """Runs and steps as they stand after the latest drive; as text, a table of them."""

    clock: ManualClock
    """The time, which stands still until the app is driven."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self._history = History(clock.now, self.__str__)
        self._batches: dict[str, BatchRecord[Any]] = {}
        self._start = self._history.now()

    def __str__(self) -> str:
        return table(self._start, self.now, self._history.runs.values(), self._batches.values())

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self}>"

    @property
    def now(self) -> datetime:
        """The virtual time, in UTC."""
        return self._history.now()

    @property
    def runs(self) -> list[RunRecord[Any]]:
        """All runs, in the order in which they were first seen: triggered ones, children, items of batches."""
        return [run for run in self._history.runs.values() if not run.is_layer]

    @property
    def steps(self) -> list[StepRecord]:
        """Every execution of a step, and every end of one that waited, of all runs, in their order."""
        return list(self._history.steps)

    def assert_ran(self, step: str, *, times: int | None = None, run: HasId | str | None = None) -> None:
        """The step was executed, `times` times or at least once; repeats after failures and crashes count.

        A step that waits counts when its wait has ended. `run` looks at that run alone.

        Raises:
            AssertionError: it was not; all that happened is printed.
        """
        count = self._count(step, run)
        if count == times or (times is None and count):
            return
        known = self._history.kinds()
        near = did_you_mean(step, known) if step not in known else ""
        wanted = "" if times is None else f", not {_times(times)}"
        raise AssertionError(f"step '{step}' ran {_times(count)}{wanted}{near}\n{self}")

    def assert_not_ran(self, step: str, *, run: HasId | str | None = None) -> None:
        """The step was never executed.

        Raises:
            AssertionError: it was; all that happened is printed.
        """
        if count := self._count(step, run):
            raise AssertionError(f"step '{step}' ran {_times(count)}\n{self}")

    def assert_steps(self, run: HasId | str, steps: Sequence[str]) -> None:
        """These are the steps of the run that have ended, in the order in which their outcomes were recorded.

        Raises:
            AssertionError: they are others; all that happened is printed.
        """
        id = id_of(run) or ""
        found = self._history.runs.get(id)
        if found is None:
            raise AssertionError(f"there is no run '{id}'\n{self}")
        if found.steps != list(steps):
            raise AssertionError(f"the steps of run '{id}' are {found.steps}, not {list(steps)}\n{self}")

    def _count(self, step: str, run: HasId | str | None) -> int:
        id = id_of(run)
        return sum(record.name == step and id in (None, record.run) for record in self._history.steps)


def _times(count: int) -> str:
    return f"{count} time{'' if count == 1 else 's'}"
