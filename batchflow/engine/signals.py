"""Callbacks for signals while an app starts or stops."""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def on_stop_signals(stop: Callable[[], object]) -> Generator[None]:
    """Call `stop` on the event loop at SIGINT and SIGTERM, in addition to their handlers.

    Servers such as uvicorn wait for an app's startup, whatever signals they receive.
    """
    with contextlib.ExitStack() as handled:
        for number in (signal.SIGINT, signal.SIGTERM):
            # A signal without a handler ends the process at once, and must go on doing so.
            if callable(signal.getsignal(number)):
                handled.enter_context(on_signal(stop, number))
        yield


@contextmanager
def on_signal(act: Callable[[], object], number: signal.Signals = signal.SIGINT) -> Generator[None]:
    """Call `act` on the event loop at SIGINT, or another signal, in addition to its handler.

    Servers such as uvicorn wait for an app's shutdown however often Ctrl-C is pressed. Does nothing outside the main
    thread, which cannot receive signals, or if a program that embeds Python handles SIGINT in C: such a handler could
    neither be called nor restored.
    """
    before = signal.getsignal(number)
    if before is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()

    def interrupted(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(act)
        if callable(before):
            before(number, frame)

    signal.signal(number, interrupted)
    try:
        yield
    finally:
        signal.signal(number, before)
