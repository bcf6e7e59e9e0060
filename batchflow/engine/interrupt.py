"""Ctrl-C while something is being stopped in good order."""

import asyncio
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def on_interrupt(hurry: Callable[[], None]) -> Generator[None]:
    """Call `hurry` on the event loop at SIGINT, beside whatever handles it otherwise.

    Servers such as uvicorn wait for an app's shutdown however often Ctrl-C is pressed. Nothing is done outside of the
    main thread, where signals cannot be had, nor where a program that embeds Python handles SIGINT in C: such a
    handler could be neither called nor put back.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()

    def interrupted(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(hurry)
        if callable(before):
            before(number, frame)

    signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
