"""An HTTP call that the engine makes for a run: what is asked, and what was answered. Pure values."""

import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field

CALL_DESTINATION = "batchflow:call"
"""The destination of calls. No route can be named so."""

MAX_CALL_MS = 2 * 3_600_000
"""How long one attempt of a call may take at most."""

_USERINFO = re.compile(r"(?<=//)[^/?#]*@")
_CHARSET = re.compile(r";\s*charset\s*=\s*[\"']?([^\s;\"']+)", re.IGNORECASE)


def without_userinfo(url: str) -> str:
    """A URL as it may be shown: without the user and the password that it may hold."""
    return _USERINFO.sub("", url, count=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """Bytes that stand in JSON: as text where they are UTF-8, else in base64."""

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
        """The bytes as text, in the charset that `content_type` declares, UTF-8 where it declares none or none that is
        known; what is none shows as U+FFFD."""
        if (charset := _CHARSET.search(content_type)) is not None:
            try:
                return self.content.decode(charset[1], "replace")
            except (LookupError, ValueError):
                pass
        return self.content.decode(errors="replace")

    def to_json(self, content_type: str) -> str | bytes:
        """The bytes as JSON is read: UTF-8, as it says of itself, and where they are not, in the declared charset."""
        if self.base64 and "\ufffd" not in (text := self.to_text(content_type)):
            return text
        return self.content


EMPTY_BODY = Body()


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRequest:
    """What is to be sent. `step` is the name of the step that asks; `timeout_ms` bounds one attempt."""

    step: str
    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: Body = EMPTY_BODY
    timeout_ms: int = MAX_CALL_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class CallResult:
    """What came back, whatever the status. Header names are in lower case; of several equal ones, values are joined."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: Body = EMPTY_BODY
