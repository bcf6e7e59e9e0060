"""The JSON of messages and events, as the SDKs read it."""

from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from pydantic_core import from_json, to_json
from qstash.log import LogState, parse_logs_response
from qstash.message import parse_message_response

from batchflow.core.posts import LogEntry
from batchflow.core.posts import LogState as State
from batchflow.wire.envelope import RunPart
from batchflow.wire.headers import canonical_name
from batchflow.wire.messages import event_json, message_json, response_detail
from tests.wire.requests import NOW, URL, envelope

EVERYTHING = {
    "Content-Type": "text/plain",
    "Upstash-Method": "PUT",
    "Upstash-Forward-x-user": "17",
    "Upstash-Delay": "10s",
    "Upstash-Retries": "5",
    "Upstash-Retry-Delay": "1000 * retried",
    "Upstash-Timeout": "30s",
    "Upstash-Callback": "https://a.example",
    "Upstash-Callback-Forward-X-Key": "k",
    "Upstash-Failure-Callback": "https://b.example",
    "Upstash-Flow-Control-Key": "mail",
    "Upstash-Flow-Control-Value": "parallelism=2, rate=3, period=1m",
    "Upstash-Label": "first, second",
}


def hashed(text: str) -> str:
    return f"REDACTED:{sha256(text.encode()).hexdigest()}"


def event(
    state: State, detail: str = "{}", headers: dict[str, str] | None = None, body: bytes = b"hi"
) -> dict[str, Any]:
    description = to_json(message_json(envelope(headers or {}, body=body), "msg_1")).decode()
    return event_json(LogEntry("msg_1", "t", state, NOW + 5, detail), description)


def test_a_message_has_its_fields_in_the_order_of_the_reference() -> None:
    """Those that do not apply are left out."""
    shown = message_json(envelope(EVERYTHING, body=b"hi"), "msg_1")
    assert list(shown.items()) == [
        ("messageId", "msg_1"),
        ("url", URL),
        ("method", "PUT"),
        ("maxRetries", 5),
        ("notBefore", NOW + 10_000),
        ("createdAt", NOW),
        ("header", {"Content-Type": ["text/plain"], "X-User": ["17"]}),
        ("body", "hi"),
        ("callback", "https://a.example"),
        ("failureCallback", "https://b.example"),
        ("callbackHeader", {"Upstash-Retries": ["5"], "Upstash-Forward-X-Key": ["k"]}),
        ("failureCallbackHeader", {"Upstash-Retries": ["5"]}),
        ("retryDelayExpression", "1000 * retried"),
        ("timeout", 30),
        ("flowControlKey", "mail"),
        ("parallelism", 2),
        ("rate", 3),
        ("period", 60),
        ("label", "first"),
        ("labels", ["first", "second"]),
    ]


def test_a_message_of_a_run_names_it() -> None:
    """With the time at which it began, and the kind of the message."""
    part = RunPart(run="wfr_1", url=URL, created_at=NOW - 5, call_type="fromCallback")
    shown = message_json(replace(envelope({}), run=part), "msg_1")
    assert list(shown.items())[-4:] == [
        ("workflowRunId", "wfr_1"),
        ("workflowUrl", URL),
        ("workflowCreatedAt", NOW - 5),
        ("callType", "fromCallback"),
    ]


def test_the_python_sdk_reads_a_message() -> None:
    """With everything and with nothing."""
    full = parse_message_response(message_json(envelope(EVERYTHING, body=b"hi"), "msg_1"))
    assert (full.message_id, full.max_retries, full.body, full.label) == ("msg_1", 5, "hi", "first")
    assert full.flow_control is not None
    assert (full.flow_control.key, full.flow_control.rate, full.flow_control.period) == ("mail", 3, 60)
    bare = parse_message_response(message_json(envelope(), "msg_1"))
    assert (bare.not_before, bare.created_at, bare.body, bare.flow_control) == (NOW, NOW, "", None)


def test_a_period_is_shown_as_one_second_unless_it_was_given() -> None:
    """And a limit that was not given is left out."""
    shown = message_json(
        envelope({"Upstash-Flow-Control-Key": "k", "Upstash-Flow-Control-Value": "parallelism=5"}), "msg_1"
    )
    assert {name: shown.get(name) for name in ("parallelism", "rate", "period")} == {
        "parallelism": 5,
        "rate": None,
        "period": 1,
    }


def test_a_body_that_is_not_text_is_shown_in_base64() -> None:
    """In a field of its own."""
    shown = message_json(envelope(body=b"\xff\x00"), "msg_1")
    assert (shown.get("body"), shown["bodyBase64"]) == (None, "/wA=")


def test_redacted_parts_are_shown_as_hashes() -> None:
    """The headers of callbacks that forward the same too."""
    headers = {
        "Upstash-Redact-Fields": "body,header[X-KEY]",
        "Upstash-Forward-X-Key": "secret",
        "Upstash-Forward-X-User": "17",
        "Upstash-Callback": "https://a.example",
        "Upstash-Callback-Forward-X-Key": "other",
    }
    shown = message_json(envelope(headers, body=b"hi"), "msg_1")
    assert shown["body"] == hashed("hi")
    assert shown["header"] == {"X-Key": [hashed("secret")], "X-User": ["17"]}
    assert shown["callbackHeader"] == {"Upstash-Retries": ["3"], "Upstash-Forward-X-Key": [hashed("other")]}
    everything = message_json(envelope({**headers, "Upstash-Redact-Fields": "header"}, body=b"hi"), "msg_1")
    assert everything["header"] == {"X-Key": [hashed("secret")], "X-User": [hashed("17")]}
    assert everything["body"] == "hi"


def test_the_event_of_a_new_post_has_its_message() -> None:
    """The body in base64."""
    shown = event("CREATED", "not read: it is the description", EVERYTHING)
    assert list(shown)[:4] == ["time", "messageId", "state", "url"]
    assert (shown["time"], shown["state"], shown["body"]) == (NOW + 5, "CREATED", "aGk=")
    assert shown["retryDelayExpr"] == shown["retryDelayExpression"] == "1000 * retried"
    assert shown["callbackHeaders"] == {"Upstash-Retries": ["5"], "Upstash-Forward-X-Key": ["k"]}
    assert shown["labels"] == ["first", "second"]


def test_an_event_of_an_attempt_has_the_response_the_error_and_the_next_time() -> None:
    """As far as there are any."""
    detail = response_detail(
        500, (("content-type", "text/plain"), ("set-cookie", "a"), ("Set-Cookie", "b")), b"no", error="answered 500"
    )
    shown = event("ERROR", detail)
    assert shown["error"] == "answered 500"
    assert shown["responseStatus"] == 500
    assert shown["responseHeader"] == {"Content-Type": ["text/plain"], "Set-Cookie": ["a", "b"]}
    assert shown["responseBody"] == "no"
    assert event("RETRY", response_detail(next_delivery=NOW + 9))["nextDeliveryTime"] == NOW + 9
    assert from_json(response_detail(200, body=b"\xff"))["responseBodyBase64"] == "/w=="
    assert response_detail() == "{}"


def test_the_hash_of_a_redacted_body_is_not_encoded_in_an_event() -> None:
    """And a body of bytes is encoded once."""
    assert event("ACTIVE", headers={"Upstash-Redact-Fields": "body"})["body"] == hashed("hi")
    assert event("ACTIVE", body=b"\xff")["body"] == b64encode(b"\xff").decode()


def test_the_python_sdk_reads_an_event() -> None:
    """Of every kind."""
    detail = response_detail(500, (("content-type", "text/plain"),), b"no", error="answered 500")
    created, failed = parse_logs_response([event("CREATED", headers=EVERYTHING), event("FAILED", detail)])
    assert (created.state, created.body_base64, created.timeout) == (LogState.CREATED, "aGk=", 30)
    assert (failed.state, failed.response_status, failed.response_body) == (LogState.FAILED, 500, "no")
    assert created.retry_delay_expression == "1000 * retried"


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("content-type", "Content-Type"),
        ("upstash-workflow-runid", "Upstash-Workflow-Runid"),
        ("X-API-KEY", "X-Api-Key"),
        ("etag", "Etag"),
        ("x--1a", "X--1a"),
        ("not a name", "not a name"),
        ("größe", "größe"),
    ],
)
def test_names_of_headers_are_written_as_go_writes_them(name: str, canonical: str) -> None:
    """SDKs look them up by these."""
    assert canonical_name(name) == canonical
