"""Callbacks: the posts that tell of the outcome of another one, and their body, as QStash sends it."""

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pydantic_core import to_json

from batchflow.core.posts import Post
from batchflow.wire.envelope import CallbackTarget, Envelope, HeaderPairs
from batchflow.wire.headers import header_lists
from batchflow.wire.messages import delivered_headers
from batchflow.wire.publish import PublishRequest, parse_publish, posts_of


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackBody:
    """A request and its response, for a callback or a failure URL. Times are in ms; a field of None is left out."""

    status: int
    header: Mapping[str, Sequence[str]]
    body: bytes
    retried: int
    max_retries: int
    source_message_id: str
    url: str
    method: str
    source_header: Mapping[str, Sequence[str]]
    source_body: bytes
    not_before: int
    created_at: int
    workflow_run_id: str | None = None
    workflow_created_at: int | None = None
    dlq_id: str | None = None
    topic_name: str | None = None
    endpoint_name: str | None = None
    schedule_id: str | None = None
    caller_ip: str | None = None

    def to_json(self) -> bytes:
        """The body as JSON, byte for byte as `JSON.stringify` writes it: receivers may write it again to verify it."""
        fields = {
            "status": self.status,
            "header": self.header,
            "body": _base64(self.body),
            "retried": self.retried,
            "maxRetries": self.max_retries,
            "sourceMessageId": self.source_message_id,
            "topicName": self.topic_name,
            "endpointName": self.endpoint_name,
            "url": self.url,
            "method": self.method,
            "sourceHeader": self.source_header,
            "sourceBody": _base64(self.source_body),
            "notBefore": self.not_before,
            "createdAt": self.created_at,
            "scheduleId": self.schedule_id,
            "callerIP": self.caller_ip,
            "workflowRunId": self.workflow_run_id,
            "workflowCreatedAt": self.workflow_created_at,
            "dlqId": self.dlq_id,
        }
        return to_json({name: value for name, value in fields.items() if value is not None})


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The last response to a post, after `retried` retries; `dlq_id` is that of its dead letter, if it has failed.

    Without a response, `status` is 503 or 504 and `body` says why.
    """

    status: int
    headers: HeaderPairs = field(default=(), repr=False)
    body: bytes = field(default=b"", repr=False)
    retried: int = 0
    dlq_id: str | None = None


def callback_requests(envelope: Envelope, id: str, outcome: Outcome, *, now: int) -> list[PublishRequest]:
    """The requests that tell of the outcome of the post `id`: its callback, and its failure callback if it has failed.

    They have no place in a queue: the post of the first one may be given that of the post.
    """
    requests: list[PublishRequest] = []
    if envelope.callback is not None:
        body = callback_body(envelope, id, replace(outcome, dlq_id=None))
        requests.append(callback_request(envelope.callback, envelope, id, body, now))
    if envelope.failure_callback is not None and outcome.dlq_id is not None:
        body = callback_body(envelope, id, outcome)
        requests.append(callback_request(envelope.failure_callback, envelope, id, body, now))
    return requests


def callback_posts(envelope: Envelope, id: str, outcome: Outcome, *, now: int, new_id: Callable[[], str]) -> list[Post]:
    """The posts of these requests, for a post that belongs to no run."""
    return [it for request in callback_requests(envelope, id, outcome, now=now) for it in posts_of(request, new_id)]


def callback_request(
    target: CallbackTarget, envelope: Envelope, id: str, body: CallbackBody, now: int
) -> PublishRequest:
    """The request that sends `body`, which tells of the post `id`."""
    headers = [("content-type", "application/json"), *target.headers.items()]
    request = parse_publish(target.url, headers, body.to_json(), tenant=envelope.tenant, now=now)
    redact = request.envelope.redact
    if envelope.redact:
        # Its body repeats what the sender wants redacted, which includes the headers of callbacks.
        redact = tuple(dict.fromkeys((*redact, *envelope.redact, "body")))
    return replace(request, envelope=replace(request.envelope, callback_of=id, redact=redact))


def callback_body(envelope: Envelope, id: str, outcome: Outcome) -> CallbackBody:
    """The body that tells of the outcome of the post `id`."""
    run = envelope.run
    return CallbackBody(
        status=outcome.status,
        header=header_lists(outcome.headers),
        body=outcome.body,
        retried=outcome.retried,
        max_retries=envelope.retries,
        source_message_id=id,
        url=envelope.url,
        method=envelope.method,
        source_header=header_lists(delivered_headers(envelope)),
        source_body=envelope.body.content,
        not_before=envelope.not_before,
        created_at=envelope.created_at,
        workflow_run_id=None if run is None else run.run,
        workflow_created_at=None if run is None else run.created_at,
        dlq_id=outcome.dlq_id,
        topic_name=envelope.topic,
        endpoint_name=envelope.endpoint,
        schedule_id=envelope.schedule_id,
        caller_ip=envelope.caller_ip,
    )


def _base64(content: bytes) -> str:
    return b64encode(content).decode()
