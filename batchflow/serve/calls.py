"""What `ctx.call` takes and gives."""

from collections.abc import Mapping
from typing import Any, Generic, TypedDict, TypeVar, cast

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from batchflow.core.call import LONGEST_MS, Body, CallAnswer, CallRequest
from batchflow.core.codec import Codec, describe
from batchflow.core.duration import Duration, show, to_ms
from batchflow.core.flow import FlowControl
from batchflow.core.retry import RetryPolicy
from batchflow.core.spelling import check_options
from batchflow.errors import ConfigurationError, UnserializableError
from batchflow.serve.checks import headers_of
from batchflow.serve.sending import call_text
from batchflow.serve.showing import is_writable, shown
from batchflow.serve.urls import is_absolute, shown_url

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
        """The body as text in the charset that the answer declares, else UTF-8; what is none shows as U+FFFD."""
        return self._answer.body.decoded(self.headers.get("content-type", ""))

    @property
    def body(self) -> T:
        """The body as the `response` that was asked for; without one, JSON parsed where it says it is JSON, else text.

        Raises:
            UnserializableError: it is no such thing, as the body of an error may well be; look at `ok` first.
        """
        if self._response is not None:
            return self._as(self._response)
        if "json" not in self.headers.get("content-type", ""):
            return cast("T", self.text)
        try:
            return cast("T", from_json(_json(self._answer)) if self.content else None)
        except ValueError as error:
            raise UnserializableError(
                f"the answer of call '{self._step}' says it is JSON and is not: {error}"
            ) from error

    def _as(self, wanted: Any) -> Any:
        if wanted is bytes:
            return self.content
        if wanted is str:
            return self.text
        try:
            return TypeAdapter(wanted).validate_json(_json(self._answer))
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise UnserializableError(
                f"the answer of call '{self._step}' ({self.status}) is no {describe(wanted)}: "
                f"{f'{place}: ' if place else ''}{first['msg']}"
            ) from error


def _json(answer: CallAnswer) -> str | bytes:
    return answer.body.json(answer.headers.get("content-type", ""))


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
    check_options("ctx.call", options, (*CallOptions.__annotations__, "url", "response"))
    body = options.get("body")
    if not is_absolute(url):
        raise ConfigurationError(
            f"call '{step}' cannot go to {shown_url(url)}; write an absolute URL, such as https://example.com/x"
        )
    limit = to_ms(options.get("timeout", "2h"), option="timeout")
    if not 0 < limit <= LONGEST_MS:
        raise ConfigurationError(
            f"call '{step}' cannot take {show(limit)}; write a timeout of up to {show(LONGEST_MS)}"
        )
    verb = _method(step, options.get("method") or ("GET" if body is None else "POST"))
    sent = {name.lower(): value for name, value in headers_of(options.get("headers")).items()}
    content, kind = _content(step, body)
    if kind is not None:
        sent.setdefault("content-type", kind)
    return CallRequest(step=step, method=verb, url=url, headers=sent, body=Body.of(content), timeout_ms=limit)


def _method(step: str, method: object) -> str:
    verb = method.upper() if isinstance(method, str) else ""
    if verb not in _METHODS:
        raise ConfigurationError(
            f"call '{step}' cannot have the method {shown(method)}; write one of {', '.join(sorted(_METHODS))}"
        )
    return verb


def _content(step: str, body: object) -> tuple[bytes, str | None]:
    match body:
        case None:
            return b"", None
        case bytes():
            return body, "application/octet-stream"
        case str() if not is_writable(body):
            raise UnserializableError(f"the body of call '{step}' is {shown(body)}, which has no form in UTF-8")
        case str():
            return body.encode(), "text/plain; charset=utf-8"
        case _:
            return call_text(body, step), "application/json"
