"""`batchflow batches budget`, and the options of a failure budget, which `batchflow run` has too."""

from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import typer

from batchflow.batch.names import quantity
from batchflow.cli.batches import BatchIdArgument, require_batch
from batchflow.cli.options import JsonOption, UrlOption
from batchflow.cli.output import Output
from batchflow.cli.target import open_batches
from batchflow.core.batch import Batch
from batchflow.core.failure_budget import FailureBudget
from batchflow.errors import InputError, OptionError
from batchflow.http.schemas.batch_changes import FailureBudgetResponse
from batchflow.http.schemas.batches import BatchInfo

MaxFailuresOption = Annotated[
    int | None, typer.Option(min=0, metavar="N", help="Stop the batch when more items have failed.")
]
MaxFailureRateOption = Annotated[
    str | None, typer.Option(metavar="RATE", help="Stop it when a larger part has failed: 5% or 0.05.")
]
MinItemsOption = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="The items from which the rate applies; 50 by default.")
]
FailureActionOption = Annotated[
    str | None, typer.Option(metavar="ACTION", help="How it stops: pause (by default) or cancel.")
]

_FLAGS = {"max_rate": "--max-failure-rate", "action": "--failure-action"}


class BudgetOptions(Protocol):
    """A command with these options."""

    @property
    def max_failures(self) -> int | None:
        """`--max-failures`."""

    @property
    def max_failure_rate(self) -> str | None:
        """`--max-failure-rate`."""

    @property
    def min_items(self) -> int | None:
        """`--min-items`."""

    @property
    def failure_action(self) -> str | None:
        """`--failure-action`."""


def budget_of(command: BudgetOptions) -> FailureBudget | None:
    """The budget of the options; None without any of them.

    Raises:
        InputError: they do not make one.
    """
    max_failures, max_rate, min_items = command.max_failures, command.max_failure_rate, command.min_items
    given: dict[str, Any] = {
        "max_failures": max_failures,
        "max_rate": None if max_rate is None else _parse_rate(max_rate),
        "min_items": min_items,
        "action": command.failure_action,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if not given:
        return None
    if max_failures is None and max_rate is None:
        raise InputError("a failure budget needs a limit; give --max-failures, --max-failure-rate or both")
    if min_items is not None and max_rate is None:
        raise InputError("--min-items is of the rate; give --max-failure-rate too, or leave it out")
    try:
        return FailureBudget(**given)
    except OptionError as error:
        raise InputError(error.sentence(lambda name: _FLAGS.get(name, f"--{name.replace('_', '-')}"))) from error


def _parse_rate(text: str) -> float:
    number, percent = text.removesuffix("%"), text.endswith("%")
    try:
        rate = float(number) / 100 if percent else float(number)
    except ValueError:
        rate = -1
    if not 0 <= rate < 1:
        raise InputError(f"--max-failure-rate cannot be '{text}'; write a part of all items, such as 5% or 0.05")
    return rate


@dataclass(frozen=True, kw_only=True)
class SetFailureBudget:
    """Change the failure budget of a batch, or show it.

    It counts from now on. A batch that it has paused stays paused until 'resume'.

    Exit codes: 0 changed or shown, 1 it had ended before, 2 usage.
    """

    id: BatchIdArgument
    max_failures: MaxFailuresOption = None
    max_failure_rate: MaxFailureRateOption = None
    min_items: MinItemsOption = None
    failure_action: FailureActionOption = None
    remove: Annotated[bool, typer.Option("--remove", help="Remove it: any number may fail.")] = False
    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Change the budget; 1 if the batch had ended before."""
        budget = budget_of(self)
        if self.remove and budget is not None:
            raise InputError("--remove excludes the other options of a failure budget; leave it out, or them")
        changes = self.remove or budget is not None
        async with open_batches(self.url) as engine:
            await require_batch(engine, self.id)
            changed = changes and await engine.set_failure_budget(self.id, budget)
            batch, now = await require_batch(engine, self.id), engine.now()
        if self.as_json:
            found = FailureBudgetResponse(changed=changed, batch=BatchInfo.of(batch, now))
            Output().print_json(found.document())
        elif changes and not changed:
            Output().print(f"Batch {batch.id} had ended before: it is {batch.state}")
        else:
            Output().print(_budget_text(batch))
        return 0 if changed or not changes else 1


def _budget_text(batch: Batch) -> str:
    failed = quantity(batch.counts.failed, "item has", "items have")
    budget = "no failure budget" if batch.failure_budget is None else f"the failure budget {batch.failure_budget}"
    action = batch.failure_budget.action if batch.failure_budget is not None else None
    action = "" if action is None else f", then {action}"
    go_on = f"; go on with: batchflow batches resume {batch.id}" if batch.paused and not batch.items_ended else ""
    return f"Batch {batch.id} has {budget}{action}; {failed} failed{go_on}"
