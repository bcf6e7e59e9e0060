"""What an exception of user code means: try again at some time, never again, or all of the flow key waits."""

import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import cast

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
from batchflow.logs import said

REPORT_BYTES = 8 * 1024
"""The longest text that is kept of one failure."""

_FINAL = (ConfigurationError, InputError, NonRetryable, StepFailed, ReplayError, TimedOut, UnserializableError)
_TRACE = "\nTraceback (most recent call last):\n"
_HOUSE = str(Path(__file__).parents[1])


def again_at(error: BaseException, failures: int, policy: RetryPolicy, *, now: int, chance: float) -> int | None:
    """When to try again after the n-th failure (this one counted); None when it is final.

    An exception group is as final as any of its members, and waits as long as the most patient of them.
    """
    members = list(_members(error))
    if failures >= policy.attempts or any(isinstance(member, _FINAL) for member in members):
        return None
    asked = [member.delay_ms for member in members if isinstance(member, RetryAfter) and member.delay_ms is not None]
    return now + (max(asked) if asked else policy.delay_ms(failures, chance=chance))


def rate_limit(error: BaseException) -> RateLimited | None:
    """The `RateLimited` that `error` is, or the longest of an exception group of nothing else."""
    members = list(_members(error))
    limits = [member for member in members if isinstance(member, RateLimited)]
    if not limits or len(limits) < len(members):
        return None
    return max(limits, key=lambda limit: limit.delay_ms or 0)


def limit_ms(limit: RateLimited, policy: RetryPolicy) -> int:
    """How long the flow key waits: as the limit says, else as after a first failure."""
    return policy.delay_ms(1) if limit.delay_ms is None else limit.delay_ms


def describe(error: BaseException) -> str:
    """One failure in one sentence, "TypeName: message"; of an exception group each of its members."""
    return _cut("; ".join(_sentence(member) for member in _members(error)))


def report(error: BaseException) -> str:
    """`describe`, followed by the traceback from user code on, cut to `REPORT_BYTES`."""
    frames = traceback.format_exception(type(error), error, _from_user_code(error.__traceback__), limit=-20)
    # The first line is the title that the separator already has.
    body = "".join(frames[1:] if frames and frames[0].startswith("Traceback") else frames)
    return _cut(f"{describe(error)}{_TRACE}{body}".rstrip())


def headline(text: str) -> str:
    """The sentence of a `report`."""
    return text.partition(_TRACE)[0]


def trace(text: str) -> str:
    """The traceback of a `report`; empty where it has none."""
    _, found, frames = text.partition(_TRACE)
    return f"{found.lstrip()}{frames}" if found else ""


def _sentence(error: BaseException) -> str:
    name = type(error).__name__
    message = said(error)
    return f"{name}: {message}" if message else name


def _members(error: BaseException) -> Iterator[BaseException]:
    """The error itself, or the members of a group and of the groups within."""
    if isinstance(error, BaseExceptionGroup):
        for member in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from _members(member)
    else:
        yield error


def _from_user_code(tb: TracebackType | None) -> TracebackType | None:
    first = tb
    while first is not None and first.tb_frame.f_code.co_filename.startswith(_HOUSE):
        first = first.tb_next
    return first or tb


def _cut(text: str) -> str:
    data = text.encode("utf-8", "replace")
    if len(data) <= REPORT_BYTES:
        return data.decode()
    half = REPORT_BYTES // 2 - 16
    return f"{data[:half].decode(errors='ignore')}\n[…]\n{data[-half:].decode(errors='ignore')}"
