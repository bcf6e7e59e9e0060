"""Flow control: the limits of a key, the state that a store keeps for it, and the rule that admits messages."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal, NamedTuple

from batchflow.core.breaker import CLOSED, Breaker
from batchflow.core.duration import Duration, format_duration, to_ms
from batchflow.core.run import NEVER
from batchflow.core.suggestions import explains_options
from batchflow.errors import ConfigurationError

CATCH_UP_MS = 10
"""Starts that were missed within this time, because a worker woke late, are made up for; older ones are lost."""

SKEW_MS = 1_000
"""The largest difference between the workers' clocks; a stored start further in the future is ignored."""

_UNLIMITED = 2**62
STARTED_OF_FRESH = 7
"""Of eight claims of a lane at most seven go to messages that have started before, while fresh ones wait."""

_KEY = re.compile(r"[A-Za-z0-9._-]+")  # what the official QStash clients let through


LIMIT_WORDS: Mapping[str, str] = {
    "concurrency": "parallelism=…",
    "max_concurrency": "parallelism=…",
    "rate_limit": "rate=…",
}
"""The words of other APIs for limits, with what to write."""

LIMIT_OPTIONS: Mapping[str, str] = {**LIMIT_WORDS, "parallelism": "parallelism=…", "rate": "rate=…"}
"""The same and our own words, where limits are not options by themselves."""


@explains_options(
    **LIMIT_WORDS,
    limit="parallelism=… or rate=…",
    per="period=…",
    interval="period=…",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class FlowControl:
    """Limits over all workers: at most `parallelism` run at once, and at most `rate` start per `period`.

    Starts are spread evenly over the period; after a pause up to `burst` of them may start at once. None means no
    limit. Periods of the same length are equal: "60s" is "1m".

        FlowControl(parallelism=10, rate=5)                  # 5 starts a second, 10 at once
        FlowControl(rate=100, period="1m", key="mail-api")   # one limit for everything that names this key
        FlowControl(rate=60, period="1m", burst=10)          # one a second, ten of them at once after ten idle seconds

    Raises:
        ConfigurationError: a limit is not a whole number of 1 or more, the period is not a duration or 0, there is a
            `burst` and no `rate`, or the key is empty or has other characters than letters, digits, '-', '_' and '.'.
    """

    parallelism: int | None = None
    rate: int | None = None
    period: Duration = "1s"
    key: str | None = None
    burst: int = 1
    period_ms: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_limit(self.parallelism, "parallelism")
        _check_limit(self.rate, "rate")
        _check_key(self.key)
        _check_limit(self.burst, "burst", optional=False)
        if self.burst > 1 and self.rate is None:
            raise ConfigurationError(
                f"is {self.burst} and there is no 'rate'", option="burst", want="give the rate it goes beyond"
            )
        period = to_ms(self.period, option="period")
        if period == 0:
            raise ConfigurationError(
                option="period", got=repr(self.period), want="write the time that 'rate' counts in, such as '1s'"
            )
        object.__setattr__(self, "period", format_duration(period))
        object.__setattr__(self, "period_ms", period)

    @classmethod
    def of_ms(
        cls, key: str | None, parallelism: int | None, rate: int | None, period_ms: int, burst: int = 1
    ) -> "FlowControl":
        """Limits as a store keeps them, which were checked before."""
        limits = cls.__new__(cls)
        put = object.__setattr__
        put(limits, "parallelism", parallelism)
        put(limits, "rate", rate)
        put(limits, "period", _format_period(period_ms))
        put(limits, "key", key)
        put(limits, "burst", burst)
        put(limits, "period_ms", period_ms)
        return limits

    def __repr__(self) -> str:
        burst = f", burst={self.burst}" if self.burst > 1 else ""
        limits = f"parallelism={self.parallelism!r}, rate={self.rate!r}, period={self.period!r}, key={self.key!r}"
        return f"FlowControl({limits}{burst})"

    @property
    def interval_ms(self) -> float:
        """The time between two starts; 0 without a rate."""
        return self.period_ms / self.rate if self.rate else 0.0

    def with_default_key(self, key: str) -> "FlowControl":
        """These limits, with `key` if they name no key."""
        return self if self.key else replace(self, key=key)


class FlowState(NamedTuple):
    """The state that a store keeps for one key: the number that run, and the time of the next start.

    With `half_open`, its circuit breaker is open: once the key is not parked any more, one message is tried.

    `next_start` is in milliseconds with their fraction: 3,000 starts a second are a third of one apart. A float holds
    a quarter of a microsecond there, which is exact to one in a thousand at 5,000 a second.
    """

    in_use: int = 0
    next_start: float = 0.0
    parked_until: int = 0
    paused: bool = False
    half_open: bool = False


class FlowStatus(NamedTuple):
    """The current state of a flow key: the limits in force, which of them an operator has pinned, its messages.

    `parallelism_until`, `rate_until` and `paused_until` are the times (ms) at which the pins and the pause end by
    themselves; None if only by hand, or if there is none. While the `breaker` tries a message, nothing else starts, and
    `parked_until` is 0. `next_start` is the first time (ms) that the rate has left for a start, in the past for a key
    that could have started more; 0 if none was counted.
    """

    limits: FlowControl
    pinned_parallelism: bool
    pinned_rate: bool
    paused: bool
    in_use: int
    waiting: int
    parked_until: int
    parallelism_until: int | None = None
    rate_until: int | None = None
    paused_until: int | None = None
    breaker: Breaker = CLOSED
    next_start: float = 0.0

    @property
    def pinned(self) -> bool:
        """True if an operator has pinned a limit."""
        return self.pinned_parallelism or self.pinned_rate


class FlowHolder(NamedTuple):
    """A claimed message that takes one of the places of a flow key; `item` is the id of an item, or empty.

    `started_at` is the time of its first claim (ms).
    """

    id: str
    destination: str
    worker: str
    started_at: int
    batch: str | None
    item: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """The number that may start now, the state that includes them, and the time of the next start after them.

    `ready_at` is now if another one may start at once, and None if time alone does not help: the next one waits for
    the end of another, or until the key is resumed.
    """

    count: int
    state: FlowState
    ready_at: int | None


def admit(limits: FlowControl, state: FlowState, *, now: int, want: int) -> Admission:
    """Let as many of `want` start as the limits allow at `now`; `want=0` only computes `ready_at`.

    Both limits are taken together or not at all. In any time W at most `rate * (W + 10 ms) / period + 1` start, with
    `burst` in place of the 1 if it is set. A worker that comes up to 10 ms after each `ready_at` still gets the whole
    rate: starts that were possible in the last 10 ms are not lost. Of a key that is half-open one starts, and
    the key is parked until that one has ended.
    """
    free = _UNLIMITED if limits.parallelism is None else max(0, limits.parallelism - state.in_use)
    start = _earliest_start(limits, state, now)
    closed = state.paused or state.parked_until > now
    count = 0 if closed else max(0, min(want, free, _starts_until(limits, start, now)))
    if state.half_open and count:
        count = 1
    if count:
        start += count * limits.interval_ms
        state = FlowState(
            in_use=state.in_use + count,
            next_start=start if limits.rate else state.next_start,
            parked_until=NEVER if state.half_open else state.parked_until,
            half_open=state.half_open,
        )
    if state.paused or count >= free or state.parked_until == NEVER:
        return Admission(count=count, state=state, ready_at=None)
    # Rounded up: a worker that wakes at `ready_at` must find a start.
    return Admission(count=count, state=state, ready_at=max(now, state.parked_until, math.ceil(start)))


class ClaimSplit(NamedTuple):
    """The number of started and of fresh messages to claim, and the new value of `ahead`."""

    started: int
    fresh: int
    ahead: int


def split_claims(want: int, started: int, fresh: int, ahead: int) -> ClaimSplit:
    """Divide `want` claims of a lane between the messages that have `started` before and the `fresh` ones that are due.

    Started ones go first, but of eight claims in a row at least one is fresh. `ahead` counts the claims in a row that
    went to started ones, up to seven; the next call takes it from the result.
    """
    least = min(fresh, (ahead + want) // (STARTED_OF_FRESH + 1))
    of_started = min(started, want - least)
    of_fresh = min(fresh, want - of_started)
    return ClaimSplit(
        of_started, of_fresh, max(0, min(STARTED_OF_FRESH, ahead + of_started - STARTED_OF_FRESH * of_fresh))
    )


def release(state: FlowState, n: int = 1) -> FlowState:
    """The state after `n` have ended; never fewer than none in use. Starts are not given back."""
    return state._replace(in_use=max(0, state.in_use - n))


Bottleneck = Literal["rate", "parallelism", "none"]
"""The limit that determines how long a batch takes."""


def predict_ms(limits: FlowControl, count: int, *, mean_ms: float) -> tuple[int, Bottleneck]:
    """The time that `count` items of `mean_ms` each take under the limits, and the limit that determines it.

    Exact if every item takes the mean. "none": they all start at once.
    """
    if count <= 0:
        return 0, "none"
    interval, width = limits.interval_ms, limits.parallelism or count
    waves, place = divmod(count - 1, width)
    if waves and mean_ms > width * interval:
        # Each wave waits for the one before it; the last item starts at its place in the last wave.
        return math.ceil(waves * mean_ms + place * interval + mean_ms), "parallelism"
    last_start = (count - 1) * interval
    return math.ceil(last_start + mean_ms), "rate" if last_start else "none"


def _earliest_start(limits: FlowControl, state: FlowState, now: int) -> float:
    """The first start that is still free, at most the catch-up time ago."""
    interval, start = limits.interval_ms, state.next_start
    if not limits.rate:
        return now
    if start - now > interval + SKEW_MS:
        # No start lies more than one interval ahead: the clock was set back, or the rate was lower until now. The next
        # one starts at once: the state is stored only when something starts, so that any later time would never come.
        start = now
    return max(start, now - max(CATCH_UP_MS, (limits.burst - 1) * interval))


def _starts_until(limits: FlowControl, start: float, now: int) -> int:
    """The number of starts from `start` until now, both included."""
    if not limits.rate:
        return _UNLIMITED
    return int((now - start) / limits.interval_ms) + 1 if start <= now else 0


@lru_cache(maxsize=1_024)
def _format_period(period_ms: int) -> str:
    return format_duration(period_ms)


def _check_limit(value: object, option: str, *, optional: bool = True) -> None:
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        want = f"write a whole number of 1 or more{', or None for no limit' * optional}"
        raise ConfigurationError(option=option, got=repr(value), want=want)


def _check_key(value: object) -> None:
    if value is not None and not (isinstance(value, str) and _KEY.fullmatch(value)):
        want = "write letters, digits, '-', '_' and '.', such as 'mail-api'"
        raise ConfigurationError(option="key", got=repr(value), want=want)
