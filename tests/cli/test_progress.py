"""The display of a running batch: bar, plain lines, speed, limit, log lines above the bar."""

import io
from collections.abc import Callable

import pytest
import structlog
from rich.console import Console

from batchflow.batch.status import BatchStatus
from batchflow.cli.output import LogWriter, Output
from batchflow.cli.progress import ProgressSnapshot, SpeedMeter, binding_limit, make_display
from batchflow.core.batch import BatchState, Counts
from batchflow.core.flow import FlowControl, FlowStatus

KEYS = {"greet.execute": "", "greet.paginate": "paginate "}


def status(
    done: int = 540, *, elapsed_ms: int = 6_000, total: int = 1_000, known: bool = True, state: BatchState = "open"
) -> BatchStatus:
    return BatchStatus(
        id="bat_x",
        workflow="greet",
        state=state,
        counts=Counts(eligible=total, open=total - done, succeeded=done, already_processed=200),
        total=total,
        is_total_known=known,
        elapsed_ms=elapsed_ms,
    )


def snapshot(found: BatchStatus | None = None) -> ProgressSnapshot:
    return ProgressSnapshot(found or status(), 90.25, 5_100, "rate 100/s")


def screen(*, terminal: bool) -> tuple[Output, io.StringIO]:
    """An output, and what it has written; as wide as a terminal that is not wide."""
    written = io.StringIO()
    output = Output()
    output.stdout = output.stderr = Console(
        file=written, force_terminal=terminal, width=80, color_system=None, highlight=False, markup=False
    )
    return output, written


def key(
    name: str = "execute", *, waiting: int = 5, in_use: int = 3, parked_until: int = 0, **limits: int
) -> FlowStatus:
    flow = FlowControl(key=f"greet.{name}", **limits)
    return FlowStatus(flow, False, False, False, in_use, waiting, parked_until)


def test_bar_fits_a_terminal_of_80_columns() -> None:
    """Two lines: how far it is, and how it goes."""
    output, written = screen(terminal=True)
    with make_display(output, LogWriter("INFO", output), silent=False) as shown:
        shown.update(snapshot())
    first, second = [line.strip() for line in written.getvalue().splitlines() if "540" in line][-2:]
    assert first.endswith("540 of 1,000 (54%)")
    assert "greet ━━━" in first
    assert second.startswith("540 done, 0 failed, 200 skipped  90.2/s, 6s to go, limit: rate 100/s")


def test_bar_that_never_moved_is_taken_away() -> None:
    """A batch without items prints the summary alone."""
    output, written = screen(terminal=True)
    with make_display(output, LogWriter("INFO", output), silent=False) as shown:
        shown.update(snapshot(status(0, total=0, state="completed")))
    erase = "\x1b[1A\x1b[2K"
    assert written.getvalue().endswith(erase * 2)


def test_without_a_terminal_a_line_now_and_then() -> None:
    """One every five seconds, and none for a batch that is over sooner."""
    output, written = screen(terminal=False)
    with make_display(output, LogWriter("INFO", output), silent=False) as shown:
        for elapsed_ms in range(0, 12_000, 250):
            shown.update(snapshot(status(elapsed_ms=elapsed_ms)))
    line = "greet: 540 of 1,000 (54%), 90.2/s, 6s to go, limit: rate 100/s; 540 done, 0 failed, 200 skipped"
    assert written.getvalue().replace("\n", "") == line * 2


def test_json_shows_nothing() -> None:
    """Progress goes nowhere where one document is wanted."""
    output, written = screen(terminal=True)
    with make_display(output, LogWriter("INFO", output), silent=True) as shown:
        shown.update(snapshot())
    assert written.getvalue() == ""


def test_a_total_that_is_not_known_is_so_far() -> None:
    """No percentage of a number that still grows."""
    assert snapshot(status(known=False)).extent == "540 of 1,000 so far"


def test_speed_is_that_of_the_last_seconds() -> None:
    """A batch that was resumed after an hour is not slow."""
    speed = SpeedMeter()
    for second in range(20):
        speed.update(status(300 + 10 * second, elapsed_ms=3_600_000 + 1_000 * second))
    assert speed.per_second == 10
    assert speed.eta_ms(status(400)) == 60_000
    assert speed.eta_ms(status(400, known=False)) is None


def test_speed_is_unknown_at_first() -> None:
    """One sample is not enough for a speed."""
    speed = SpeedMeter()
    speed.update(status())
    assert (speed.per_second, speed.eta_ms(status())) == (0.0, None)


@pytest.mark.parametrize(
    ("flows", "message"),
    [
        ([key(rate=100)], "rate 100/s"),
        ([key(rate=100, period=60)], "rate 100/1m"),
        ([key(rate=100, parallelism=3)], "parallelism 3"),
        ([key(rate=100, parallelism=4)], "rate 100/s"),
        ([key(rate=100, in_use=8)], "concurrency 8"),
        ([key()], "concurrency 8"),
        ([key(waiting=0), key("paginate", rate=5)], "paginate rate 5/s"),
        ([key(rate=100, parked_until=11_500)], "asked to wait for 2s"),
        ([key()._replace(paused=True)], "paused by an operator"),
        ([key(waiting=0), key("paginate", waiting=0)], ""),
        ([], ""),
    ],
)
def test_the_limit_is_the_one_that_binds(flows: list[FlowStatus], message: str) -> None:
    """The limit that waiting messages wait for."""
    assert binding_limit(flows, KEYS, 8, 10_000) == message


@pytest.fixture
def lines_above() -> Callable[[bool], list[str]]:
    """The lines above a bar while fifty items fail and as many pages are walked."""

    def lines(verbose: bool) -> list[str]:
        output, written = screen(terminal=True)
        with LogWriter("INFO", output, verbose=verbose) as logs:
            log = structlog.get_logger("batchflow")
            logs.begin_bar(output.stdout)
            for number in range(50):
                log.info("a page", number=number)
                log.error("an item", number=number)
            logs.end_bar()
            log.info("after the bar")
        return [line.partition(" ")[2] for line in written.getvalue().splitlines()]

    return lines


def test_above_the_bar_are_a_few_warnings(lines_above: Callable[[bool], list[str]]) -> None:
    """Ten thousand failures do not push everything out of sight; their number is printed."""
    lines = lines_above(False)
    assert lines[:2] == ["[error    ] an item number=0", "[error    ] an item number=1"]
    assert len(lines) == 12
    assert lines[10] == "more log lines were left out; -v shows them"
    assert lines[11] == "[info     ] after the bar"


def test_verbose_shows_all_lines(lines_above: Callable[[bool], list[str]]) -> None:
    """`-v` leaves nothing out."""
    lines = lines_above(True)
    assert len(lines) == 101
    assert lines[0] == "[info     ] a page number=0"


def test_errors_are_told_in_one_line(lines_of_an_error: Callable[[bool], str]) -> None:
    """The traceback that comes with an item's error is for `-v`."""
    assert lines_of_an_error(False).endswith("an item error='boom: no'\n")
    assert "line 3" in lines_of_an_error(True)


@pytest.fixture
def lines_of_an_error() -> Callable[[bool], str]:
    """The lines of an error with its traceback."""

    def lines(verbose: bool) -> str:
        output, written = screen(terminal=False)
        output.stderr.width = 200
        with LogWriter("INFO", output, verbose=verbose):
            structlog.get_logger("batchflow").error("an item", error="boom: no\nTraceback:\n  line 3")
        return written.getvalue()

    return lines
