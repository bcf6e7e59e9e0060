"""Durations: as people write them (`10`, "2h30m", a timedelta) and as the milliseconds that the code counts in."""

import math
import re
from datetime import timedelta
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache
from typing import TypeAlias, cast

from batchflow.errors import ConfigurationError

Duration: TypeAlias = timedelta | float | int | str
"""A duration: a number of seconds, text such as "500ms" or "2h30m", or a `timedelta`."""

MAX_DURATION_MS = 36_500 * 86_400_000
"""The longest duration, 36500 days; it fits the integers of every store."""

_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1))
_NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
# Each unit at most once and the large ones first: "5m2h" and "1s1s" are slips, not durations.
_TEXT = re.compile(r"\s*".join(rf"(?:{_NUMBER}{unit}(?![a-z]))?" for unit, _ in _UNITS))
DURATION_PATTERN = rf"^(?=[0-9]){_TEXT.pattern}$"
"""The form of a duration as text."""

_BARE = re.compile(rf"\s*{_NUMBER}\s*")
_HOW = "write seconds such as 10, text such as '500ms', '10s', '2h30m' or '7d', or a timedelta"


def to_ms(value: Duration, *, option: str) -> int:
    """The milliseconds of a duration, rounded; a duration above 0 gives at least 1.

    Units are d, h, m, s and ms, from large to small, each at most once: "500ms", "10s", "2h30m", "1d 12h", "1.5h".

    Raises:
        ConfigurationError: the value is negative, not finite, longer than 36500 days, or not a duration, such as a
            bool or text without a unit; the error names `option`.
    """
    wait, fault = _read(value)
    if wait < 0:
        fault = "which is negative"
    elif wait > MAX_DURATION_MS:
        fault = "which is longer than 36500d"
    if fault:
        raise ConfigurationError(fault, option=option, got=repr(value), want=_HOW)
    return max(int(wait.to_integral_value(ROUND_HALF_UP)), 1 if wait else 0)


def is_duration(value: object) -> bool:
    """Return True for a value that `to_ms` accepts."""
    try:
        to_ms(cast("Duration", value), option="")
    except ConfigurationError:
        return False
    return True


def format_duration(ms: int) -> str:
    """The duration as exact text that `to_ms` reads back to the same number: "1h5m", "1s500ms", "0s"."""
    parts: list[str] = []
    for unit, size in _UNITS:
        count, ms = divmod(ms, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def humanize_duration(ms: int) -> str:
    """The duration for people, in at most two units: "850ms", "1.5s", "12s", "1h 5m"; negative ones give "0s"."""
    if ms < 1_000:
        return f"{ms}ms" if ms > 0 else "0s"
    if ms < 9_950:
        return f"{ms / 1_000:.1f}".removesuffix(".0") + "s"
    step = 1_000 if ms < 3_600_000 else 60_000 if ms < 86_400_000 else 3_600_000
    rounded = (ms + step // 2) // step * step
    parts: list[str] = []
    for unit, size in _UNITS:
        count, rounded = divmod(rounded, size)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts)


def _read(value: object) -> tuple[Decimal, str]:
    """The exact milliseconds, and the problem if there is one. Decimals, since 0.1 s as a float is not 100 ms."""
    match value:
        case timedelta():
            return Decimal(value // timedelta(microseconds=1)) / 1_000, ""
        case bool():
            return Decimal(0), "which is not a duration"
        case int():
            return Decimal(value) * 1_000, ""
        case float() if math.isfinite(value):
            return Decimal(repr(float(value))) * 1_000, ""
        case float():
            return Decimal(0), "which is not finite"
        case str():
            return _read_text(value)
        case _:
            return Decimal(0), "which is not a duration"


@lru_cache(maxsize=256)
def _read_text(value: str) -> tuple[Decimal, str]:
    match = _TEXT.fullmatch(value.strip())
    if match is None or match.lastindex is None:
        return Decimal(0), "which has no unit" if _BARE.fullmatch(value) else "which is not a duration"
    counts = zip(match.groups(), _UNITS, strict=True)
    return sum((Decimal(count) * size for count, (_, size) in counts if count), Decimal(0)), ""
