"""Header names and values: their canonical form, and the ones that are never forwarded."""

import re
from collections.abc import Iterable
from functools import lru_cache

REDELIVERED = "batchflow-redelivered"
"""The header of a delivery that may have arrived before without a failure that was counted, such as after a crash."""

NOT_FORWARDED = frozenset(
    {
        *("host", "content-length", "transfer-encoding", "connection", "keep-alive", "proxy-connection"),
        *("proxy-authorization", "te", "trailer", "upgrade", "expect", "accept-encoding"),
        *("upstash-signature", "upstash-message-id", "upstash-retried", REDELIVERED),
    }
)
"""The names, in lower case, that belong to one connection or to an earlier delivery. SDKs forward them unasked."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t -~\x80-\ud7ff\ue000-\U0010ffff]*")


def is_header_name(text: str) -> bool:
    """True for what may be the name of a header in HTTP."""
    return _TOKEN.fullmatch(text) is not None


def is_header_value(text: str) -> bool:
    """True for text without control characters, such as those that end a header."""
    return _VALUE.fullmatch(text) is not None


@lru_cache(maxsize=1024)
def canonical_name(name: str) -> str:
    """The name as Go writes it, and so QStash in its JSON: `content-type` is `Content-Type`.

    Text that is not a header name stays as it is.
    """
    return "-".join(map(str.capitalize, name.split("-"))) if is_header_name(name) else name


def header_lists(headers: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The values of each header, under its canonical name."""
    lists: dict[str, list[str]] = {}
    for name, value in headers:
        lists.setdefault(canonical_name(name), []).append(value)
    return lists
