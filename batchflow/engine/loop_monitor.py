"""Detects code that blocks a worker's event loop, from the thread of the heartbeat, and names it in the log."""

import asyncio
import contextlib
import inspect
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath
from types import FrameType
from typing import Any, NamedTuple

from batchflow.core.frames import is_library, place
from batchflow.logs import log_of

PING_S = 0.25
"""The time between two looks at the event loop."""

BLOCKED_S = 1.0
"""The loop is blocked when it has not answered for this long."""

SUSPENDED_S = 0.5
"""A look that comes later than this without use of the processor: the process or the machine was suspended."""

REPORT_S = 10.0
"""The time between two lines about a place that is known."""

_MAX_FRAMES = 6
_MAX_FUNCTIONS = 100
_MAX_LINES = 3
_DEBUGGERS = ("pdb.py", "bdb.py", "pydevd.py", "pydevd_frame.py")
_COROUTINES = inspect.CO_COROUTINE | inspect.CO_ITERABLE_COROUTINE | inspect.CO_ASYNC_GENERATOR

_current_frames: Callable[[], Mapping[int, FrameType]] = vars(sys)["_current_frames"]
# It is documented, though its name looks private.


class BlockedLoop(NamedTuple):
    """An event loop that does not answer: for how long so far, and the code that holds it.

    `prefix` is that of the log lines of the workflow and layer, or of the function, that executes. `frames` are those
    of the user's code, the innermost first. `function` is the outermost of them, without its line.
    """

    seconds: float
    place: str = ""
    prefix: str = "batchflow"
    frames: tuple[str, ...] = ()
    function: str = ""


class LoopMonitor:
    """Watches the event loop of the thread in which it is made; `run` is executed in another thread.

    It sends the loop a ping four times a second. While one is not answered it looks at the stack of the loop's thread.
    `prefix_of` returns the prefix of the log lines about a task. A process that was suspended, or is stopped by
    a debugger, blocks nothing.
    """

    def __init__(
        self,
        prefix_of: "Callable[[asyncio.Task[Any] | None], str]",
        *,
        cpu_s: Callable[[], float] = time.process_time,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._prefix_of = prefix_of
        self._cpu_s = cpu_s
        self._sent_at: float | None = None
        self._ping = 0
        self._samples: list[BlockedLoop] = []
        self._counted_until = 0.0
        self._looked = (0.0, 0.0)
        self._said: set[str] = set()
        self._unsaid: Counter[str] = Counter()
        self._places: dict[str, BlockedLoop] = {}
        self._unsaid_since = 0.0
        self._latest_at = 0.0
        self.blocked: BlockedLoop | None = None
        """The block that lasts, or that has ended less than `REPORT_S` ago."""

    async def run(self) -> None:
        """Watch until cancelled, or until the loop is closed."""
        now = asyncio.get_running_loop().time
        self._looked = now(), self._cpu_s()
        with contextlib.suppress(RuntimeError):
            while True:
                await asyncio.sleep(PING_S)
                self.look(now())

    def look(self, now: float) -> None:
        """Look if the loop has answered the latest ping, and send the next one.

        Raises:
            RuntimeError: the loop is closed.
        """
        before, cpu_before = self._looked
        self._looked = now, self._cpu_s()
        late = now - before - PING_S
        if late > SUSPENDED_S and self._looked[1] - cpu_before < late / 2:
            self._sent_at = None
        elif (sent_at := self._sent_at) is not None:
            self._samples.append(self._sample(now - sent_at))
            if now - sent_at >= BLOCKED_S:
                self._count(now)
        if self._sent_at is None:
            self._samples.clear()
            self._ping += 1
            self._sent_at, self._counted_until = now, now
            self._loop.call_soon_threadsafe(self._answer, self._ping)
        if self.blocked is not None and now - self._latest_at >= REPORT_S:
            self.blocked = None
        if self._unsaid and now - self._unsaid_since >= REPORT_S:
            self._report(now)

    def _answer(self, ping: int) -> None:
        """Answer a ping. It runs on the loop."""
        if ping == self._ping:
            self._sent_at = None

    def _sample(self, seconds: float) -> BlockedLoop:
        """The code that the loop's thread executes."""
        frame = _current_frames().get(self._thread)
        frames = _frames_on_loop(frame)
        if not frames or _is_debugged(frames):
            return BlockedLoop(seconds)
        prefix = self._prefix_of(asyncio.current_task(self._loop))
        own = [it for it in frames if not is_library(it.f_code.co_filename)]
        if not own:
            return BlockedLoop(seconds, _place(frames[0]), prefix, function=_place(frames[0]))
        called = [] if own[0] is frames[0] else [_place(frames[0], folder=True)]
        names = (*called, *map(_place, own[:_MAX_FRAMES]))
        code = own[-1].f_code
        return BlockedLoop(seconds, _place(own[0]), prefix, names, f"{code.co_filename} {code.co_qualname}")

    def _count(self, now: float) -> None:
        """Count the time of a block, and log the first one of a function."""
        (function, hits), *_ = Counter(it.function for it in self._samples).most_common(1)
        if not function or 2 * hits < len(self._samples):
            # No code holds the loop: it has too much to do.
            return
        found = next(it for it in reversed(self._samples) if it.function == function)
        found = found._replace(seconds=self._samples[-1].seconds)
        self.blocked, self._latest_at = found, now
        since, self._counted_until = self._counted_until, now
        if function not in self._said and len(self._said) < _MAX_FUNCTIONS:
            self._said.add(function)
            _log_first(found)
            return
        if not self._unsaid:
            self._unsaid_since = since
        self._unsaid[function] += int((now - since) * 1000)
        self._places[function] = found

    def _report(self, now: float) -> None:
        """Log how long the loop was blocked by functions that are known."""
        took = now - self._unsaid_since
        for function, ms in self._unsaid.most_common(_MAX_LINES):
            _, where, prefix, *_ = self._places[function]
            log_of(prefix).warning(
                f"[{prefix}] The event loop was blocked for {ms / 1000:.1f} s in {took:.0f} s by {where}"
            )
        self._unsaid.clear()
        self._places.clear()


def _log_first(found: BlockedLoop) -> None:
    advice = ": use an async client, or make the hook or step a plain def" if found.frames else ""
    log_of(found.prefix).warning(
        f"[{found.prefix}] The event loop has been blocked for {found.seconds:.1f} s by {found.place}{advice}",
        **({"frames": " < ".join(found.frames)} if len(found.frames) > 1 else {}),
    )


def _frames_on_loop(frame: FrameType | None) -> list[FrameType]:
    """The frames from the innermost to the coroutine of the task: not those of the code that runs the loop."""
    frames = list(_outward(frame))
    while frames and not frames[-1].f_code.co_flags & _COROUTINES:
        frames.pop()
    return frames


def _outward(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_debugged(frames: list[FrameType]) -> bool:
    monitoring = getattr(sys, "monitoring", None)
    if monitoring is not None and monitoring.get_tool(monitoring.DEBUGGER_ID):
        return True
    return any(it.f_trace is not None or it.f_code.co_filename.endswith(_DEBUGGERS) for it in frames)


def _place(frame: FrameType, *, folder: bool = False) -> str:
    path = frame.f_code.co_filename
    # A file of a library says little by itself: `re/__init__.py`.
    before = f"{PurePath(path).parent.name}/" if folder else ""
    return before + place(path, frame.f_lineno, frame.f_code.co_name)
