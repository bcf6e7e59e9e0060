"""Callbacks: who is told of the outcome of a post, by which post, and with which bytes."""

import json
from base64 import b64decode
from itertools import count
from typing import Any

from pydantic_core import from_json

from batchflow.core.posts import Post
from batchflow.wire.callbacks import Outcome, callback_posts
from batchflow.wire.envelope import Envelope
from batchflow.wire.messages import message_json
from tests.wire.requests import NOW, URL, envelope

TOLD = {
    "Content-Type": "text/plain",
    "Upstash-Forward-x-user": "17",
    "Upstash-Retries": "5",
    "Upstash-Callback": "https://a.example",
    "Upstash-Callback-Retries": "1",
    "Upstash-Callback-Forward-X-Key": "k",
    "Upstash-Failure-Callback": "https://b.example",
}
HEADERS = (("content-type", "text/html"), ("x-a", "1"), ("X-A", "2"))
ANSWER = Outcome(status=200, headers=HEADERS, body="<ü>".encode(), retried=2)


def told(source: Envelope, outcome: Outcome) -> list[tuple[Post, Envelope]]:
    numbers = count(2)
    posts = callback_posts(source, "msg_1", outcome, now=NOW + 50, new_id=lambda: f"msg_{next(numbers)}")
    return [(post, Envelope.of_text(post.message.body)) for post in posts]


def body_of(pushed: Envelope) -> dict[str, Any]:
    return from_json(pushed.body.content)


def test_a_callback_shows_nothing_of_what_is_redacted() -> None:
    """Its body repeats the request and is redacted, too; its receiver gets it as it is."""
    source = envelope({**TOLD, "Upstash-Redact-Fields": "header[x-key]"}, body=b"hi")
    ((_, pushed),) = told(source, ANSWER)
    shown = message_json(pushed, "msg_2")
    assert shown["body"].startswith("REDACTED:")
    assert shown["header"]["X-Key"][0].startswith("REDACTED:")
    assert pushed.headers == (("x-key", "k"),)
    assert body_of(pushed)["sourceHeader"]["X-User"] == ["17"]
    ((_, open_one),) = told(envelope(TOLD, body=b"hi"), ANSWER)
    assert "REDACTED" not in message_json(open_one, "msg_2")["body"]


def test_a_callback_is_a_post_of_its_own() -> None:
    """With its own id and settings, of the same tenant, in no queue."""
    ((post, pushed),) = told(envelope(TOLD, body=b"hi"), ANSWER)
    assert (post.message.id, post.tenant, post.queue, post.dedup) == ("msg_2", "t", None, None)
    assert (pushed.url, pushed.content_type, pushed.callback_of) == ("https://a.example", "application/json", "msg_1")
    assert (pushed.retries, pushed.headers, pushed.created_at) == (1, (("x-key", "k"),), NOW + 50)
    assert from_json(post.description)["messageId"] == "msg_2"


def test_the_body_of_a_callback_has_the_request_and_the_response() -> None:
    """Names of headers are canonical, bodies in base64."""
    ((_, pushed),) = told(envelope(TOLD, body=b"hi"), ANSWER)
    body = body_of(pushed)
    assert b64decode(body["body"]).decode() == "<ü>"
    assert body == {
        "status": 200,
        "header": {"Content-Type": ["text/html"], "X-A": ["1", "2"]},
        "body": "PMO8Pg==",
        "retried": 2,
        "maxRetries": 5,
        "sourceMessageId": "msg_1",
        "url": URL,
        "method": "POST",
        "sourceHeader": {"Content-Type": ["text/plain"], "X-User": ["17"]},
        "sourceBody": "aGk=",
        "notBefore": NOW,
        "createdAt": NOW,
    }


def test_a_failure_is_told_to_both_and_only_the_failure_callback_has_the_dead_letter() -> None:
    """Each with its retries: those of the message by default."""
    failed = Outcome(status=404, retried=5, dlq_id="msg_1")
    (_, callback), (_, failure) = told(envelope(TOLD), failed)
    assert (callback.url, callback.retries, body_of(callback).get("dlqId")) == ("https://a.example", 1, None)
    assert (failure.url, failure.retries, body_of(failure)["dlqId"]) == ("https://b.example", 5, "msg_1")
    assert told(envelope(), failed) == []


def test_the_callback_of_a_group_names_the_group_and_the_endpoint() -> None:
    """And the schedule and the address of the sender, where there are any."""
    source = Envelope(
        url=URL,
        tenant="t",
        created_at=NOW,
        topic="group",
        endpoint="first",
        schedule_id="scd_1",
        caller_ip="10.0.0.1",
        callback=envelope(TOLD).callback,
    )
    ((_, pushed),) = told(source, ANSWER)
    body = body_of(pushed)
    assert [body[name] for name in ("topicName", "endpointName", "scheduleId", "callerIP")] == [
        *("group", "first", "scd_1", "10.0.0.1")
    ]


def test_a_failed_callback_calls_its_own_failure_callback() -> None:
    """That is how a chain of them ends."""
    headers = {
        "Upstash-Callback": "https://a.example",
        "Upstash-Callback-Failure-Callback": "https://c.example",
        "Upstash-Callback-Failure-Callback-Retries": "0",
    }
    ((post, callback),) = told(envelope(headers), ANSWER)
    ((_, failure),) = told(callback, Outcome(status=500, retried=3, dlq_id=post.message.id))
    assert (failure.url, failure.retries, body_of(failure)["url"]) == ("https://c.example", 0, "https://a.example")


def test_a_body_is_written_byte_for_byte_as_javascript_writes_it() -> None:
    """Compact and without escapes: express writes the body again before it verifies the signature."""
    source = envelope({"Upstash-Callback": "https://a.example", "Upstash-Forward-X-Name": 'Jürgen \u2028 "😀" \\ /'})
    ((_, pushed),) = told(source, ANSWER)
    text = pushed.body.content.decode()
    assert text == json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":"))
    assert 'Jürgen \u2028 \\"😀\\" \\\\ /' in text
