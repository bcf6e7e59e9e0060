"""Ctrl-C while something is being stopped in good order."""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def on_stop_signals(stop: Callable[[], object]) -> Generator[None]:
    """Call `stop` on the event loop at SIGINT and SIGTERM, beside whatever handles them otherwise.

    Servers such as uvicorn wait for an app's startup however often they are told to stop.
    """
    with contextlib.ExitStack() as handled:
        for number in (signal.SIGINT, signal.SIGTERM):
            # A signal that is left to the system ends the process at once, which is to stay so.
            if callable(signal.getsignal(number)):
                handled.enter_context(on_signal(stop, number))
        yield


@contextmanager
def on_signal(act: Callable[[], object], number: signal.Signals = signal.SIGINT) -> Generator[None]:
    """Call `hurry` on the event loop at SIGINT, or another signal, beside whatever handles it otherwise.

    Servers such as uvicorn wait for an app's shutdown however often Ctrl-C is pressed. Nothing is done outside of the
    main thread, where signals cannot be had, nor where a program that embeds Python handles SIGINT in C: such a
    handler could be neither called nor put back.
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
