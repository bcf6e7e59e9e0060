"""What `ctx.call` takes and gives."""

from collections.abc import Mapping
from typing import Any, Generic, TypedDict, TypeVar, cast
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from batchflow.core.call import LONGEST_MS, Body, CallAnswer, CallRequest
from batchflow.core.codec import Codec, describe
from batchflow.core.duration import Duration, show, to_ms
from batchflow.core.flow import FlowControl
from batchflow.core.retry import RetryPolicy
from batchflow.core.spelling import check_options
from batchflow.errors import ConfigurationError, UnserializableError

T = TypeVar("T")

REQUEST: Codec[CallRequest] = Codec.of(CallRequest)
ANSWER: Codec[CallAnswer] = Codec.of(CallAnswer)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class CallResponse(Generic[T]):
    """The answer to a call: `status`, `headers` (names in lower case), and the body in the form that is wanted."""

    __slots__ = ("_answer", "_response", "_step", "headers", "status")

    def __init__(self, step: str, answer: CallAnswer, response: Any) -> None:
        self._step = step
        self._answer = answer
        self._response = response
        self.status = answer.status
        self.headers: Mapping[str, str] = answer.headers

    def __repr__(self) -> str:
        return f"CallResponse({self.status}, {len(self.content)} bytes)"

    @property
    def ok(self) -> bool:
        """Whether the status is one of 200 to 299."""
        return 200 <= self.status < 300

    @property
    def content(self) -> bytes:
        """The body's bytes."""
        return self._answer.body.content

    @property
    def text(self) -> str:
        """The body as UTF-8; what is none shows as U+FFFD."""
        return self.content.decode(errors="replace")

    @property
    def body(self) -> T:
        """The body as the `response` that was asked for; without one, JSON parsed where it says it is JSON, else text.

        Raises:
            UnserializableError: it is no such thing, as the body of an error may well be; look at `ok` first.
        """
        if self._response is not None:
            return _as_response(self._step, self, self._response)
        if "json" not in self.headers.get("content-type", ""):
            return cast("T", self.text)
        try:
            return cast("T", from_json(self.content) if self.content else None)
        except ValueError as error:
            raise UnserializableError(
                f"the answer of call '{self._step}' says it is JSON and is not: {error}"
            ) from error


def _as_response(step: str, response: "CallResponse[Any]", wanted: Any) -> Any:
    if wanted is bytes:
        return response.content
    if wanted is str:
        return response.text
    try:
        return TypeAdapter(wanted).validate_json(response.content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise UnserializableError(
            f"the answer of call '{step}' ({response.status}) is no {describe(wanted)}: "
            f"{f'{place}: ' if place else ''}{first['msg']}"
        ) from error


class CallOptions(TypedDict, total=False):
    """What `ctx.call` may be given beside the URL."""

    method: str | None
    body: object
    headers: Mapping[str, str] | None
    retries: int
    retry_delay: RetryPolicy | Duration | None
    timeout: Duration
    flow_control: FlowControl | None


def call_request(step: str, url: str, options: CallOptions) -> CallRequest:
    """A call, as it is sent.

    Raises:
        ConfigurationError: an argument is wrong.
        UnserializableError: the body has no JSON form.
    """
    check_options("ctx.call", options, CallOptions.__annotations__)
    method, body = options.get("method"), options.get("body")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(
            f"call '{step}' cannot go to {url!r}; write an absolute URL, such as https://example.com/x"
        )
    verb = (method or ("GET" if body is None else "POST")).upper()
    if verb not in _METHODS:
        raise ConfigurationError(
            f"call '{step}' cannot have the method {method!r}; write one of {', '.join(sorted(_METHODS))}"
        )
    limit = to_ms(options.get("timeout", "2h"), option="timeout")
    if not 0 < limit <= LONGEST_MS:
        raise ConfigurationError(
            f"call '{step}' cannot take {show(limit)}; write a timeout of up to {show(LONGEST_MS)}"
        )
    sent = {str(name).lower(): str(value) for name, value in (options.get("headers") or {}).items()}
    content, kind = _content(step, body)
    if kind is not None:
        sent.setdefault("content-type", kind)
    return CallRequest(step=step, method=verb, url=url, headers=sent, body=Body.of(content), timeout_ms=limit)


def _content(step: str, body: object) -> tuple[bytes, str | None]:
    match body:
        case None:
            return b"", None
        case bytes():
            return body, "application/octet-stream"
        case str():
            return body.encode(), "text/plain; charset=utf-8"
        case _:
            try:
                return to_json(body, by_alias=True), "application/json"
            except ValueError as error:
                raise UnserializableError(f"the body of call '{step}' has no JSON form: {error}") from error
