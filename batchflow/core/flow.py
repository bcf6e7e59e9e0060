"""Flow control: the limits of a key, the state a store keeps for it, and the rule that decides what may start now."""

import math
import re
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal, NamedTuple

from batchflow.core.duration import Duration, format_duration, to_ms
from batchflow.errors import ConfigurationError

CATCH_UP_MS = 10
"""Starts missed by waking late are made up for as far as this reaches back; older ones are lost."""

SKEW_MS = 1_000
"""How far the clocks of one store's workers may differ before a start in the future is not believed."""

_UNLIMITED = 2**62
STARTED_OF_FRESH = 7
"""Of eight claims of a lane at most seven go to what has started already, as long as something fresh waits."""

_KEY = re.compile(r"[A-Za-z0-9._-]+")  # what the official QStash clients let through


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowControl:
    """How many may run at once (`parallelism`) and how many may start per `period` (`rate`), over all workers of a key.

    Starts are spread evenly over the period; after a pause up to `burst` of them may start at once. A limit that is
    None does not limit. Values are equal however the period was written: "60s" is "1m".

        FlowControl(parallelism=10, rate=5)                  # 5 starts a second, 10 at once
        FlowControl(rate=100, period="1m", key="mail-api")   # one limit for all that name this key
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
        """Limits that have been checked before, as a store keeps them."""
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
        """The time between two starts; 0 where no rate is set."""
        return self.period_ms / self.rate if self.rate else 0.0

    def with_default_key(self, key: str) -> "FlowControl":
        """These limits under `key`, unless they name a key themselves."""
        return self if self.key else replace(self, key=key)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowState:
    """What a store keeps for one key: how many run, and when the next may start.

    `next_start` is in milliseconds with their fraction: 3,000 starts a second are a third of one apart. A float holds
    a quarter of a microsecond there, which is exact to one in a thousand at 5,000 a second.
    """

    in_use: int = 0
    next_start: float = 0.0
    parked_until: int = 0
    paused: bool = False


class FlowStatus(NamedTuple):
    """A flow key as it stands: the limits in force, which of them an operator has pinned, what it holds."""

    limits: FlowControl
    pinned_parallelism: bool
    pinned_rate: bool
    paused: bool
    in_use: int
    waiting: int
    parked_until: int

    @property
    def pinned(self) -> bool:
        """Whether any limit is an operator's."""
        return self.pinned_parallelism or self.pinned_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """How many may start now, the state with them counted in, and when the next one after them may start.

    `ready_at` is now where nothing stands in the way, and None where time alone does not help: the next one waits for
    another to end, or for the key to be resumed.
    """

    count: int
    state: FlowState
    ready_at: int | None


def admit(limits: FlowControl, state: FlowState, *, now: int, want: int) -> Admission:
    """Let as many of `want` start as the limits allow at `now`; `want=0` only asks when.

    Both limits are taken together or not at all. In any time W at most `rate * (W + 10 ms) / period + 1` start, with
    `burst` in the place of the 1 where there is one, and who comes up to 10 ms after each `ready_at` still gets the
    whole rate: starts that were possible in the last 10 ms are not lost.
    """
    free = _UNLIMITED if limits.parallelism is None else max(0, limits.parallelism - state.in_use)
    start = _earliest_start(limits, state, now)
    closed = state.paused or state.parked_until > now
    count = 0 if closed else max(0, min(want, free, _starts_until(limits, start, now)))
    if count:
        start += count * limits.interval_ms
        state = FlowState(
            in_use=state.in_use + count,
            next_start=start if limits.rate else state.next_start,
            parked_until=state.parked_until,
        )
    if state.paused or count >= free:
        return Admission(count=count, state=state, ready_at=None)
    # Rounded up: whoever wakes at `ready_at` must find a start there.
    return Admission(count=count, state=state, ready_at=max(now, state.parked_until, math.ceil(start)))


class ClaimSplit(NamedTuple):
    """How many of what has started and of what is fresh are claimed, and how far the lane has run ahead then."""

    started: int
    fresh: int
    ahead: int


def split_claims(want: int, started: int, fresh: int, ahead: int) -> ClaimSplit:
    """Divide `want` claims of a lane between what has started already and what is fresh, of which so many are due.

    What has started goes first, but of eight claims in a row at least one is fresh. `ahead` is how many claims in a row
    have gone to what has started, up to seven; the next claim goes on with the answer's.
    """
    least = min(fresh, (ahead + want) // (STARTED_OF_FRESH + 1))
    of_started = min(started, want - least)
    of_fresh = min(fresh, want - of_started)
    return ClaimSplit(
        of_started, of_fresh, max(0, min(STARTED_OF_FRESH, ahead + of_started - STARTED_OF_FRESH * of_fresh))
    )


def release(state: FlowState, n: int = 1) -> FlowState:
    """The state after `n` have ended; never fewer than none in use. Starts are not given back."""
    return replace(state, in_use=max(0, state.in_use - n))


Bottleneck = Literal["rate", "parallelism", "none"]
"""Which limit makes a batch take as long as it does."""


def predict_ms(limits: FlowControl, count: int, *, mean_ms: float) -> tuple[int, Bottleneck]:
    """How long `count` items of `mean_ms` each take under the limits, started as early as these allow, and which binds.

    Exact where every item takes the mean. "none" means that they all start at once.
    """
    if count <= 0:
        return 0, "none"
    interval, width = limits.interval_ms, limits.parallelism or count
    waves, place = divmod(count - 1, width)
    if waves and mean_ms > width * interval:
        # Each wave waits for the one before it; the last item stands at its place in the last wave.
        return math.ceil(waves * mean_ms + place * interval + mean_ms), "parallelism"
    last_start = (count - 1) * interval
    return math.ceil(last_start + mean_ms), "rate" if last_start else "none"


def _earliest_start(limits: FlowControl, state: FlowState, now: int) -> float:
    """The first start not yet given away, no further back than the catch-up."""
    interval, start = limits.interval_ms, state.next_start
    if not limits.rate:
        return now
    if start - now > interval + SKEW_MS:
        # No start lies more than one interval ahead: the clock was set back, or the rate was lower until now. It may
        # start at once, since a state is stored only when something starts: a later moment would never come.
        start = now
    return max(start, now - max(CATCH_UP_MS, (limits.burst - 1) * interval))


def _starts_until(limits: FlowControl, start: float, now: int) -> int:
    """How many starts lie between `start` and now, both ends included."""
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
