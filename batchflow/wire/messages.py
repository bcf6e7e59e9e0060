"""Posts as the REST API shows them: the JSON of messages, of events of the log and of the DLQ."""

from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from typing import Any

from batchflow.wire.envelope import CallbackTarget, Envelope
from batchflow.wire.headers import header_lists

_FORWARD = "upstash-forward-"


def message_json(envelope: Envelope, id: str) -> dict[str, Any]:
    """The message of the REST API, without the fields that do not apply.

    What its sender wants redacted is shown as a hash.
    """
    hide = _redaction(envelope.redact)
    shown: dict[str, Any] = {
        "messageId": id,
        "url": envelope.url,
        "method": envelope.method,
        "maxRetries": envelope.retries,
        "notBefore": envelope.not_before,
        "createdAt": envelope.created_at,
    }
    if headers := _headers(envelope):
        shown["header"] = header_lists((name, hide(name, value)) for name, value in headers)
    if "body" in envelope.redact:
        shown["body"] = redacted(envelope.body.content)
    else:
        shown["bodyBase64" if envelope.body.base64 else "body"] = envelope.body.text
    shown.update((name, value) for name, value in _settings(envelope, hide) if value is not None)
    return shown


def redacted(content: bytes) -> str:
    """A value that is not shown, as the hash by which its sender can tell it from others."""
    return f"REDACTED:{sha256(content).hexdigest()}"


def _headers(envelope: Envelope) -> list[tuple[str, str]]:
    """The headers of the delivery, the content type included."""
    if envelope.content_type is None:
        return list(envelope.headers)
    return [("Content-Type", envelope.content_type), *envelope.headers]


def _settings(envelope: Envelope, hide: Callable[[str, str], str]) -> Iterable[tuple[str, Any]]:
    """The fields that are left out when they are not set, in their order."""
    yield "topicName", envelope.topic
    yield "endpointName", envelope.endpoint
    yield "queueName", envelope.queue
    yield "scheduleId", envelope.schedule_id
    if (callback := envelope.callback) is not None:
        yield "callback", callback.url
    if (failure_callback := envelope.failure_callback) is not None:
        yield "failureCallback", failure_callback.url
    if callback is not None:
        yield "callbackHeader", _target_headers(callback, hide)
    if failure_callback is not None:
        yield "failureCallbackHeader", _target_headers(failure_callback, hide)
    yield "retryDelayExpression", envelope.retry_delay
    if envelope.timeout_ms is not None:
        yield "timeout", envelope.timeout_ms // 1000
    yield "callerIP", envelope.caller_ip
    if envelope.flow_key is not None:
        yield "flowControlKey", envelope.flow_key
        yield "parallelism", envelope.parallelism
        yield "rate", envelope.rate
        yield "period", envelope.period_s
    if envelope.labels:
        yield "label", envelope.labels[0]
        yield "labels", list(envelope.labels)


def _target_headers(target: CallbackTarget, hide: Callable[[str, str], str]) -> Mapping[str, list[str]]:
    return header_lists(
        (name, hide(name.rpartition(_FORWARD)[2], value) if _FORWARD in name else value)
        for name, value in target.headers.items()
    )


def _redaction(redact: tuple[str, ...]) -> Callable[[str, str], str]:
    """Shows the value of a header, or its hash."""
    if "header" in redact:
        return lambda _, value: redacted(value.encode())
    names = {it[len("header[") : -1].lower() for it in redact if it.startswith("header[")}
    return lambda name, value: redacted(value.encode()) if name.lower() in names else value
