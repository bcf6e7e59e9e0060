"""The display of a running batch: bar, plain lines, speed, limit, log lines above the bar."""

import io
from collections.abc import Callable
from dataclasses import replace

import pytest
import structlog
from rich.console import Console

from batchflow.batch.status import BatchStatus, WaitReason
from batchflow.batch.wait_reason import binding_limit
from batchflow.cli.output import LogWriter, Output
from batchflow.cli.progress import ProgressSnapshot, SpeedMeter, make_display
from batchflow.core.batch import BatchState, Counts, ErrorGroup
from batchflow.core.flow import FlowControl, FlowStatus
from batchflow.engine.loop_monitor import BlockedLoop

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


def snapshot(found: BatchStatus | None = None, waits_for: WaitReason | None = None) -> ProgressSnapshot:
    found = replace(found or status(), wait_reason=waits_for or WaitReason("limit", "limit: rate 100/s"))
    return ProgressSnapshot(found, 90.25, 5_100, at=found.elapsed_ms)


GROUPS = (
    ErrorGroup("ConnectError", "reviews.py:41 in execute", 15, 0, "ConnectError: refused", "r-17", 16, 1),
    ErrorGroup("ReadTimeout", "reviews.py:41 in execute", 5, 0, "ReadTimeout: ", "r-18", 17, 1),
)


def failing(done: int = 0, *, retrying: int = 20, failed: int = 0, groups: int = 2) -> BatchStatus:
    counts = Counts(eligible=100, open=100 - done - failed, succeeded=done, failed=failed, retrying=retrying)
    return replace(status(total=100), counts=counts, errors=GROUPS[:groups])


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


def test_lines_tell_of_failures_too() -> None:
    """A log file has what a bar has."""
    output, written = screen(terminal=False)
    output.stdout.width = 200
    with make_display(output, LogWriter("INFO", output), silent=False) as shown:
        for elapsed_ms in range(0, 6_000, 250):
            shown.update(snapshot(replace(failing(), elapsed_ms=elapsed_ms)))
    assert written.getvalue().rstrip().endswith("; 20 retrying: 15 × ConnectError, 5 × ReadTimeout")


def test_bar_names_the_code_that_blocks_the_loop() -> None:
    """No update comes while the loop is blocked, but the bar has a thread of its own."""
    output, written = screen(terminal=True)
    now = 100.0
    output.stdout.get_time = lambda: now
    blocked = BlockedLoop(3.0, "reviews.py:41 in execute")
    with make_display(output, LogWriter("INFO", output), silent=False, blocked_loop=lambda: blocked) as shown:
        shown.update(snapshot())
        now += 3
    assert "the event loop has been blocked for 3s at reviews.py:41 in execute" in written.getvalue()


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
        ([key(waiting=0), key("paginate", waiting=0)], ""),
        ([], ""),
    ],
)
def test_the_limit_is_the_one_that_binds(flows: list[FlowStatus], message: str) -> None:
    """The limit that waiting messages wait for."""
    assert binding_limit(flows, KEYS, Counts(), 8) == message


def test_items_that_wait_for_their_next_attempt_wait_for_no_limit() -> None:
    """The waiting messages of a key are those, and it names no culprit that is not one."""
    flows = [key(rate=100, waiting=5)]
    assert binding_limit(flows, KEYS, Counts(open=5, retrying=4, parked=1), 8) == ""
    assert binding_limit(flows, KEYS, Counts(open=5, retrying=4), 8) == "rate 100/s"


def test_failing_attempts_are_told_with_their_reasons() -> None:
    """As many as wait for their next attempt, and why; a limit is not the reason when nothing gets done."""
    shown = replace(snapshot(failing()), per_second=0.0, eta_ms=None)
    assert shown.trouble == "20 retrying: 15 × ConnectError, 5 × ReadTimeout"
    assert shown.pace == "0.0/s"
    one = snapshot(failing(groups=1)).trouble
    assert one == "20 retrying: 15 × ConnectError: refused (reviews.py:41 in execute)"
    assert snapshot(failing(retrying=0)).trouble == ""


def test_parked_items_and_what_stops_the_batch_are_told() -> None:
    """One after the other."""
    found = failing(10, retrying=0)
    found = replace(found, counts=found.counts._replace(parked=3))
    shown = snapshot(found, WaitReason("paused", "an operator has paused the batch"))
    assert shown.trouble == "3 parked; an operator has paused the batch"


@pytest.mark.parametrize(
    ("found", "style"),
    [
        (status(), "green"),
        (failing(10), "yellow"),
        (failing(10, retrying=0, failed=1), "yellow"),
        (failing(), "red"),
        (failing(retrying=0, failed=3), "red"),
    ],
)
def test_bar_has_the_colour_of_its_items(found: BatchStatus, style: str) -> None:
    """Green while all is well, yellow with failures, red if nothing else."""
    assert snapshot(found).style == style


def test_only_a_completed_batch_has_all_its_items() -> None:
    """99.9 % are not rounded up, and a cancelled batch has not done what it left."""
    assert snapshot(status(999)).extent == "999 of 1,000 (99%)"
    assert snapshot(status(1_000)).extent == "1,000 of 1,000 (99%)"
    assert snapshot(status(1_000, state="completed")).extent == "1,000 of 1,000 (100%)"


@pytest.mark.parametrize("width", [80, 100])
def test_bar_with_failures_fits_the_terminal(width: int) -> None:
    """A third line, cut at the edge; control characters of an error stay in it."""
    group = GROUPS[0]._replace(message="ConnectError: \x1b[2J" + "no route to host, " * 20)
    output, written = screen(terminal=True)
    output.stdout.width = width
    with make_display(output, LogWriter("INFO", output), silent=False) as shown:
        shown.update(snapshot(replace(failing(), errors=(group,))))
    lines = [line.rstrip("\r") for line in written.getvalue().split("\n") if "retrying" in line]
    assert lines
    assert all(len(line.strip()) <= width and "…" in line for line in lines)
    assert "\\x1b[2J" in written.getvalue()
    assert "\x1b[2J" not in written.getvalue()


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
