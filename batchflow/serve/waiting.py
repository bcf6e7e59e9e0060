"""The steps that wait for something from outside: calls, children, events, webhooks."""

from typing import TypeVar

from batchflow.core.call import CALL, CallRequest
from batchflow.core.codec import Codec
from batchflow.core.flow import FlowControl
from batchflow.core.message import Message
from batchflow.core.retry import RetryPolicy
from batchflow.core.run import Step
from batchflow.core.settlement import Accept, Effect, Listen, Publish
from batchflow.errors import ChildCancelled, ChildFailed, ConfigurationError, InputError, StepFailed
from batchflow.serve.calls import ANSWER, REQUEST, CallResponse
from batchflow.serve.children import DEEPEST, ChildOptions, Invocable, Link
from batchflow.serve.events import WEBHOOK, EventResult, Webhook, read_data
from batchflow.serve.execution import Execution
from batchflow.serve.failure import headline
from batchflow.serve.showing import is_writable, shown

T = TypeVar("T")
Sent = TypeVar("Sent")

NOTHING: Codec[None] = Codec.of(type(None))
_LONGEST_EVENT = 500
_TOKEN_BYTES = 20


async def call_step(
    execution: Execution, request: CallRequest, retry: RetryPolicy, flow: FlowControl, response: type[T] | None
) -> CallResponse[T]:
    """See `WorkflowContext.call`."""

    def effects(number: int) -> tuple[Effect, ...]:
        link = Link(execution.run_id, number, 0)
        body = REQUEST.encode(request)
        execution.max_value.check(body, f"the request of call '{request.step}'")
        call = Message(id=link.id, destination=CALL, flow=flow, body=body, retry=retry, parent=link.parent)
        return (Publish((call,)),)

    outcome = await execution.wait(request.step, "call", effects)
    if outcome.state != "done":
        why = headline(outcome.error) if outcome.error else "it was cancelled"
        raise StepFailed(request.step, why, attempts=retry.attempts)
    answer: CallResponse[T] = CallResponse(request.step, ANSWER.decode(outcome.value or ""), response)
    if answer.ok and response is not None:
        _ = answer.body
    return answer


async def invoke_step(
    execution: Execution, depth: int, name: str, target: Invocable[Sent, T], payload: Sent, options: ChildOptions
) -> T:
    """See `WorkflowContext.invoke`."""
    if depth + 1 > DEEPEST:
        raise ConfigurationError(
            f"step '{name}' would invoke '{target.title}' {depth + 1} runs deep, and {DEEPEST} are the most; "
            f"does it invoke itself?"
        )
    outcome = await execution.wait(
        name, "invoke", lambda number: target.invoked(payload, Link(execution.run_id, number, depth + 1), options)
    )
    if outcome.state == "failed":
        raise ChildFailed(name, target.title, headline(outcome.error or ""))
    if outcome.state == "cancelled":
        raise ChildCancelled(name, target.title)
    return target.outcome(outcome.value or "null")


async def wait_step(execution: Execution, name: str, event: str, codec: Codec[T], until: int) -> EventResult[T]:
    """See `WorkflowContext.wait_for_event`."""
    outcome: Step = await execution.wait(name, "wait", lambda number: (Listen(number, event, until),), due=until)
    if outcome.state == "timeout":
        return EventResult(name, None, timed_out=True)
    return EventResult(name, read_data(name, event, outcome.value or "null", codec), timed_out=False)


async def webhook_step(execution: Execution, name: str, root: str) -> Webhook:
    """See `WorkflowContext.create_webhook`."""

    def make() -> Webhook:
        token = f"{execution.run_id}.{execution.entropy.bytes(_TOKEN_BYTES).hex()}"
        return Webhook(url=f"{root}/webhooks/{token}", token=token)

    return await execution.note(name, WEBHOOK, make, lambda made: (Accept(made.token),))


def webhook_event(token: str) -> str:
    """The event that a request to a webhook is."""
    return f"batchflow:webhook:{token}"


def checked_event(event: object) -> str:
    """The id of an event.

    Raises:
        InputError: it is none.
    """
    if not isinstance(event, str) or not 0 < len(event) <= _LONGEST_EVENT:
        raise InputError(
            f"an event id is a text of 1 to {_LONGEST_EVENT} characters, not {shown(event)}", field="eventId"
        )
    if not is_writable(event):
        raise InputError(f"the event id {event!r} has no form in UTF-8; write another", field="eventId")
    if event.startswith("batchflow:"):
        raise InputError(f"the event id '{event}' begins with 'batchflow:', which is batchflow's own", field="eventId")
    return event
