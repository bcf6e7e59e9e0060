"""Signals: the first one asks the command to stop in good order, the second ends it at once."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

_SLACK_SECONDS = 5.0


class Interrupt:
    """While it is entered, Ctrl-C and SIGTERM set `requested` instead of ending the process.

    A stop that takes longer than three times the grace (what is under way may end, then be cancelled, then be written)
    is cut off: code that blocks the event loop cannot hold the process. Who leaves at once calls `before_leaving`.
    """

    def __init__(self, grace_seconds: float, before_leaving: Callable[[], None] = lambda: None) -> None:
        self.requested = asyncio.Event()
        self._before_leaving = before_leaving
        self.signal: signal.Signals | None = None
        self._bound = 3 * grace_seconds + _SLACK_SECONDS
        self._loop = asyncio.get_running_loop()
        self._former: dict[signal.Signals, object] = {}
        self._cut_off: threading.Timer | None = None

    @property
    def exit_code(self) -> int:
        """What a shell expects of a program that a signal has ended: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + (self.signal or signal.SIGINT)

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._former[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, former in self._former.items():
            signal.signal(number, former if callable(former) or isinstance(former, int) else signal.SIG_DFL)
        if self._cut_off is not None:
            self._cut_off.cancel()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        # Not by the event loop's own handlers: those are not called while user code blocks it.
        if self.signal is not None:
            self._leave(128 + number)
        self.signal = signal.Signals(number)
        self._cut_off = threading.Timer(self._bound, self._leave, (self.exit_code,))
        self._cut_off.daemon = True
        self._cut_off.start()
        self._loop.call_soon_threadsafe(self.requested.set)

    def _leave(self, code: int) -> None:
        self._before_leaving()
        if sys.stdout.isatty():
            # The bar has hidden the cursor.
            os.write(sys.stdout.fileno(), b"\x1b[?25h\r\n")
        os._exit(code)
