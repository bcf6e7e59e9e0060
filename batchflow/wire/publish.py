"""Publish requests: the `Upstash-*` headers and query parameters of a request, and the posts that follow from them.

The rules are those of https://upstash.com/docs/qstash/api/publish and of the official SDKs.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256

from pydantic_core import to_json

from batchflow.core.call import EMPTY_BODY, Body
from batchflow.core.flow import FlowControl
from batchflow.core.message import Message
from batchflow.core.posts import PUSH_DESTINATION, PUSH_FAILURE_DESTINATION, Post
from batchflow.core.wire_runs import RunLink
from batchflow.wire.envelope import CallbackTarget, Envelope
from batchflow.wire.messages import message_json
from batchflow.wire.publish_headers import PublishHeaders, check_url, is_name, refusal, retry_policy
from batchflow.wire.run_headers import RUN_ID, RunRequest, read_run

HOST_PARALLELISM = 100
"""The most posts without flow control that are under way to one host, over all workers.

A host that answers slowly leaves room for the posts to others.
"""

_SCHEME = re.compile("https?:", re.IGNORECASE)
_NOT_OF_KEYS = re.compile(r"[^A-Za-z0-9._-]")
_AUTHORITY = re.compile(r"https?://(?:[^/?#]*@)?([^/?#]*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishRequest:
    """A publish request that was read and is valid.

    `destination` is a URL that begins with http:// or https://, or the name of a URL group. `envelope` has everything
    but the URL of a group. `cron` and `schedule_id` are those of a request that makes a schedule. `dedup` is the
    deduplication id, or the hash of the content; None without one. `run` is the workflow run that it begins or belongs
    to; the envelope has no part in it yet.
    """

    destination: str
    envelope: Envelope
    dedup: str | None = None
    cron: str | None = None
    schedule_id: str | None = None
    run: RunRequest | None = None

    @property
    def is_group(self) -> bool:
        """True if the destination is the name of a URL group."""
        return self.envelope.topic is not None

    @property
    def dedup_key(self) -> str | None:
        """The deduplication id as the store has it, unique over tenants."""
        return None if self.dedup is None else f"{self.envelope.tenant}:{self.dedup}"


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

    `query` are the parameters of the request itself, of which those that begin with `upstash-` count as headers; a
    header wins over a parameter of its name.

    Raises:
        InputError: the request is not valid; the sentence names the header. Its status is 400, or 412 for a limit of
            this server that another plan of QStash may not have.
    """
    given = PublishHeaders(headers, query)
    url, topic = _read_destination(destination)
    retries, retry_delay = given.retries(), given.retry_delay()
    retry_policy(retries, retry_delay)  # refuses an expression that is not valid
    flow_key, parallelism, rate, period_s = given.flow_control()
    queue, cron, run = given.queue(queue), given.cron(), read_run(given)
    _check_together(flow_key, run, {"queue": queue, "schedule": cron, "URL group": topic})
    envelope = Envelope(
        url=url,
        tenant=tenant,
        created_at=now,
        method=given.method(),
        headers=tuple(given.forwarded),
        content_type=given.content_type,
        body=Body.of(body) if body else EMPTY_BODY,
        not_before=given.not_before(now),
        timeout_ms=given.timeout_ms(),
        retries=retries,
        retry_delay=retry_delay,
        callback=_read_target(given, "callback", retries, tenant, run),
        failure_callback=_read_target(given, "failure-callback", retries, tenant, run),
        flow_key=flow_key,
        parallelism=parallelism,
        rate=rate,
        period_s=period_s,
        labels=given.labels(),
        redact=given.redact(),
        queue=queue,
        topic=topic,
        caller_ip=caller_ip,
    )
    return PublishRequest(
        destination=url or destination,
        envelope=envelope,
        dedup=_dedup(given, destination, envelope, body),
        cron=cron,
        schedule_id=None if cron is None else given.get("upstash-schedule-id"),
        run=run,
    )


def posts_of(
    request: PublishRequest, new_id: Callable[[], str], endpoints: Sequence[tuple[str, str | None]] = ()
) -> list[Post]:
    """The posts of a request: one, or one for each of the `endpoints` (URL, name) of its group.

    Their messages have the flow key of the store (`store_flow_key`) and the label of their tenant; without flow control
    each host has a key, which tenants cannot name, with `HOST_PARALLELISM`.
    """
    envelope, key = request.envelope, request.dedup_key
    if not request.is_group:
        return [post_of(envelope, new_id(), dedup=key)]
    return [
        # No id has a line feed: those of endpoints cannot be confused with others.
        post_of(replace(envelope, url=url, endpoint=name), new_id(), dedup=None if key is None else f"{key}\n{url}")
        for url, name in endpoints
    ]


def store_flow_key(tenant: str, key: str) -> str:
    """The flow key of the store for a tenant's own key."""
    return f"qstash.{tenant}.{key}"


def host_flow_key(tenant: str, host: str) -> str:
    """The flow key of the store for the posts of a tenant to a host that have no flow control."""
    return f"qstash-host.{tenant}.{host}"


def post_of(envelope: Envelope, id: str, *, dedup: str | None = None, link: RunLink | None = None) -> Post:
    """The post of an envelope."""
    message = Message(
        id=id,
        destination=PUSH_DESTINATION,
        flow=_flow(envelope),
        body=envelope.to_text(),
        not_before=envelope.not_before if envelope.not_before > envelope.created_at else 0,
        retry=retry_policy(envelope.retries, envelope.retry_delay),
        label=envelope.tenant,
        on_failure=PUSH_FAILURE_DESTINATION,
    )
    description = to_json(message_json(envelope, id)).decode()
    return Post(message, envelope.tenant, description, dedup=dedup, queue=envelope.queue, link=link)


def _flow(envelope: Envelope) -> FlowControl:
    if envelope.flow_key is None:
        return _host_flow(envelope.tenant, envelope.url)
    key = store_flow_key(envelope.tenant, envelope.flow_key)
    return _limited_flow(key, envelope.parallelism, envelope.rate, envelope.period_s)


@lru_cache(maxsize=1024)
def _limited_flow(key: str, parallelism: int | None, rate: int | None, period_s: int) -> FlowControl:
    # As in QStash, all starts of a period may come at its beginning.
    return FlowControl(key=key, parallelism=parallelism, rate=rate, period=period_s, burst=rate or 1)


@lru_cache(maxsize=1024)
def _host_flow(tenant: str, url: str) -> FlowControl:
    found = _AUTHORITY.match(url)
    host = _NOT_OF_KEYS.sub(".", found[1].lower()) if found else ""
    return FlowControl(key=host_flow_key(tenant, host), parallelism=HOST_PARALLELISM)


def _read_destination(destination: str) -> tuple[str, str | None]:
    """The URL and None, or an empty URL and the name of a group."""
    if _SCHEME.match(destination):
        return check_url(destination, "destination"), None
    if is_name(destination):
        return "", destination
    # The sentences do not show it: a URL may have secrets.
    if destination.startswith("api/"):
        sentence = "destinations such as api/llm are not supported; give the URL of the provider"
    else:
        sentence = "'destination' is neither a URL that begins with http:// or https:// nor the name of a URL group"
    raise refusal(sentence, "destination")


def _read_target(
    given: PublishHeaders, kind: str, retries: int, tenant: str, run: RunRequest | None
) -> CallbackTarget | None:
    """A callback, whose headers are valid for the post that it becomes."""
    url = given.get(f"upstash-{kind}")
    if url is None:
        return None
    target = CallbackTarget(url=check_url(url, f"upstash-{kind}"), headers=given.nested(kind, retries))
    request = parse_publish(target.url, target.headers.items(), b"", tenant=tenant, now=0)
    # Each outcome is told, and a callback has the place of its post in a queue.
    settings = {"cron": request.cron, "queue-name": request.envelope.queue, "deduplication-id": request.dedup}
    for name, setting in settings.items():
        if setting is not None:
            field = f"upstash-{kind}-{name}"
            sentence = f"a callback has no schedule, queue or deduplication of its own; leave out '{field}'"
            raise refusal(sentence, field)
    if request.run is not None and (run is None or run.run != request.run.run):
        field = f"upstash-{kind}-{RUN_ID.removeprefix('upstash-')}"
        raise refusal(f"a callback belongs to the run of its request; send '{RUN_ID}' with the id of '{field}'", field)
    return target


def _dedup(given: PublishHeaders, destination: str, envelope: Envelope, body: bytes) -> str | None:
    """The deduplication id, or the hash of all that makes two requests the same."""
    id = given.dedup_id()
    if id is not None or not given.is_content_deduplicated():
        return id
    forwarded = sorted((name.lower(), value) for name, value in envelope.headers)
    content = sha256(to_json([destination, envelope.content_type, forwarded]))
    content.update(b"\n")
    content.update(body)
    return f"sha256:{content.hexdigest()}"


def _check_together(flow_key: str | None, run: RunRequest | None, others: Mapping[str, str | None]) -> None:
    """Refuse settings that exclude each other."""
    if others["queue"] is not None and flow_key is not None:
        sentence = "a queue and flow control exclude each other; leave out 'upstash-flow-control-key' or the queue"
        raise refusal(sentence, "upstash-flow-control-key")
    if run is not None:
        for name, setting in others.items():
            if setting is not None:
                raise refusal(f"the posts of a workflow run have no {name}; leave it out, or '{RUN_ID}'", RUN_ID)
