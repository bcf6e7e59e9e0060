"""The failure budget of a batch: how many of its items may fail before the store pauses or cancels it. Pure."""

from dataclasses import dataclass
from typing import Literal, TypeAlias, cast, get_args

from pydantic_core import from_json, to_json

from batchflow.errors import ConfigurationError

BudgetAction: TypeAlias = Literal["pause", "cancel"]

MAX_COUNT = 1_000_000_000
"""The largest `max_failures` and `min_items`."""


@dataclass(frozen=True, slots=True)
class FailureBudget:
    """The failures that a batch may have: with one more, it is paused or cancelled.

        FailureBudget(max_failures=100)
        FailureBudget(max_rate=0.05, min_items=200, action="cancel")

    Counted are items that have failed for good. `max_rate` is their part of all items that have succeeded or failed,
    from 0 to 1, and applies once `min_items` have. A resumed batch starts to count anew.

    The settlement of the failure that is one too many stops the batch, so that nothing starts after it; items that are
    under way go on, at most as many as the `parallelism` of the flow key.

    Raises:
        ConfigurationError: there is no limit, or one that cannot be.
    """

    max_failures: int | None = None
    max_rate: float | None = None
    min_items: int = 50
    action: BudgetAction = "pause"

    def __post_init__(self) -> None:
        if self.max_failures is None and self.max_rate is None:
            raise ConfigurationError(
                "a failure budget needs a limit", option="failure_budget", want="give max_failures=, max_rate= or both"
            )
        if self.max_failures is not None:
            _check_count("max_failures", self.max_failures, 0)
        _check_count("min_items", self.min_items, 1)
        if self.max_rate is not None and not _is_rate(self.max_rate):
            want = "write a part of all items from 0 up to, but not, 1, such as 0.05"
            raise ConfigurationError(option="max_rate", got=repr(self.max_rate), want=want)
        if self.action not in get_args(BudgetAction):
            raise ConfigurationError(option="action", got=repr(self.action), want="write 'pause' or 'cancel'")

    def is_exceeded(self, succeeded: int, failed: int) -> bool:
        """True if these numbers of items are more than the budget allows. The stores have the same rule."""
        if self.max_failures is not None and failed > self.max_failures:
            return True
        ended = succeeded + failed
        return self.max_rate is not None and ended >= self.min_items and failed > self.max_rate * ended

    def __str__(self) -> str:
        parts = [] if self.max_failures is None else [f"{self.max_failures:,}"]
        parts += [] if self.max_rate is None else [f"{self.max_rate:.4g} of all, from {self.min_items:,} items on"]
        return f"at most {' and '.join(parts)}"

    def to_text(self) -> str:
        """The budget as stores keep it: a JSON array of its fields in order."""
        rate = None if self.max_rate is None else float(self.max_rate)
        return to_json([self.max_failures, rate, self.min_items, self.action]).decode()

    @classmethod
    def of_text(cls, text: str | None) -> "FailureBudget | None":
        """The budget as stores keep it."""
        return None if text is None else cls(*from_json(text))


def _check_count(option: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_COUNT:
        want = f"write a whole number from {least} to {MAX_COUNT:,}"
        raise ConfigurationError(option=option, got=repr(value), want=want)


def _is_rate(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and 0 <= cast("float", value) < 1
