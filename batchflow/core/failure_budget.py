"""The failure budget of a batch: the failures after which the store stops it, or parks its flow key. Pure."""

from dataclasses import dataclass
from typing import Literal, TypeAlias, cast, get_args

from pydantic_core import from_json, to_json

from batchflow.core.breaker import BreakerLimits
from batchflow.core.duration import Duration, format_duration, to_ms
from batchflow.errors import ConfigurationError

BudgetAction: TypeAlias = Literal["pause", "cancel"]

MAX_COUNT = 1_000_000_000
"""The largest `max_failures`, `min_items` and `max_in_a_row`."""


@dataclass(frozen=True, slots=True)
class FailureBudget:
    """The failures that a batch may have: with one more, it is paused or cancelled. And its circuit breaker.

        FailureBudget(max_failures=100)
        FailureBudget(max_rate=0.05, min_items=200, action="cancel")
        FailureBudget(max_in_a_row=5, open_for="30s")        # a circuit breaker alone

    Counted are items that have failed for good. `max_rate` is their part of all items that have succeeded or failed,
    from 0 to 1, and applies once `min_items` have. A resumed batch starts to count anew.

    The settlement of the failure that is one too many stops the batch, so that nothing starts after it; items that are
    under way go on, at most as many as the `parallelism` of the flow key.

    The circuit breaker is for outages: when `max_in_a_row` attempts of items have failed with no success between, the
    flow key of the items is parked for `open_for`. Then one item is tried at a time: its success closes the breaker,
    its failure parks the key again. Failed attempts that are tried again count too; rate limits, waits and
    cancellations do not. Nothing is paused or cancelled by it, so that it takes no `action`.

    Raises:
        ConfigurationError: there is no limit, one that cannot be, `max_in_a_row` without `open_for` or the other way
            round, or an `action` of a circuit breaker alone.
    """

    max_failures: int | None = None
    max_rate: float | None = None
    min_items: int = 50
    action: BudgetAction | None = None
    """None becomes "pause", but for a circuit breaker alone."""
    max_in_a_row: int | None = None
    open_for: Duration | None = None

    def __post_init__(self) -> None:
        self._check_breaker()
        _check_count("min_items", self.min_items, 1)
        if self.max_failures is None and self.max_rate is None:
            if self.max_in_a_row is None:
                raise ConfigurationError(
                    "has no limit",
                    option="failure_budget",
                    want="give max_failures= or max_rate=, or max_in_a_row= with open_for=",
                )
            if self.action is not None:
                want = "give max_failures= or max_rate= too, or leave it out: a circuit breaker only parks the flow key"
                raise ConfigurationError(f"is {self.action!r}, and nothing is limited", option="action", want=want)
            return
        if self.action is None:
            object.__setattr__(self, "action", "pause")
        if self.max_failures is not None:
            _check_count("max_failures", self.max_failures, 0)
        if self.max_rate is not None and not _is_rate(self.max_rate):
            want = "write a part of all items from 0 up to, but not, 1, such as 0.05"
            raise ConfigurationError(option="max_rate", got=repr(self.max_rate), want=want)
        if self.action not in get_args(BudgetAction):
            raise ConfigurationError(option="action", got=repr(self.action), want="write 'pause' or 'cancel'")

    def _check_breaker(self) -> None:
        if (self.max_in_a_row is None) != (self.open_for is None):
            missing, given = ("open_for", "max_in_a_row") if self.open_for is None else ("max_in_a_row", "open_for")
            example = "'30s'" if missing == "open_for" else "5"
            want = f"give {missing}= too, such as {example}: a circuit breaker has both"
            raise ConfigurationError(f"has no {missing!r}", option=given, want=want)
        if self.max_in_a_row is None or self.open_for is None:
            return
        _check_count("max_in_a_row", self.max_in_a_row, 1)
        open_for = to_ms(self.open_for, option="open_for")
        if open_for == 0:
            want = "write the time for which the flow key is parked, such as '30s'"
            raise ConfigurationError(option="open_for", got=repr(self.open_for), want=want)
        object.__setattr__(self, "open_for", format_duration(open_for))

    @property
    def breaker(self) -> BreakerLimits | None:
        """The circuit breaker, if it has one."""
        if self.max_in_a_row is None or self.open_for is None:
            return None
        return BreakerLimits(self.max_in_a_row, to_ms(self.open_for, option="open_for"))

    def is_exceeded(self, succeeded: int, failed: int) -> bool:
        """True if these numbers of items are more than the budget allows. The stores have the same rule."""
        if self.max_failures is not None and failed > self.max_failures:
            return True
        ended = succeeded + failed
        return self.max_rate is not None and ended >= self.min_items and failed > self.max_rate * ended

    def __str__(self) -> str:
        parts = [] if self.max_failures is None else [f"{self.max_failures:,}"]
        parts += [] if self.max_rate is None else [f"{self.max_rate * 100:.4g}% once {self.min_items:,} have ended"]
        texts = [f"at most {' and '.join(parts)}"] if parts else []
        if self.breaker is not None:
            texts.append(f"parked for {self.open_for} after {self.max_in_a_row:,} failed attempts in a row")
        return "; ".join(texts)

    def to_text(self) -> str:
        """The budget as stores keep it: a JSON array of its fields in order, `open_for` in ms."""
        rate = None if self.max_rate is None else float(self.max_rate)
        breaker = self.breaker or (None, None)
        return to_json([self.max_failures, rate, self.min_items, self.action, *breaker]).decode()

    @classmethod
    def of_text(cls, text: str | None) -> "FailureBudget | None":
        """The budget as stores keep it."""
        if text is None:
            return None
        most, rate, least, action, *breaker = from_json(text)
        in_a_row, open_for = breaker or (None, None)
        return cls(most, rate, least, action, in_a_row, None if open_for is None else format_duration(open_for))


def _check_count(option: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_COUNT:
        want = f"write a whole number from {least} to {MAX_COUNT:,}"
        raise ConfigurationError(option=option, got=repr(value), want=want)


def _is_rate(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and 0 <= cast("float", value) < 1
