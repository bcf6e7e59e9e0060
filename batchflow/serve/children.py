"""What `ctx.invoke` can invoke, and how a child is tied to its parent."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol, TypedDict, TypeVar

from batchflow.core.duration import Duration
from batchflow.core.flow import FlowControl
from batchflow.core.message import NO_HEADERS
from batchflow.core.retry import RetryPolicy
from batchflow.core.settlement import Effect

Payload = TypeVar("Payload", contravariant=True)
Result = TypeVar("Result", covariant=True)

DEEPEST = 100
"""How many parents a run can have above it."""


class Link(NamedTuple):
    """What ties a child to step `number` of the run that waits for it."""

    run: str
    number: int
    depth: int

    @property
    def id(self) -> str:
        """The id of the child: the same whenever its parent asks for it again."""
        return f"{self.run}.{self.number}"

    @property
    def parent(self) -> tuple[str, int]:
        """The parent, as messages name it."""
        return self.run, self.number


class ChildOptions(NamedTuple):
    """What an invocation sets for the child alone."""

    retries: int | None = None
    retry_delay: RetryPolicy | Duration | None = None
    flow_control: FlowControl | None = None
    headers: Mapping[str, str] = NO_HEADERS
    label: str | None = None


class InvokeOptions(TypedDict, total=False):
    """What `ctx.invoke` may be given beside the payload."""

    retries: int | None
    retry_delay: RetryPolicy | Duration | None
    flow_control: FlowControl | None
    headers: Mapping[str, str] | None
    label: str | None


class Invocable(Protocol[Payload, Result]):
    """What can run as a child: a served function, a batch workflow."""

    @property
    def title(self) -> str:
        """What it is called in messages."""
        ...

    def invoked(self, payload: Payload, link: Link, options: ChildOptions) -> tuple[Effect, ...]:
        """What starts it as a child."""
        ...

    def outcome(self, text: str) -> Result:
        """The result its parent gets, of the JSON text in which it arrived."""
        ...
