"""The monitor of the event loop: it names the code that blocks the loop, once, and nothing else."""

import asyncio
import re
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from batchflow import Batchflow
from batchflow.engine.loop_monitor import BLOCKED_S, PING_S, REPORT_S, LoopMonitor
from tests.waiting import wait_until_sync


class Watch:
    """A monitor whose looks, and whose use of the processor, are the test's."""

    def __init__(self) -> None:
        self.cpu = 0.0
        self.now = 0.0
        self.monitor = LoopMonitor(lambda task: "reviews:execute", cpu_s=lambda: self.cpu)

    def look(self, *after: float) -> None:
        for seconds in after:
            self.now += seconds
            self.monitor.look(self.now)


def hold_loop(act: Callable[[], None]) -> None:
    """Block this thread while `act` is executed in another one."""
    thread = threading.Thread(target=act)
    thread.start()
    thread.join()


def helper(act: Callable[[], None]) -> None:
    hold_loop(act)


async def execute(act: Callable[[], None]) -> None:
    """A hook that blocks the loop in a function of its own."""
    helper(act)


def trace(_frame: object, _event: str, _value: object) -> None:
    """Trace nothing."""


def warnings(lines: Sequence[Any]) -> list[str]:
    return [line["event"] for line in lines if line["log_level"] == "warning"]


LOOKS = (PING_S,) * (1 + round(BLOCKED_S / PING_S))


async def test_a_blocked_loop_is_named() -> None:
    """With its layer, the user's own frame, and those around it; and the engine can tell."""
    watch = Watch()
    with capture_logs() as lines:
        await execute(lambda: watch.look(*LOOKS))
    (line,) = lines
    assert re.fullmatch(
        r"\[reviews:execute\] The event loop has been blocked for 1\.0 s by test_loop_monitor\.py:\d+ in hold_loop: .*",
        line["event"],
    )
    assert re.search(r"in hold_loop < .* in helper < test_loop_monitor\.py:\d+ in execute", line["frames"])
    blocked = watch.monitor.blocked
    assert blocked is not None
    assert blocked.seconds == pytest.approx(BLOCKED_S)
    watch.look(REPORT_S)
    assert watch.monitor.blocked is None


async def test_a_place_that_is_known_is_summed() -> None:
    """A line every ten seconds while it goes on."""
    watch = Watch()
    with capture_logs() as lines:
        await execute(lambda: watch.look(*LOOKS))
        for _ in range(4):
            await asyncio.sleep(0)
            await execute(lambda: watch.look(*LOOKS))
        await asyncio.sleep(0)
        watch.look(PING_S, REPORT_S)
    first, summed = warnings(lines)
    assert "has been blocked" in first
    assert re.search(r"was blocked for 4\.\d s in 1\d s by test_loop_monitor\.py:\d+ in hold_loop$", summed)


async def test_a_loop_that_answers_is_not_blocked() -> None:
    """However long the looks are apart."""
    watch = Watch()
    with capture_logs() as lines:
        for _ in range(20):
            watch.look(PING_S)
            await asyncio.sleep(0)
    assert lines == []


async def test_a_suspended_process_blocks_nothing() -> None:
    """A look that comes late, and no processor time was used: SIGSTOP, or a machine that slept."""
    watch = Watch()
    with capture_logs() as lines:
        await execute(lambda: watch.look(PING_S, PING_S, 60.0, PING_S, PING_S))
    assert lines == []
    assert watch.monitor.blocked is None


async def test_code_that_holds_all_threads_is_named() -> None:
    """A look that comes late because the processor was used: a regular expression, a large document."""
    watch = Watch()

    def look() -> None:
        watch.look(PING_S)
        watch.cpu += 60.0
        watch.look(60.0)

    with capture_logs() as lines:
        await execute(look)
    assert len(warnings(lines)) == 1


async def test_a_debugger_blocks_nothing() -> None:
    """Frames that are traced are stopped by somebody who looks at them."""
    watch = Watch()

    def traced() -> None:
        frame = sys._current_frames().get(loop_thread)  # pyright: ignore[reportPrivateUsage]: the documented way
        while frame is not None and frame.f_code is not execute.__code__:
            frame = frame.f_back
        assert frame is not None
        frame.f_trace = trace
        watch.look(*LOOKS)

    loop_thread = threading.get_ident()
    with capture_logs() as lines:
        await execute(traced)
    assert lines == []


async def test_a_hook_that_blocks_is_named_by_its_worker() -> None:
    """End to end: the heartbeat's thread has the monitor."""
    flow = Batchflow("sqlite://")

    @flow.batch(ids=["a"], flow=None)
    async def reviews(id: str) -> str:
        wait_until_sync(lambda: flow.engine.blocked_loop is not None, description="the block is noticed")
        return id

    with capture_logs() as lines:
        async with flow:
            await (await reviews.trigger()).wait(60)
    (warning,) = warnings(lines)
    assert warning.startswith("[reviews:execute] The event loop has been blocked for 1.")
    assert "in reviews" in str([line.get("frames") for line in lines])
