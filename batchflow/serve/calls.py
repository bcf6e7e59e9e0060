"""HTTP calls that the engine makes for a run: the request, the step that waits, the response."""

import re
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, Generic, TypeVar, cast

from pydantic import BaseModel, Secret, SecretBytes, SecretStr, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json, to_jsonable_python

from batchflow.core.call import (
    CALL_DESTINATION,
    MAX_CALL_MS,
    Body,
    CallRequest,
    CallResult,
    call_request_codec,
    call_result_codec,
    read_final_error,
)
from batchflow.core.codec import Codec, type_name
from batchflow.core.duration import Duration, humanize_duration, to_ms
from batchflow.core.flow import FlowControl
from batchflow.core.json_body import is_json_type
from batchflow.core.message import Message
from batchflow.core.report import headline
from batchflow.core.retry import RetryPolicy
from batchflow.core.roundtrip import RoundTripDifference, not_finite
from batchflow.core.secrets import MASK, describe_misfit
from batchflow.core.settlement import Effect, Publish
from batchflow.errors import ConfigurationError, StepFailed, UnserializableError
from batchflow.serve.app_url import format_url, is_absolute_url
from batchflow.serve.children import ParentLink
from batchflow.serve.execution import Execution
from batchflow.serve.validation import format_value, is_encodable, validate_headers

T = TypeVar("T")

_MAX_URL = 65_536
_HOST = re.compile(r"[0-9A-Za-z_.~-]+")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class CallResponse(Generic[T]):
    """The response to a call: `status`, `headers` (names in lower case), and the body in several forms."""

    __slots__ = ("_answer", "_response", "_step", "headers", "status")

    def __init__(self, step: str, answer: CallResult, response: Any) -> None:
        self._step = step
        self._answer = answer
        self._response = response
        self.status = answer.status
        self.headers: Mapping[str, str] = answer.headers

    def __repr__(self) -> str:
        return f"CallResponse({self.status}, {len(self.content)} bytes)"

    @property
    def ok(self) -> bool:
        """True for a status of 200 to 299."""
        return 200 <= self.status < 300

    @property
    def content(self) -> bytes:
        """The body's bytes."""
        return self._answer.body.content

    @property
    def text(self) -> str:
        """The body as text in its declared charset, or UTF-8. Invalid bytes become U+FFFD."""
        return self._answer.body.to_text(self.headers.get("content-type", ""))

    @property
    def body(self) -> T:
        """The body validated as the call's `response`. Without one, a JSON body is parsed and any other is text.

        Raises:
            UnserializableError: the body is not valid, as that of an error often is; look at `ok` first.
        """
        if self._response is not None:
            return self._read_as(self._response)
        if not is_json_type(self.headers.get("content-type", "")):
            return cast("T", self.text)
        try:
            text = _json_body(self._answer)
            return cast("T", from_json(text) if text else None)
        except ValueError as error:
            raise UnserializableError(
                f"the answer of call '{self._step}' says it is JSON and is not: {error}"
            ) from error

    def _read_as(self, wanted: Any) -> Any:
        if wanted is bytes:
            return self.content
        if wanted is str:
            return self.text
        text = _json_body(self._answer)
        try:
            return TypeAdapter(wanted).validate_json(text or b"null")
        except ValidationError as error:
            if not text:
                raise UnserializableError(
                    f"the answer of call '{self._step}' ({self.status}) is empty, which is not a valid "
                    f"{type_name(wanted)}; write 'response={type_name(wanted)} | None'"
                ) from error
            raise UnserializableError(
                f"the answer of call '{self._step}' ({self.status}) is not a valid {type_name(wanted)}: "
                f"{describe_misfit(error)}"
            ) from error


def _json_body(answer: CallResult) -> str | bytes:
    return answer.body.to_json(answer.headers.get("content-type", ""))


def build_call_request(
    step: str,
    url: str,
    *,
    method: str | None = None,
    body: object = None,
    headers: Mapping[str, str] | None = None,
    timeout: Duration = "2h",
) -> CallRequest:
    """Build the request of a call; see `WorkflowContext.call`.

    Raises:
        ConfigurationError: an argument is wrong.
        UnserializableError: the body has no JSON form.
    """
    check_call_url(step, url)
    limit = to_ms(timeout, option="timeout")
    if not 0 < limit <= MAX_CALL_MS:
        raise ConfigurationError(
            f"call '{step}' cannot take {humanize_duration(limit)}; "
            f"write a timeout of up to {humanize_duration(MAX_CALL_MS)}"
        )
    verb = _method(step, method or ("GET" if body is None else "POST"))
    content, kind = _encode_body(step, body)
    sent = _call_headers(headers, len(content))
    if kind is not None:
        sent.setdefault("content-type", kind)
    return CallRequest(step=step, method=verb, url=url, headers=sent, body=Body.of(content), timeout_ms=limit)


def check_call_url(step: str, url: object) -> None:
    """Raise `ConfigurationError` for a URL that no request can be sent to."""
    if not is_absolute_url(url):
        raise ConfigurationError(
            f"call '{step}' cannot go to {format_url(url)}; write an absolute URL, such as https://example.com/x"
        )
    # The client has rules of its own, and calls are made with it anyway.
    from httpx import URL, InvalidURL

    text = cast("str", url)
    try:
        if len(text) > _MAX_URL:
            fault = f"which has {len(text):,} characters"
        elif (parts := URL(text)).port == 0:
            fault = "whose port is 0"
        else:
            host = parts.raw_host.decode()
            host.encode("idna")  # as the resolver does
            fault = "" if ":" in host or _HOST.fullmatch(host) else "whose host is not valid"
    except (InvalidURL, UnicodeError):
        fault = "whose host or port is not valid"
    if fault:
        raise ConfigurationError(f"call '{step}' cannot go to {format_url(url)}, {fault}; write another URL")


def _call_headers(headers: Mapping[str, str] | None, length: int) -> dict[str, str]:
    """The headers of a call as they are sent: names in lower case, values without blanks around them (RFC 9110, 5.5).

    Raises:
        ConfigurationError: they cannot be sent. The values may be secrets, and are not shown.
    """
    sent: dict[str, str] = {}
    for name, value in validate_headers(headers).items():
        lower, text = name.lower(), value.strip(" \t")
        try:
            text.encode("latin-1")
        except UnicodeEncodeError:
            raise ConfigurationError(
                f"has characters in {name!r} that no header can have",
                option="headers",
                want="write Latin-1, or encode it",
            ) from None
        if lower == "transfer-encoding" or (lower == "content-length" and text != str(length)):
            raise ConfigurationError(
                f"has {name!r}, which does not fit the body",
                option="headers",
                want="leave it out; it follows from the body",
            )
        sent[lower] = text
    return sent


def _method(step: str, method: object) -> str:
    verb = method.upper() if isinstance(method, str) else ""
    if verb not in _METHODS:
        raise ConfigurationError(
            f"call '{step}' cannot have the method {format_value(method)}; write one of {', '.join(sorted(_METHODS))}"
        )
    return verb


def _encode_body(step: str, body: object) -> tuple[bytes, str | None]:
    match body:
        case None:
            return b"", None
        case bytes():
            return body, "application/octet-stream"
        case str() if not is_encodable(body):
            raise UnserializableError(f"the body of call '{step}' is {format_value(body)}, which has no form in UTF-8")
        case str():
            return body.encode(), "text/plain; charset=utf-8"
        case _:
            return serialize_body(body, step), "application/json"


async def call_step(
    execution: Execution, request: CallRequest, retry: RetryPolicy, flow: FlowControl, response: type[T] | None
) -> CallResponse[T]:
    """Have the engine make a call and wait for the response; see `WorkflowContext.call`."""

    def effects(number: int) -> tuple[Effect, ...]:
        link = ParentLink(execution.run_id, number, 0)
        body = call_request_codec().encode(request)
        execution.max_value.check(body, f"the request of call '{request.step}'")
        call = Message(id=link.id, destination=CALL_DESTINATION, flow=flow, body=body, retry=retry, parent=link.parent)
        return (Publish((call,)),)

    secret = response is not None and Codec.of(response).has_secrets
    outcome = await execution.wait(request.step, "call", effects, secret=secret)
    if outcome.state != "done":
        attempts, why = read_final_error(headline(outcome.error) if outcome.error else "it was cancelled")
        raise StepFailed(request.step, why, attempts=attempts or retry.attempts)
    answer: CallResponse[T] = CallResponse(request.step, call_result_codec().decode(outcome.value or ""), response)
    if answer.ok and response is not None:
        _ = answer.body
    return answer


def serialize_body(body: object, step: str) -> bytes:
    """Serialize the body of a call as JSON.

    Raises:
        UnserializableError: the body has no JSON form.
    """
    where = f"the body of call '{step}'"
    try:
        text = _written(body)
    except ValueError as error:
        raise UnserializableError(f"{where} has no JSON form: {error}") from error
    # Without one of these words there is no NaN or infinity: pydantic writes them as themselves or as null.
    if b"NaN" in text or b"Infinity" in text or b"null" in text:
        found = _find_non_finite(to_jsonable_python(body, by_alias=True), from_json(text))
        if found is not None:
            raise UnserializableError(f"{where} has no JSON form: {found}")
    return text


def _written(body: object) -> bytes:
    text = to_json(body, by_alias=True)
    # A call sends secrets; pydantic has written masks.
    return text if MASK.encode() not in text else to_json(_revealed(body), by_alias=True)


def _revealed(part: Any) -> Any:
    match part:
        case dict():
            return {name: _revealed(it) for name, it in cast("dict[Any, Any]", part).items()}
        case list() | tuple():
            return [_revealed(it) for it in cast("list[Any]", part)]
        case SecretStr() | SecretBytes() | Secret():
            return cast("SecretStr", part).get_secret_value()
        case _ if isinstance(part, BaseModel) or is_dataclass(part):
            return from_json(Codec.of(type(part)).reveal(part, by_alias=True))
        case _:
            return part


def _find_non_finite(sent: Any, written: Any) -> RoundTripDifference | None:
    """Find the first NaN or infinity, unless its type serializes it as text."""
    parts: list[tuple[Any, Any, Any]] = []
    if isinstance(sent, dict) and isinstance(written, dict):
        ours, theirs = cast("dict[str, Any]", sent), cast("dict[str, Any]", written)
        parts = [(key, part, theirs.get(key)) for key, part in ours.items()]
    elif isinstance(sent, list) and isinstance(written, list):
        ours, theirs = cast("list[Any]", sent), cast("list[Any]", written)
        parts = [(place, *pair) for place, pair in enumerate(zip(ours, theirs, strict=False))]
    elif isinstance(sent, float) and not isinstance(written, str):
        return not_finite(sent)
    for place, part, other in parts:
        if (found := _find_non_finite(part, other)) is not None:
            return found.nested_in(f"[{place!r}]")
    return None
