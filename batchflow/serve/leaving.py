"""What leaves user code and is no `Exception`: a failure like any other, unless it is the end of the program itself."""

import asyncio
import dis
import functools
import signal
import threading
from types import CodeType, TracebackType
from typing import Any

from batchflow.serve.callables import IN_THREAD

_RAISES = dis.opmap["RAISE_VARARGS"]


def is_end(error: BaseException, task: "asyncio.Task[Any] | None", loop: asyncio.AbstractEventLoop) -> bool:
    """Whether what came out of code in `task` is no failure of the code.

    It is none where a signal has raised it (Ctrl-C), or where the task is being thrown away, as at the end of its
    event loop: then it is not the one that runs.
    """
    if isinstance(error, GeneratorExit):
        return asyncio.current_task(loop) is not task
    return isinstance(error, KeyboardInterrupt) and _is_of_a_signal(error)


def _is_of_a_signal(error: KeyboardInterrupt) -> bool:
    # Signals are handled in the main thread alone, between two instructions of whatever runs there.
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        return False
    tb, last, codes = error.__traceback__, error.__traceback__, set[CodeType]()
    while tb is not None:
        codes.add(tb.tb_frame.f_code)
        tb, last = tb.tb_next, tb
    if IN_THREAD in codes:
        return False
    if handler is signal.default_int_handler:
        return not _raises(last)
    return _code_of(handler) in codes


def _raises(tb: TracebackType | None) -> bool:
    """Whether the code itself has raised, by a statement."""
    return tb is not None and tb.tb_frame.f_code.co_code[tb.tb_lasti] == _RAISES


def _code_of(handler: Any) -> CodeType | None:
    while isinstance(handler, functools.partial):
        handler = handler.func
    if not hasattr(handler, "__code__"):
        handler = getattr(handler, "__func__", None) or type(handler).__call__
    return getattr(handler, "__code__", None)
