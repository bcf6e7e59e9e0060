"""A clock that is set under a worker is said once."""

from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from batchflow.engine.clock import ClockJumpDetector
from batchflow.testing.clock import ManualClock


class Times:
    """A wall clock and one that only goes on, which move together until one is set."""

    def __init__(self) -> None:
        self.wall = ManualClock()
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds

    def pass_(self, seconds: float) -> None:
        self.seconds += seconds
        self.wall.advance(seconds)


@pytest.mark.parametrize(
    ("step", "said"),
    [(3_600_000, "The clock of this machine was set forward"), (-3_600_000, "The clock of this machine was set back")],
)
def test_a_step_of_the_clock_is_said_once(step: int, said: str) -> None:
    """With its length; an ordinary clock is not reported."""
    times = Times()
    now: list[Callable[[], int]] = [times.wall.now]
    looking = ClockJumpDetector(_Stepped(now), times)
    with capture_logs() as logs:
        for _ in range(3):
            times.pass_(1)
            looking.check()
        now[0] = lambda: times.wall.now() + step
        for _ in range(3):
            times.pass_(1)
            looking.check()
    assert [(it["log_level"], it["by"]) for it in logs] == [("warning", "1h")]
    assert said in logs[0]["event"]


def test_a_clock_that_is_corrected_by_little_is_no_step() -> None:
    """Nor is a pause of the process, in which both go on."""
    times = Times()
    looking = ClockJumpDetector(times.wall, times)
    with capture_logs() as logs:
        for _ in range(10):
            times.pass_(1)
            times.wall.advance(0.2)
            looking.check()
        times.pass_(600)
        looking.check()
    assert logs == []


class _Stepped:
    def __init__(self, now: list[Callable[[], int]]) -> None:
        self._now = now

    def now(self) -> int:
        return self._now[0]()
