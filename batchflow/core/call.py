"""An HTTP call that the engine makes for a run: its request and its result. Pure values."""

import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, TypeAlias

from pydantic import PlainSerializer

from batchflow.core.codec import Codec
from batchflow.core.json_body import decode_body, json_text
from batchflow.core.secrets import Secret, marked

CALL_DESTINATION = "batchflow:call"
"""The destination of calls. Routes cannot have this name."""

MAX_CALL_MS = 2 * 3_600_000
"""The longest timeout of one attempt of a call."""

_USERINFO = re.compile(r"(?<=//)[^/?#]*@")
_CREDENTIAL = re.compile(
    r"(?:^|[-_.])(?:auth|authentication|authorization|cookie|credentials?|(?:api)?key|password|secret|session|token)(?:$|[-_.])"
)
_FINAL_ERROR = re.compile(r"attempt (\d+) was the last: ")


def printable_url(url: str) -> str:
    """A URL as it may be shown: without user and password, and with "…" for its query and fragment."""
    whole, fragment, _ = _USERINFO.sub("", url, count=1).partition("#")
    address, query, _ = whole.partition("?")
    return f"{address}{'?…' if query else ''}{'#…' if fragment else ''}"


def is_credential(header: str) -> bool:
    """True if a header of this name usually has a secret, such as `Authorization`, `Cookie` or `X-Api-Key`."""
    name = header.lower()
    return name != "idempotency-key" and _CREDENTIAL.search(name) is not None


def final_error(attempt: int, text: str) -> str:
    """The stored error of a call after whose attempt of this number no other one is made, whatever its policy."""
    return f"attempt {attempt} was the last: {text}"


def read_final_error(text: str) -> tuple[int | None, str]:
    """The number of attempts and the text of a stored error; None unless it was made by `final_error`."""
    found = _FINAL_ERROR.match(text)
    return (None, text) if found is None else (int(found[1]), text[found.end() :])


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """Bytes as JSON holds them: text if they are UTF-8, else base64."""

    text: str = ""
    base64: bool = False

    @classmethod
    def of(cls, content: bytes) -> "Body":
        """The body of these bytes."""
        try:
            return cls(text=content.decode())
        except UnicodeDecodeError:
            return cls(text=b64encode(content).decode(), base64=True)

    @property
    def content(self) -> bytes:
        """The bytes."""
        return b64decode(self.text) if self.base64 else self.text.encode()

    def to_text(self, content_type: str) -> str:
        """The bytes as text; see `decode_body`."""
        return decode_body(self.content, content_type)

    def to_json(self, content_type: str) -> str | bytes:
        """The bytes for a JSON parser; see `json_text`."""
        return json_text(self.content, content_type)


EMPTY_BODY = Body()


def _mark_secrets(headers: Mapping[str, str]) -> dict[str, object]:
    return {name: marked(value) if is_credential(name) else value for name, value in headers.items()}


ResponseHeaders: TypeAlias = Annotated[Mapping[str, str], PlainSerializer(_mark_secrets)]
"""The headers of a response; the values of some, such as `set-cookie`, are stored as secrets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRequest:
    """A request to send. `step` is the step that makes the call; `timeout_ms` limits one attempt."""

    step: str
    method: str
    url: Annotated[str, Secret] = field(repr=False)
    headers: Mapping[str, Annotated[str, Secret]] = field(default_factory=dict[str, str], repr=False)
    body: Annotated[Body, Secret] = field(default=EMPTY_BODY, repr=False)
    timeout_ms: int = MAX_CALL_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class CallResult:
    """The response, with any status. Header names are in lower case; values of repeated headers are joined."""

    status: int
    headers: ResponseHeaders = field(default_factory=dict[str, str], repr=False)
    body: Body = field(default=EMPTY_BODY, repr=False)


def without_secrets(text: str, request: CallRequest) -> str:
    """A text of the layers below with "…" for the header values, the password and the query of a request in it."""
    userinfo = _USERINFO.search(request.url)
    query = request.url.partition("#")[0].partition("?")[2]
    secret = [value for name, value in request.headers.items() if is_credential(name)]
    secret += [userinfo[0] if userinfo else "", query]
    # "Bearer x" may be quoted in part. Short words and values that say nothing stay, so that the text can be read.
    words = [word for value in secret for word in re.split(r"[\s&=;,:@]+", value) if len(word) > 3]
    values = [value for value in request.headers.values() if len(value) > 7]
    for hidden in sorted({*words, *values}, key=len, reverse=True):
        text = text.replace(hidden, "…")
    return text


def call_request_codec() -> Codec[CallRequest]:
    """The codec of requests, built with the first call and not at import."""
    return Codec.of(CallRequest)


def call_result_codec() -> Codec[CallResult]:
    """The codec of results, built with the first call and not at import."""
    return Codec.of(CallResult)
