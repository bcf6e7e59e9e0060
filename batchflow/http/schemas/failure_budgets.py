"""The failure budget of a batch, as answers show it."""

from batchflow.core.failure_budget import BudgetAction, FailureBudget
from batchflow.http.schemas.base import ApiModel


class FailureBudgetInfo(ApiModel):
    """The failures that a batch may have before it is paused or cancelled, and its circuit breaker.

    `maxRate`, a part of 1, applies from `minItems` on. A limit that is null does not apply.
    """

    max_failures: int | None
    max_rate: float | None
    min_items: int
    action: BudgetAction | None
    max_in_a_row: int | None
    open_for: str | None

    @classmethod
    def of(cls, budget: FailureBudget | None) -> "FailureBudgetInfo | None":
        """A budget, if there is one."""
        if budget is None:
            return None
        return cls(
            max_failures=budget.max_failures,
            max_rate=budget.max_rate,
            min_items=budget.min_items,
            action=budget.action,
            max_in_a_row=budget.max_in_a_row,
            open_for=None if budget.open_for is None else str(budget.open_for),
        )
