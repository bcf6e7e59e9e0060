"""Children: the functions and batches that `ctx.invoke` starts and waits for."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol, TypeVar
from uuid import UUID

from batchflow.core.duration import Duration
from batchflow.core.failure_budget import FailureBudget
from batchflow.core.flow import FlowControl
from batchflow.core.ids import child_id
from batchflow.core.message import NO_HEADERS
from batchflow.core.report import headline
from batchflow.core.retry import RetryPolicy
from batchflow.core.settlement import Effect
from batchflow.errors import ChildCancelled, ChildFailed, ConfigurationError
from batchflow.serve.execution import Execution
from batchflow.serve.validation import format_value

Payload = TypeVar("Payload", contravariant=True)
Result = TypeVar("Result", covariant=True)

MAX_DEPTH = 100
"""The maximum number of ancestors of a run."""


class ParentLink(NamedTuple):
    """The link from a child to step `number` of the run that waits for it."""

    run: str
    number: int
    depth: int

    @property
    def id(self) -> str:
        """The id of the child, the same each time its parent repeats the step."""
        return child_id(self.run, self.number)

    @property
    def parent(self) -> tuple[str, int]:
        """The parent as messages have it: the run and the number of its step."""
        return self.run, self.number


class ChildOptions(NamedTuple):
    """The options of one child. Those that only functions or only batches take are None by default."""

    headers: Mapping[str, str] = NO_HEADERS
    label: str | None = None
    delay: Duration | None = None
    not_before: datetime | int | None = None
    retries: int | None = None
    retry_delay: RetryPolicy | Duration | None = None
    flow_control: FlowControl | None = None
    ids: Sequence[str | int | UUID] | None = None
    limit: int | None = None
    force: bool | None = None
    priority: int | None = None
    failure_budget: FailureBudget | None = None

    def reject(self, owner: str, why: str, *names: str) -> None:
        """Raise `ConfigurationError` when an option that the target does not take is set."""
        for name in names:
            if getattr(self, name) is not None:
                raise ConfigurationError(f"'{owner}' takes no option '{name}': {why}")


_NOT_FOR_CHILDREN = ("dedup_id", "dedup", "batch_id", "run_id")
_NEEDS_OPERATOR = ("canary", "approve_under")


class Invocable(Protocol[Payload, Result]):
    """A served function or batch workflow, which can run as a child."""

    @property
    def title(self) -> str:
        """Its name in error messages."""
        ...

    def child_effects(self, payload: Payload, link: ParentLink, options: ChildOptions) -> tuple[Effect, ...]:
        """Return the effects that start it as a child."""
        ...

    def decode_result(self, text: str) -> Result:
        """Decode the JSON text of its result for the parent."""
        ...


def check_not_for_children(options: Iterable[str]) -> None:
    """Raise `ConfigurationError` for an option of a trigger that a child does not have."""
    for name in options:
        if name in _NEEDS_OPERATOR:
            raise ConfigurationError(
                f"ctx.invoke takes no option '{name}': the run would wait for an operator's approval of its child; "
                f"trigger the batch in a step instead"
            )
        if name in _NOT_FOR_CHILDREN:
            raise ConfigurationError(
                f"ctx.invoke takes no option '{name}': the id of a child is derived from its step, and a step that is "
                f"repeated finds the child that it has started"
            )


def check_invocable(step: str, target: object) -> None:
    """Raise `ConfigurationError` unless `target` can run as a child."""
    if isinstance(target, type) or not callable(getattr(target, "child_effects", None)):
        raise ConfigurationError(
            f"step '{step}' cannot invoke {format_value(target)}; write the function that @flow.serve returned, "
            f"or the batch that flow.add did"
        )


T = TypeVar("T")
Sent = TypeVar("Sent")


async def invoke_step(
    execution: Execution, depth: int, name: str, target: Invocable[Sent, T], payload: Sent, options: ChildOptions
) -> T:
    """Start a child and wait for its result; see `WorkflowContext.invoke`."""
    if depth + 1 > MAX_DEPTH:
        raise ConfigurationError(
            f"step '{name}' would invoke '{target.title}' {depth + 1} runs deep, and {MAX_DEPTH} are the most; "
            f"does it invoke itself?"
        )
    outcome = await execution.wait(
        name,
        "invoke",
        lambda number: target.child_effects(payload, ParentLink(execution.run_id, number, depth + 1), options),
    )
    if outcome.state == "failed":
        raise ChildFailed(name, target.title, headline(outcome.error or ""))
    if outcome.state == "cancelled":
        raise ChildCancelled(name, target.title)
    return target.decode_result(outcome.value or "null")
