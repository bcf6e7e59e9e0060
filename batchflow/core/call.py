"""An HTTP call that the engine makes for a run: what is asked, and what was answered. Pure values."""

from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field

CALL = "batchflow:call"
"""The destination of calls. No route can be named so."""

LONGEST_MS = 2 * 3_600_000
"""How long one attempt of a call may take at most."""


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


EMPTY = Body()


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRequest:
    """What is to be sent. `step` is the name of the step that asks; `timeout_ms` bounds one attempt."""

    step: str
    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: Body = EMPTY
    timeout_ms: int = LONGEST_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class CallAnswer:
    """What came back, whatever the status. Header names are in lower case; of several equal ones, values are joined."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: Body = EMPTY
