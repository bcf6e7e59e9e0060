"""The wait that a response asks for, by the headers that QStash reads."""

import re
from collections.abc import Iterable
from datetime import UTC

MAX_WAIT_MS = 86_400_000
"""A longer wait is not obeyed, as in QStash."""

_LIMIT_RESETS = ("x-ratelimit-reset", "x-ratelimit-reset-requests", "x-ratelimit-reset-tokens")
_SECONDS = re.compile(r"\s*(\d+(?:\.\d+)?)\s*", re.ASCII)
_GO_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_GO_DURATION = re.compile(rf"\s*(?:{_GO_PART.pattern})+\s*", re.ASCII)
_GO_UNITS_MS = {"ns": 1e-6, "us": 1e-3, "µs": 1e-3, "μs": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4, "h": 3.6e6}


def asked_wait_ms(headers: Iterable[tuple[str, str]], now: int) -> int | None:
    """The wait that a response asks for, in ms; None if it asks for none, or for more than a day.

    `Retry-After` wins; of several `X-RateLimit-Reset*` the longest counts. Each is in seconds, a date, or a duration of
    Go such as `6m5s`.
    """
    found = {name.lower(): value for name, value in headers}
    date = found.get("date", "")
    after = _wait_ms(found.get("retry-after", ""), date, now)
    if after is not None:
        return after
    resets = [_wait_ms(found.get(name, ""), date, now) for name in _LIMIT_RESETS]
    return max((it for it in resets if it is not None), default=None)


def retry_after_ms(text: str, date: str, now: int) -> float | None:
    """The delay of a `Retry-After` in ms, at least 0; None if it is not valid.

    It is in seconds, or a date, which counts from the response's own `Date` if that is earlier.
    """
    if (seconds := _SECONDS.fullmatch(text)) is not None:
        return float(seconds[1]) * 1000
    at = _http_date_ms(text)
    if at is None:
        return None
    # The server's clock may be wrong, but then it is wrong in both headers.
    sent = _http_date_ms(date)
    return max(0, at - (now if sent is None or sent > at else sent))


def _wait_ms(text: str, date: str, now: int) -> int | None:
    if not text:
        return None
    if _GO_DURATION.fullmatch(text) is not None:
        wait: float | None = sum(float(count) * _GO_UNITS_MS[unit] for count, unit in _GO_PART.findall(text))
    else:
        wait = retry_after_ms(text, date, now)
    return int(wait) if wait is not None and wait <= MAX_WAIT_MS else None


def _http_date_ms(text: str) -> int | None:
    # Late: few responses have one, and it imports what a mail is made of.
    from email.utils import parsedate_to_datetime

    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    # A date without a zone is one of GMT, as all dates of HTTP.
    return int((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() * 1000)
