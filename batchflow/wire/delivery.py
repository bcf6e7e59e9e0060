"""The headers that the engine sends with a delivery, beside its signature."""

from collections.abc import Iterable

from batchflow.wire.envelope import Envelope, HeaderPairs
from batchflow.wire.headers import REDELIVERED

USER_AGENT = "Upstash-QStash"
"""The agent of deliveries that forward none."""


def delivery_headers(envelope: Envelope, id: str, retried: int, *, redelivered: bool = False) -> HeaderPairs:
    """The headers of a delivery of the post `id`, after `retried` retries; endpoints of runs learn of a redelivery.

    A forwarded header with the name of one of the engine's own is dropped; only `User-Agent` may be replaced.
    """
    own = dict(_own_headers(envelope, id, retried))
    if redelivered and _knows_run(envelope):
        own[REDELIVERED] = "true"
    names = {name.lower() for name in own}
    forwarded = [(name, value) for name, value in envelope.headers if name.lower() not in names]
    if all(name.lower() != "user-agent" for name, _ in forwarded):
        own["User-Agent"] = USER_AGENT
    return (*own.items(), *forwarded)


def _own_headers(envelope: Envelope, id: str, retried: int) -> Iterable[tuple[str, str]]:
    if envelope.content_type is not None:
        yield "Content-Type", envelope.content_type
    yield "Upstash-Message-Id", id
    yield "Upstash-Retried", str(retried)
    # Not the limit: as QStash has it, this is the counter too.
    yield "Upstash-Retries", str(retried)
    yield "Upstash-Max-Retries", str(envelope.retries)
    if envelope.retry_delay is not None:
        yield "Upstash-Retry-Delay", envelope.retry_delay
    if envelope.schedule_id is not None:
        yield "Upstash-Schedule-Id", envelope.schedule_id
    if envelope.topic is not None:
        yield "Upstash-Topic-Name", envelope.topic
    if envelope.caller_ip is not None:
        yield "Upstash-Caller-Ip", envelope.caller_ip
    if envelope.flow_key is not None:
        yield "Upstash-Flow-Control-Key", envelope.flow_key
        yield "Upstash-Flow-Control-Value", _limits(envelope)
    if envelope.labels:
        yield "Upstash-Label", ",".join(envelope.labels)
    yield from _headers_of_run(envelope)


def _headers_of_run(envelope: Envelope) -> Iterable[tuple[str, str]]:
    """The headers by which an endpoint knows its run."""
    run = envelope.run
    if run is None or not _knows_run(envelope):
        return
    yield "Upstash-Workflow-RunId", run.run
    yield "Upstash-Workflow-Url", run.url
    yield "Upstash-Workflow-CreatedAt", str(run.created_at)
    if run.first_contact:
        yield "Upstash-Workflow-Unknown-Sdk", "true"


def _knows_run(envelope: Envelope) -> bool:
    """False for the receiver of a call."""
    return envelope.run is not None and envelope.run.call_type != "toCallback"


def _limits(envelope: Envelope) -> str:
    limits = (("parallelism", envelope.parallelism), ("rate", envelope.rate), ("period", envelope.period_s))
    return ",".join(f"{name}={limit}" for name, limit in limits if limit is not None)
