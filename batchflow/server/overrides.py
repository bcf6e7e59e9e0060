"""The changes that the headers of a request to the DLQ make to the message or the run that begins again."""

from collections.abc import Mapping
from typing import Any

from fastapi import Request

from batchflow.server.raw_request import header_pairs
from batchflow.wire.envelope import Envelope
from batchflow.wire.publish import parse_publish

# The fields of an envelope that a header takes the place of.
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "upstash-method": ("method",),
    "upstash-retries": ("retries",),
    "upstash-retry-delay": ("retry_delay",),
    "upstash-timeout": ("timeout_ms",),
    "upstash-delay": ("not_before",),
    "upstash-not-before": ("not_before",),
    "upstash-callback": ("callback",),
    "upstash-failure-callback": ("failure_callback",),
    "upstash-flow-control-key": ("flow_key", "parallelism", "rate", "period_s"),
    "upstash-label": ("labels",),
    "upstash-redact-fields": ("redact",),
}


def overrides_of(request: Request, envelope: Envelope, now: int) -> tuple[Envelope, Mapping[str, Any]]:
    """The envelope that the headers of a request at `now` describe by themselves, and the fields that they name.

    Raises:
        InputError: a header is not valid.
    """
    headers = header_pairs(request.scope)
    given = parse_publish(envelope.url, headers, b"", tenant=envelope.tenant, now=now, queue=envelope.queue).envelope
    names = {field for name, fields in _FIELDS.items() if name in request.headers for field in fields}
    return given, {name: getattr(given, name) for name in names}
