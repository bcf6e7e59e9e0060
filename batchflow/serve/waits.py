"""Waiting for events and webhooks, for the first of several waits, and with a time limit."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Annotated, Any, Generic, TypeVar, cast

from pydantic import ValidationError
from pydantic_core import from_json

from batchflow.core.call import EMPTY_BODY, Body
from batchflow.core.codec import Codec, type_name
from batchflow.core.duration import humanize_duration
from batchflow.core.ports import RunClient
from batchflow.core.run import Step
from batchflow.core.secrets import Secret, describe_misfit
from batchflow.core.settlement import AcceptWebhook, Listen
from batchflow.errors import ConfigurationError, InputError, TimedOut
from batchflow.serve.delivery_scope import CURRENT_DELIVERY
from batchflow.serve.execution import Execution
from batchflow.serve.validation import format_value, is_encodable

T = TypeVar("T")


class EventResult(Generic[T]):
    """The result of a wait: the event's `data`, or `timed_out`."""

    __slots__ = ("_data", "_step", "timed_out")

    def __init__(self, step: str, data: T | None, *, timed_out: bool) -> None:
        self._step = step
        self._data = data
        self.timed_out = timed_out

    def __repr__(self) -> str:
        return "EventResult(timed out)" if self.timed_out else f"EventResult({type(self._data).__name__})"

    @property
    def data(self) -> T:
        """The data that was sent with the event.

        Raises:
            InputError: the wait timed out; look at `timed_out` first.
        """
        if self.timed_out:
            raise InputError(f"'{self._step}' timed out and has no data; look at `timed_out` first")
        return cast("T", self._data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """A URL of one run. `ctx.wait_for_webhook` returns the requests to it, of any method but HEAD and OPTIONS."""

    url: Annotated[str, Secret] = field(repr=False)
    token: Annotated[str, Secret] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookRequest:
    """A request to a webhook. Header names are in lower case; `query` is the part after the question mark."""

    method: str
    headers: Mapping[str, Annotated[str, Secret]] = field(default_factory=dict[str, str], repr=False)
    query: Annotated[str, Secret] = field(default="", repr=False)
    sent: Body = field(default=EMPTY_BODY, repr=False)

    @property
    def content(self) -> bytes:
        """The body's bytes."""
        return self.sent.content

    @property
    def text(self) -> str:
        """The body as text in its declared charset, or UTF-8. Invalid bytes become U+FFFD."""
        return self.sent.to_text(self.headers.get("content-type", ""))

    def json(self) -> Any:
        """Parse the body as JSON.

        Raises:
            InputError: it is not JSON, or empty.
        """
        text = self.sent.to_json(self.headers.get("content-type", ""))
        if not text:
            raise InputError("the request to the webhook has no body, and so no JSON")
        try:
            return from_json(text)
        except ValueError as error:
            raise InputError(f"the request to the webhook is not JSON: {error}") from error


def webhook_codec() -> Codec[Webhook]:
    """The codec of webhooks, built with the first one and not at import."""
    return Codec.of(Webhook)


def webhook_request_codec() -> Codec[WebhookRequest]:
    """The codec of requests to webhooks, built with the first one and not at import."""
    return Codec.of(WebhookRequest)


def check_webhook(step: str, webhook: object) -> None:
    """Raise `ConfigurationError` unless `webhook` is a `Webhook`. Its URL is a secret and never shown."""
    if not isinstance(webhook, Webhook):
        seen = "a text" if isinstance(webhook, str) else format_value(webhook)
        raise ConfigurationError(
            f"step '{step}' cannot wait for {seen}; write the whole of what ctx.create_webhook returned, not its URL"
        )


def decode_event_data(text: str, codec: Codec[T], what: str) -> T:
    """Decode the data of an event as the type that a wait declares.

    Raises:
        InputError: the data is not valid for that type. The message says `what` it is, and shows nothing of it.
    """
    try:
        return codec.decode_input(text)
    except ValidationError as error:
        place = ".".join(
            map(str, error.errors(include_url=False, include_context=False, include_input=False)[0]["loc"])
        )
        raise InputError(
            f"{what} is not a valid {type_name(codec.annotation)}: {describe_misfit(error)}", field=place or None
        ) from error


Sent = TypeVar("Sent")


def none_codec() -> Codec[None]:
    """The codec of steps without a result."""
    return Codec.of(type(None))


MAX_EVENT_ID = 500
_TOKEN_BYTES = 20
_WEBHOOK_EVENT = "batchflow:webhook:"


async def event_step(execution: Execution, name: str, event: str, codec: Codec[T], until: int) -> EventResult[T]:
    """Wait for an event or a webhook, until `until` (0: indefinitely); see `WorkflowContext.wait_for_event`."""
    is_event, delivery = not event.startswith(_WEBHOOK_EVENT), CURRENT_DELIVERY.get()
    # A type that takes anything refuses nothing.
    expected = delivery.expected_data if delivery is not None and is_event and codec.annotation is not Any else None
    if expected is not None:
        expected.add(execution.run_id, name, event, codec)
    # The data comes as its sender writes it; only a request to a webhook comes with its secret parts marked.
    outcome: Step = await execution.wait(
        name,
        "wait",
        lambda number: (Listen(number, event, until),),
        due=until,
        secret=codec.has_secrets and is_event,
    )
    if expected is not None:
        expected.discard(execution.run_id, name)
    if outcome.state == "timeout":
        return EventResult(name, None, timed_out=True)
    what = f"the data of event '{event}'" if is_event else "the request to its webhook"
    data = decode_event_data(outcome.value or "null", codec, f"{what}, for which '{name}' waited,")
    return EventResult(name, data, timed_out=False)


async def check_event_data(client: RunClient, event: str, text: str, run: str | None) -> None:
    """Refuse data that a run could not read, as far as this process knows the types of those that wait for the event.

    Raises:
        InputError: the data is not valid for one of them.
    """
    if not client.expected_data.knows(event):
        return
    waiters = await client.run_store.waiters(event)
    for codec in client.expected_data.of([waiter for waiter in waiters if run in (None, waiter.run)]):
        decode_event_data(text, codec, f"the data of event '{event}'")


async def webhook_step(execution: Execution, name: str, url_of: Callable[[str], str]) -> Webhook:
    """Create a webhook, whose URL `url_of` makes from its token; see `WorkflowContext.create_webhook`."""

    def make() -> Webhook:
        # With a word of its own a token is found, and masked, in any text.
        token = f"{execution.run_id}.whk_{execution.entropy.bytes(_TOKEN_BYTES).hex()}"
        return Webhook(url=url_of(token), token=token)

    return await execution.record_effects(name, webhook_codec(), make, lambda made: (AcceptWebhook(made.token),))


def webhook_event_id(token: str) -> str:
    """Return the id of the event that a request to the webhook sends."""
    return f"{_WEBHOOK_EVENT}{token}"


def validate_event_id(event: object) -> str:
    """Return a valid event id.

    Raises:
        InputError: it is not text of a permitted length, not encodable, or reserved.
    """
    if not isinstance(event, str) or not 0 < len(event) <= MAX_EVENT_ID:
        raise InputError(
            f"an event id is a text of 1 to {MAX_EVENT_ID} characters, not {format_value(event)}", field="eventId"
        )
    if not is_encodable(event):
        raise InputError(f"the event id {event!r} has no form in UTF-8; write another", field="eventId")
    if event.startswith("batchflow:"):
        raise InputError("the event id begins with 'batchflow:', which is batchflow's own", field="eventId")
    return event


def any_codec() -> Codec[Any]:
    """The codec of plain data."""
    return Codec.of(Any)


_PLAIN_TYPES = frozenset({type(None), bool, int, float, str, bytes, set, frozenset})


def serialize_event_data(data: object, event: str) -> str:
    """Serialize the data of an event as JSON text. An object is serialized by its type and can be read as that type.

    Raises:
        UnserializableError: the data changes on its way through JSON, such as NaN, a set, or a key that is not text.
    """
    where = f"the data of event '{event}'"
    text, _ = any_codec().round_trip(_to_plain(data, where), where=where)
    return text


def _to_plain(value: Any, where: str) -> Any:
    """Replace every object that is not a plain JSON value by the JSON form of its type."""
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
    """Return the index and the result of the wait that ends first, and cancel the others.

    Every replay finds the same one first, since recorded outcomes are delivered one at a time.
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
        # Retrieved, so that asyncio logs no unretrieved exception; several may have failed in one turn.
        _ = task.cancelled() or task.exception()


class Deadline:
    """A time limit for a block: `async with ctx.timeout("limit", "1h"):` raises `TimeoutError`."""

    __slots__ = ("_before", "_body", "_delay_ms", "_name", "_sleep", "_timer", "expired")

    def __init__(self, name: str, delay_ms: int, sleep: Coroutine[Any, Any, None]) -> None:
        self._name = name
        self._delay_ms = delay_ms
        self._sleep = sleep
        self._timer: asyncio.Task[None] | None = None
        self._body: asyncio.Task[Any] | None = None
        self._before = 0
        self.expired = False
        """True when the time was over before the block ended."""

    async def __aenter__(self) -> "Deadline":
        if self._timer is not None:
            raise ConfigurationError(f"the timeout '{self._name}' was used before; make one for each block")
        self._body = asyncio.current_task()
        self._timer = asyncio.create_task(self._sleep)
        self._timer.add_done_callback(self._expire)
        try:
            # The timer requests its step before the first step of the block.
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
            raise TimedOut(f"'{self._name}': took longer than {humanize_duration(self._delay_ms)}") from error
