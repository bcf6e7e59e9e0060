"""Exceptions of user code: when to retry, rate limits, stored error texts, and the end of the program."""

import asyncio
import dis
import functools
import re
import signal
import socket
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, TracebackType
from typing import Any, cast

from batchflow.core.batch import Failure
from batchflow.core.frames import FRAME, is_batchflow, is_library, own_frame, place, split_causes
from batchflow.core.report import TRACEBACK_HEADER, one_line, traceback_text
from batchflow.core.retry import RetryPolicy
from batchflow.errors import (
    ConfigurationError,
    InputError,
    NonRetryable,
    RateLimited,
    ReplayError,
    RetryAfter,
    StepFailed,
    TimedOut,
    UnserializableError,
)
from batchflow.logs import safe_str
from batchflow.serve.callables import THREAD_ENTRY
from batchflow.serve.delivery_scope import printable

MAX_REPORT_BYTES = 8 * 1024
"""The maximum size of the stored text of one failure."""

_NOT_RETRYABLE = (ConfigurationError, InputError, NonRetryable, StepFailed, ReplayError, TimedOut, UnserializableError)
_PACKAGE_DIR = str(Path(__file__).parents[1])

_KEPT_FRAMES = 10
# The number of first and of last frames of a traceback that are stored: user code is at both ends.

_MARKS = re.compile(r"[ |]*[~^]+[ ~^]*")
# A line that only underlines a part of the code above it.


def retry_at(error: BaseException, failures: int, policy: RetryPolicy, *, now: int, chance: float) -> int | None:
    """Return when to retry after failure number `failures`; None: never.

    An exception group is not retried if one of its members is not, and waits for the longest delay of its members.
    """
    members = list(_leaf_errors(error))
    if failures >= policy.attempts or any(isinstance(member, _NOT_RETRYABLE) for member in members):
        return None
    asked = [member.delay_ms for member in members if isinstance(member, RetryAfter) and member.delay_ms is not None]
    return now + (max(asked) if asked else policy.delay_ms(failures, chance=chance))


def rate_limit(error: BaseException) -> RateLimited | None:
    """Return `error` if it is a `RateLimited`, or the longest one of an exception group that has only these."""
    members = list(_leaf_errors(error))
    limits = [member for member in members if isinstance(member, RateLimited)]
    if not limits or len(limits) < len(members):
        return None
    return max(limits, key=lambda limit: limit.delay_ms or 0)


def concerns_whole_call(error: BaseException) -> bool:
    """Return whether a call for several items failed for a reason that lies in none of them.

    That is a `RateLimited`, a `RetryAfter`, a timeout, a lost or refused connection, or a cancellation, also if it was
    raised as another error while it was being handled; of an exception group all members have to be such.
    """
    return all(_has_outer_cause(member) for member in _leaf_errors(error))


_OUTER_CAUSES = (RateLimited, RetryAfter, TimeoutError, ConnectionError, socket.gaierror, asyncio.CancelledError)


def _has_outer_cause(error: BaseException) -> bool:
    at: BaseException | None = error
    seen = set[int]()
    while at is not None and id(at) not in seen:
        if isinstance(at, _OUTER_CAUSES):
            return True
        seen.add(id(at))
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)
    return False


def rate_limit_delay_ms(limit: RateLimited, policy: RetryPolicy) -> int:
    """Return how long the flow key pauses: the limit's own delay, or that of a first failure."""
    return policy.delay_ms(1) if limit.delay_ms is None else limit.delay_ms


def describe_error(error: BaseException) -> str:
    """Return an error as one line, "TypeName: message"; for an exception group, one for each member."""
    return _truncate("; ".join(_sentence(member) for member in _leaf_errors(error)))


def error_report(error: BaseException) -> str:
    """Return `describe_error` and the traceback from user code on, truncated to `MAX_REPORT_BYTES`."""
    about = traceback.TracebackException(
        type(error), error, _from_user_code(error.__traceback__), lookup_lines=False, compact=True
    )
    _shorten(about)
    frames = list(about.format())
    # The separator already contains the first line.
    body = "".join(frames[1:] if frames and frames[0].startswith("Traceback") else frames)
    return _truncate(f"{describe_error(error)}{TRACEBACK_HEADER}{printable(body)}".rstrip())


def user_traceback(text: str) -> str:
    """Return the traceback of an `error_report` without batchflow's own frames; "" if no frame is left."""
    lines: list[str] = []
    indent, cut, found = "", False, False
    for line in traceback_text(text).splitlines():
        if (frame := FRAME.match(line)) is not None:
            indent, cut = frame["indent"], is_batchflow(frame["path"])
            found = found or not cut
        elif not line.startswith((f"{indent} ", f"{indent}[")):
            cut = False
            if lines and lines[-1].endswith(TRACEBACK_HEADER.strip()):
                # All frames of this error were cut.
                lines.pop()
        if not cut:
            lines.append(line)
    return "\n".join(lines) if found else ""


def traceback_parts(text: str) -> list[str]:
    """Return `user_traceback` in its parts: that of the error itself first, then those of its causes."""
    return split_causes(user_traceback(text))[::-1]


def own_traceback(text: str) -> str:
    """Return the traceback of the error itself with the user's own frames alone; "" if there are none."""
    lines: list[str] = []
    found, is_cut, indent = False, False, ""
    for line in traceback_parts(text)[0].splitlines():
        if (frame := FRAME.match(line)) is not None:
            indent, is_cut = frame["indent"], is_library(frame["path"])
            found = found or not is_cut
        elif not line.startswith(f"{indent} "):
            is_cut = False
        if not is_cut and not _MARKS.fullmatch(line):
            lines.append(line)
    return "\n".join(lines) if found else ""


def failure_of(error: BaseException) -> Failure:
    """Return a failed attempt as its batch groups it; of a step that failed finally the step's own error."""
    if (step := failed_step(error)) is not None:
        return failure_in(step_report(step))
    return Failure(type(next(_leaf_errors(error))).__name__, _own_frame_of(error), one_line(describe_error(error)))


def failed_step(error: BaseException) -> StepFailed | None:
    """Return `error`, or the first error of a group, if it is that of a step that failed finally."""
    first = next(_leaf_errors(error))
    return first if type(first) is StepFailed else None


def failure_in(text: str) -> Failure:
    """Return the same for an `error_report`, or another stored text of an error."""
    return Failure.of_text(text)._replace(where=own_frame(text))


def step_report(error: StepFailed) -> str:
    """Return the `error_report` of the step itself."""
    return "\n".join([error.error, *getattr(error, "__notes__", ())])


def _sentence(error: BaseException) -> str:
    name = type(error).__name__
    message = printable(safe_str(error))
    return f"{name}: {message}" if message else name


def _leaf_errors(error: BaseException) -> Iterator[BaseException]:
    """Yield the error itself, or the members of a group and of its nested groups."""
    if isinstance(error, BaseExceptionGroup):
        for member in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from _leaf_errors(member)
    else:
        yield error


def _from_user_code(tb: TracebackType | None) -> TracebackType | None:
    first = tb
    while first is not None and first.tb_frame.f_code.co_filename.startswith(_PACKAGE_DIR):
        first = first.tb_next
    return first or tb


def _shorten(about: traceback.TracebackException) -> None:
    """Keep the first and the last frames of an error, of its causes and of its members."""
    left, seen = [about], set[int]()
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if len(one.stack) > 2 * _KEPT_FRAMES:
            one.stack = traceback.StackSummary.from_list([*one.stack[:_KEPT_FRAMES], *one.stack[-_KEPT_FRAMES:]])
        left += [it for it in (one.__cause__, one.__context__, *(one.exceptions or ())) if it is not None]


def _own_frame_of(error: BaseException) -> str:
    """Return the user's own last frame of an error, or else of what caused it."""
    at: BaseException | None = next(_leaf_errors(error))
    seen = set[int]()
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        found, tb = "", at.__traceback__
        while tb is not None:
            code = tb.tb_frame.f_code
            if not is_library(code.co_filename):
                found = place(code.co_filename, tb.tb_lineno, code.co_name)
            tb = tb.tb_next
        if found:
            return found
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)
    return ""


def _truncate(text: str) -> str:
    data = text.encode("utf-8", "replace")
    if len(data) <= MAX_REPORT_BYTES:
        return data.decode()
    half = MAX_REPORT_BYTES // 2 - 16
    return f"{data[:half].decode(errors='ignore')}\n[…]\n{data[-half:].decode(errors='ignore')}"


_RAISE_OPCODE = dis.opmap["RAISE_VARARGS"]


def is_program_exit(error: BaseException, task: "asyncio.Task[Any] | None", loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether an exception from code in `task` ends the program instead of being a failure of the code.

    That is a `KeyboardInterrupt` raised by a signal (Ctrl-C), or a `GeneratorExit` while the task is destroyed, as at
    the end of its event loop: then it is not the current task.
    """
    if isinstance(error, GeneratorExit):
        return asyncio.current_task(loop) is not task
    return isinstance(error, KeyboardInterrupt) and _is_raised_by_signal(error)


def _is_raised_by_signal(error: KeyboardInterrupt) -> bool:
    # Signals are handled in the main thread alone, between two instructions of whatever runs there.
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        return False
    tb, last, codes = error.__traceback__, error.__traceback__, set[CodeType]()
    while tb is not None:
        codes.add(tb.tb_frame.f_code)
        tb, last = tb.tb_next, tb
    if THREAD_ENTRY in codes:
        return False
    if handler is signal.default_int_handler:
        return not _is_raise_statement(last)
    return _handler_code(handler) in codes


def _is_raise_statement(tb: TracebackType | None) -> bool:
    """Return whether a `raise` statement in the code raised the exception."""
    return tb is not None and tb.tb_frame.f_code.co_code[tb.tb_lasti] == _RAISE_OPCODE


def _handler_code(handler: Any) -> CodeType | None:
    while isinstance(handler, functools.partial):
        handler = handler.func
    if not hasattr(handler, "__code__"):
        handler = getattr(handler, "__func__", None) or type(handler).__call__
    return getattr(handler, "__code__", None)
