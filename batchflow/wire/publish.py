"""Publish requests: the `Upstash-*` headers and query parameters of a request, and the posts that follow from them.

The rules are those of https://upstash.com/docs/qstash/api/publish and of the official SDKs.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from batchflow.core.posts import Post
from batchflow.wire.envelope import Envelope


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishRequest:
    """A publish request that was read and is valid.

    `destination` is a URL that begins with http:// or https://, or the name of a URL group. `envelope` has everything
    but the URL of a group. `cron` and `schedule_id` are those of a request that makes a schedule. `dedup` is the
    deduplication id, or the hash of the content; None without one.
    """

    destination: str
    envelope: Envelope
    dedup: str | None = None
    cron: str | None = None
    schedule_id: str | None = None

    @property
    def is_group(self) -> bool:
        """True if the destination is the name of a URL group."""
        raise NotImplementedError


def parse_publish(
    destination: str,
    headers: Iterable[tuple[str, str]],
    body: bytes,
    *,
    tenant: str,
    now: int,
    queue: str | None = None,
    caller_ip: str | None = None,
    query: Sequence[tuple[str, str]] = (),
) -> PublishRequest:
    """Read a publish request, one item of a batch, or the headers of a callback.

    `query` are the parameters of the request itself, of which those that begin with `upstash-` count as headers.

    Raises:
        InputError: the request is not valid; the sentence names the header.
    """
    raise NotImplementedError


def posts_of(
    request: PublishRequest, new_id: Callable[[], str], endpoints: Sequence[tuple[str, str | None]] = ()
) -> list[Post]:
    """The posts of a request: one, or one for each of the `endpoints` (URL, name) of its group.

    Their messages have the flow key of the store, `qstash.{tenant}.{key}`, and the label of their tenant; without flow
    control their key is that of the destination.
    """
    raise NotImplementedError
