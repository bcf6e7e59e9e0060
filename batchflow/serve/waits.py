"""The steps that wait for something from outside: calls, children, events, webhooks."""

import asyncio
from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Generic, TypeVar, cast

from pydantic_core import from_json

from batchflow.core.call import EMPTY, Body
from batchflow.core.codec import Codec, describe
from batchflow.core.duration import show
from batchflow.core.run import Step
from batchflow.core.settlement import Accept, Listen
from batchflow.errors import ConfigurationError, InputError, TimedOut
from batchflow.serve.execution import Execution
from batchflow.serve.validation import format_value, is_encodable

T = TypeVar("T")


class EventResult(Generic[T]):
    """How a wait ended: with the event's `data`, or timed out."""

    __slots__ = ("_data", "_step", "timed_out")

    def __init__(self, step: str, data: T | None, *, timed_out: bool) -> None:
        self._step = step
        self._data = data
        self.timed_out = timed_out

    def __repr__(self) -> str:
        return "EventResult(timed out)" if self.timed_out else f"EventResult({self._data!r})"

    @property
    def data(self) -> T:
        """What was sent with the event.

        Raises:
            InputError: the wait timed out; look at `timed_out` first.
        """
        if self.timed_out:
            raise InputError(f"'{self._step}' timed out and has no data; look at `timed_out` first")
        return cast("T", self._data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """A URL of this run's own: what is sent there, by whatever method, is what `ctx.wait_for_webhook` waits for."""

    url: str
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookRequest:
    """What was sent to a webhook. Header names are in lower case; `query` is what followed the question mark."""

    method: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    query: str = ""
    sent: Body = EMPTY

    @property
    def content(self) -> bytes:
        """The body's bytes."""
        return self.sent.content

    @property
    def text(self) -> str:
        """The body as text in the charset that the request declares, else UTF-8; what is none shows as U+FFFD."""
        return self.sent.decoded(self.headers.get("content-type", ""))

    def json(self) -> Any:
        """The body, parsed.

        Raises:
            InputError: it is not JSON.
        """
        try:
            return from_json(self.sent.json(self.headers.get("content-type", "")))
        except ValueError as error:
            raise InputError(f"what was sent to the webhook is not JSON: {error}") from error


WEBHOOK_CODEC: Codec[Webhook] = Codec.of(Webhook)
WEBHOOK_REQUEST_CODEC: Codec[WebhookRequest] = Codec.of(WebhookRequest)


def check_webhook(step: str, webhook: object) -> None:
    """What `ctx.create_webhook` gives.

    Raises:
        ConfigurationError: it is something else. A URL is not shown: who knows it can send.
    """
    if not isinstance(webhook, Webhook):
        seen = "a text" if isinstance(webhook, str) else format_value(webhook)
        raise ConfigurationError(
            f"step '{step}' cannot wait for {seen}; write the whole of what ctx.create_webhook returned, not its URL"
        )


def decode_event_data(step: str, event: str, text: str, codec: Codec[T]) -> T:
    """The data of an event, as the wait wants it.

    Raises:
        InputError: it does not fit.
    """
    try:
        return codec.decode(text)
    except ValueError as error:
        raise InputError(
            f"the data of event '{event}', for which '{step}' waited, is no {describe(codec.annotation)}: {error}"
        ) from error


Sent = TypeVar("Sent")

NONE_CODEC: Codec[None] = Codec.of(type(None))
_MAX_EVENT_ID = 500
_TOKEN_BYTES = 20


async def event_step(execution: Execution, name: str, event: str, codec: Codec[T], until: int) -> EventResult[T]:
    """See `WorkflowContext.wait_for_event`."""
    outcome: Step = await execution.wait(name, "wait", lambda number: (Listen(number, event, until),), due=until)
    if outcome.state == "timeout":
        return EventResult(name, None, timed_out=True)
    return EventResult(name, decode_event_data(name, event, outcome.value or "null", codec), timed_out=False)


async def webhook_step(execution: Execution, name: str, root: str) -> Webhook:
    """See `WorkflowContext.create_webhook`."""

    def make() -> Webhook:
        token = f"{execution.run_id}.{execution.entropy.bytes(_TOKEN_BYTES).hex()}"
        return Webhook(url=f"{root}/webhooks/{token}", token=token)

    return await execution.record_effects(name, WEBHOOK_CODEC, make, lambda made: (Accept(made.token),))


def webhook_event_id(token: str) -> str:
    """The event that a request to a webhook is."""
    return f"batchflow:webhook:{token}"


def validate_event_id(event: object) -> str:
    """The id of an event.

    Raises:
        InputError: it is none.
    """
    if not isinstance(event, str) or not 0 < len(event) <= _MAX_EVENT_ID:
        raise InputError(
            f"an event id is a text of 1 to {_MAX_EVENT_ID} characters, not {format_value(event)}", field="eventId"
        )
    if not is_encodable(event):
        raise InputError(f"the event id {event!r} has no form in UTF-8; write another", field="eventId")
    if event.startswith("batchflow:"):
        raise InputError(f"the event id '{event}' begins with 'batchflow:', which is batchflow's own", field="eventId")
    return event


ANY_CODEC: Codec[Any] = Codec.of(Any)


_PLAIN_TYPES = frozenset({type(None), bool, int, float, str, bytes, set, frozenset})


def serialize_event_data(data: object, event: str) -> str:
    """The data of an event as JSON text. An object goes as its type writes it, and may be read as that type again.

    Raises:
        UnserializableError: it does not survive that: NaN, a set, a key that is no text.
    """
    where = f"the data of event '{event}'"
    text, _ = ANY_CODEC.round_trip(_to_plain(data, where), where=where)
    return text


def _to_plain(value: Any, where: str) -> Any:
    """The same with every object of a type of its own as what that type writes of it."""
    if type(value) in _PLAIN_TYPES:
        return value
    if isinstance(value, dict):
        entries = cast("dict[Any, Any]", value)
        return {key: _to_plain(part, where) for key, part in entries.items()}
    if type(value) in (list, tuple):
        return type(value)(_to_plain(part, where) for part in value)
    try:
        codec = Codec.of(type(value))
    except ConfigurationError:
        return value
    return from_json(codec.round_trip(value, where=where)[0])


async def first_of(waits: tuple[Awaitable[T], ...]) -> tuple[int, T]:
    """The place and the result of the wait that ends first; the others are cancelled.

    Which one that is, is decided again alike on every replay: recorded outcomes are handed out one at a time.
    """
    if not waits:
        raise ConfigurationError(
            "ctx.first needs something to wait for, such as ctx.first(ctx.sleep(…), ctx.wait_for_event(…))"
        )
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await _cancel_tasks(tasks)
    place = min(place for place, task in enumerate(tasks) if task in done)
    return place, tasks[place].result()


async def _cancel_tasks(tasks: "Sequence[asyncio.Future[T]]") -> None:
    left = [task for task in tasks if not task.done()]
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left)
    for task in tasks:
        # Looked at, so that nobody complains of it; several may have failed in one turn.
        _ = task.cancelled() or task.exception()


class Deadline:
    """`async with ctx.timeout("limit", "1h"):` ends the block with `TimeoutError` when the time is over."""

    __slots__ = ("_before", "_body", "_delay_ms", "_name", "_sleep", "_timer", "expired")

    def __init__(self, name: str, delay_ms: int, sleep: Coroutine[Any, Any, None]) -> None:
        self._name = name
        self._delay_ms = delay_ms
        self._sleep = sleep
        self._timer: asyncio.Task[None] | None = None
        self._body: asyncio.Task[Any] | None = None
        self._before = 0
        self.expired = False
        """Whether the time was over before the block was through."""

    async def __aenter__(self) -> "Deadline":
        if self._timer is not None:
            raise ConfigurationError(f"the timeout '{self._name}' was used before; make one for each block")
        self._body = asyncio.current_task()
        self._timer = asyncio.create_task(self._sleep)
        self._timer.add_done_callback(self._expire)
        try:
            # The timer asks first, before the first step of the block.
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            await _cancel_tasks([self._timer])
            raise
        return self

    def _expire(self, timer: "asyncio.Task[None]") -> None:
        if timer.cancelled() or timer.exception() is not None:
            return
        assert self._body is not None
        self.expired = True
        # Not counted from the start of the block: a TaskGroup whose task has failed leaves one behind on Python 3.11.
        self._before = self._body.cancelling()
        self._body.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._timer is not None
        assert self._body is not None
        self._timer.remove_done_callback(self._expire)
        await _cancel_tasks([self._timer])
        if self.expired and self._body.uncancel() <= self._before and kind is asyncio.CancelledError:
            raise TimedOut(f"'{self._name}': took longer than {show(self._delay_ms)}") from error
