"""Publish requests of tests, read."""

from itertools import count
from typing import Any

from batchflow.core.posts import Post
from batchflow.wire.envelope import Envelope
from batchflow.wire.publish import PublishRequest, parse_publish, posts_of

URL = "https://example.com/hook?a=1&b=//x"
NOW = 1_700_000_000_000


def parsed(
    headers: dict[str, str] | list[tuple[str, str]] | None = None,
    *,
    to: str = URL,
    body: bytes = b"",
    query: tuple[tuple[str, str], ...] = (),
    queue: str | None = None,
) -> PublishRequest:
    pairs = list(headers.items()) if isinstance(headers, dict) else headers or []
    return parse_publish(to, pairs, body, tenant="t", now=NOW, queue=queue, query=query)


def envelope(headers: dict[str, str] | list[tuple[str, str]] | None = None, **options: Any) -> Envelope:
    return parsed(headers, **options).envelope


def posts(request: PublishRequest, *endpoints: tuple[str, str | None]) -> list[Post]:
    numbers = count(1)
    return posts_of(request, lambda: f"msg_{next(numbers)}", endpoints)
