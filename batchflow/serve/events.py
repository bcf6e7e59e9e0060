"""What `ctx.wait_for_event` and `ctx.wait_for_webhook` give."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

from pydantic_core import from_json

from batchflow.core.call import EMPTY, Body
from batchflow.core.codec import Codec, describe
from batchflow.errors import ConfigurationError, InputError
from batchflow.serve.showing import shown

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


WEBHOOK: Codec[Webhook] = Codec.of(Webhook)
WEBHOOK_REQUEST: Codec[WebhookRequest] = Codec.of(WebhookRequest)


def check_webhook(step: str, webhook: object) -> None:
    """What `ctx.create_webhook` gives.

    Raises:
        ConfigurationError: it is something else. A URL is not shown: who knows it can send.
    """
    if not isinstance(webhook, Webhook):
        seen = "a text" if isinstance(webhook, str) else shown(webhook)
        raise ConfigurationError(
            f"step '{step}' cannot wait for {seen}; write the whole of what ctx.create_webhook returned, not its URL"
        )


def read_data(step: str, event: str, text: str, codec: Codec[T]) -> T:
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
