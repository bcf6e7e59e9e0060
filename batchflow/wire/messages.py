"""Posts as the REST API shows them: the JSON of messages and of events of the log."""

from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from typing import Any

from pydantic_core import from_json, to_json

from batchflow.core.call import Body
from batchflow.core.posts import LogEntry
from batchflow.wire.envelope import CallbackTarget, Envelope, HeaderPairs
from batchflow.wire.headers import header_lists

_FORWARD = "upstash-forward-"
_REDACTED = "REDACTED:"
_EVENT_NAMES = {
    **{
        name: name
        for name in (
            *("url", "topicName", "endpointName", "queueName", "scheduleId", "header", "timeout", "method", "callback"),
            *("failureCallback", "maxRetries", "callerIP", "retryDelayExpression", "flowControlKey", "parallelism"),
            *("rate", "period", "label", "labels"),
        )
    },
    "callbackHeader": "callbackHeaders",
    "failureCallbackHeader": "failureCallbackHeaders",
}
# The fields of a message that an event has too, with the names that they have there.


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
    if headers := delivered_headers(envelope):
        shown["header"] = header_lists((name, hide(name, value)) for name, value in headers)
    if "body" in envelope.redact:
        shown["body"] = redacted(envelope.body.content)
    else:
        shown["bodyBase64" if envelope.body.base64 else "body"] = envelope.body.text
    shown.update((name, value) for name, value in _settings(envelope, hide) if value is not None)
    return shown


def response_detail(
    status: int | None = None,
    headers: HeaderPairs = (),
    body: bytes = b"",
    *,
    error: str | None = None,
    next_delivery: int | None = None,
) -> str:
    """The detail of a log entry: the response, the error of an attempt without one or that has failed, and the time of
    the next delivery in ms.
    """
    detail: dict[str, Any] = {}
    if error is not None:
        detail["error"] = error
    if next_delivery is not None:
        detail["nextDeliveryTime"] = next_delivery
    if status is not None:
        kept = Body.of(body)
        detail["responseStatus"] = status
        detail["responseHeader"] = header_lists(headers)
        detail["responseBodyBase64" if kept.base64 else "responseBody"] = kept.text
    return to_json(detail).decode()


def event_json(entry: LogEntry, description: str) -> dict[str, Any]:
    """The event of the REST API for an entry of the log; `description` is that of its post."""
    message: dict[str, Any] = from_json(description)
    detail: dict[str, Any] = {} if entry.state == "CREATED" else from_json(entry.detail)
    event: dict[str, Any] = {"time": entry.at, "messageId": entry.message, "state": entry.state}
    event.update((name, detail.pop(name)) for name in ("error", "nextDeliveryTime") if name in detail)
    event.update((_EVENT_NAMES[name], value) for name, value in message.items() if name in _EVENT_NAMES)
    if (body := _event_body(message)) is not None:
        event["body"] = body
    if (expression := message.get("retryDelayExpression")) is not None:
        event["retryDelayExpr"] = expression
    return {**event, **detail}


def _event_body(message: Mapping[str, Any]) -> str | None:
    """The body of an event: base64, but for the hash of one that is redacted."""
    text = message.get("body")
    if text is None:
        return message.get("bodyBase64")
    return text if text.startswith(_REDACTED) else b64encode(text.encode()).decode()


def redacted(content: bytes) -> str:
    """A value that is not shown, as the hash by which its sender can tell it from others."""
    return f"{_REDACTED}{sha256(content).hexdigest()}"


def delivered_headers(envelope: Envelope) -> list[tuple[str, str]]:
    """The headers that the sender gave to the delivery: the content type and those that are forwarded."""
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
    if (part := envelope.run) is not None:
        yield "workflowRunId", part.run
        yield "workflowUrl", part.url
        yield "workflowCreatedAt", part.created_at
        yield "callType", part.call_type


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
