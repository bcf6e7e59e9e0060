"""Messages by the official Python SDK: published, enqueued, in a batch, read and cancelled."""

import base64
import hashlib
import json
import time
from typing import Any

import pytest
from qstash.chat import custom
from qstash.errors import QStashError
from qstash.http import HttpMethod
from qstash.message import BatchJsonRequest, BatchRequest, PublishResponse

from tests.sdk.receiver import Answer
from tests.sdk.stage import Stage, message_id
from tests.waiting import wait_until_sync


def test_a_published_body_arrives_byte_by_byte(stage: Stage) -> None:
    """With its content type, its headers and nothing of the request's own."""
    endpoint = stage.receiver.endpoint(query="?a=1&b=%2F&a=2")
    body = '{ "name":  "Zoë",\n"list": [1.0, 2e3] }'.encode()
    id = message_id(
        stage.client.message.publish(
            url=endpoint.url,
            body=body,
            content_type="application/json; charset=utf-8",
            headers={"X-Test": 'a, b; c="d"'},
        )
    )

    received = endpoint.only()

    assert (received.method, received.body) == ("POST", body)
    assert received.path.endswith("?a=1&b=%2F&a=2")
    assert received.headers["content-type"] == "application/json; charset=utf-8"
    assert received.headers["x-test"] == 'a, b; c="d"'
    assert received.headers["user-agent"] == "Upstash-QStash"
    assert (received.message_id, received.retried) == (id, 0)
    assert "authorization" not in received.headers
    assert not [name for name in received.headers if name.startswith("upstash-forward-")]


def test_binary_bodies_arrive_as_they_are(stage: Stage) -> None:
    """Bytes that are not UTF-8, and no body at all."""
    binary, empty = stage.receiver.endpoint(), stage.receiver.endpoint()
    body = bytes(range(256))
    id = message_id(stage.client.message.publish(url=binary.url, body=body, content_type="application/octet-stream"))
    stage.client.message.publish(url=empty.url)

    assert (binary.only().body, empty.only().body) == (body, b"")
    message = stage.client.message.get(id)
    assert (message.body, base64.b64decode(message.body_base64 or "")) == (None, body)


def test_publish_json_takes_every_option(stage: Stage) -> None:
    """All that the SDK can say about a message is found in the message, and in what is delivered."""
    endpoint = stage.receiver.endpoint()
    callback, failure = stage.receiver.endpoint(), stage.receiver.endpoint()
    sent = stage.client.message.publish_json(
        url=endpoint.url,
        body={"a": [1, None, "ü"]},
        method="PUT",
        headers={"X-Test": "one"},
        callback_headers={"Forward-X-Callback": "two"},
        failure_callback_headers={"Forward-X-Failure": "three"},
        retries=2,
        retry_delay="1000 * (1 + retried)",
        callback=callback.url,
        failure_callback=failure.url,
        delay="1s",
        timeout=30,
        flow_control={"key": stage.name("flow"), "parallelism": 3, "rate": 100, "period": "1h30m3s"},
        label=stage.name("label"),
    )
    message = stage.client.message.get(message_id(sent))

    assert (message.url, message.method, message.body) == (endpoint.url, "PUT", json.dumps({"a": [1, None, "ü"]}))
    assert (message.max_retries, message.retry_delay_expression) == (2, "1000 * (1 + retried)")
    assert (message.callback, message.failure_callback) == (callback.url, failure.url)
    assert message.headers is not None
    assert message.headers["X-Test"] == ["one"]
    assert message.headers["Content-Type"] == ["application/json"]
    assert message.not_before - message.created_at == 1000
    assert message.label == stage.name("label")
    assert message.flow_control is not None
    assert (message.flow_control.key, message.flow_control.parallelism) == (stage.name("flow"), 3)
    assert (message.flow_control.rate, message.flow_control.period) == (100, 5403)
    received = endpoint.only()
    assert (received.method, received.headers["x-test"]) == ("PUT", "one")
    assert json.loads(received.body) == {"a": [1, None, "ü"]}
    assert callback.only().headers["x-callback"] == "two"
    assert failure.received == []


def test_a_delayed_message_is_not_delivered_before_its_time(stage: Stage) -> None:
    """By a delay in seconds, and by a time."""
    delayed, dated = stage.receiver.endpoint(), stage.receiver.endpoint()
    began, date = time.time(), int(time.time()) + 2
    stage.client.message.publish(url=delayed.url, delay=1)
    stage.client.message.publish(url=dated.url, not_before=date)

    delayed.only()
    assert time.time() - began >= 1
    dated.only()
    assert time.time() >= date


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH"])
def test_each_method_is_delivered(stage: Stage, method: HttpMethod) -> None:
    """With its body."""
    endpoint = stage.receiver.endpoint()
    stage.client.message.publish(url=endpoint.url, method=method, body="text")
    assert (endpoint.only().method, endpoint.only().body) == (method, b"text")


def test_a_deduplication_id_publishes_once(stage: Stage) -> None:
    """The second answer has the first id."""
    endpoint, last = stage.receiver.endpoint(), stage.receiver.endpoint()
    ids = [
        stage.client.message.publish_json(url=endpoint.url, body=number, deduplication_id=stage.name("once"))
        for number in range(3)
    ]
    assert len({message_id(it) for it in ids}) == 1
    assert [it.deduplicated for it in ids if isinstance(it, PublishResponse)] == [False, True, True]
    stage.client.message.publish(url=last.url)
    last.only()
    assert [it.body for it in endpoint.received] == [b"0"]


def test_content_based_deduplication_compares_the_message(stage: Stage) -> None:
    """The same body to the same URL is published once, another body again."""
    endpoint = stage.receiver.endpoint()
    ids = [
        message_id(stage.client.message.publish_json(url=endpoint.url, body=body, content_based_deduplication=True))
        for body in ("a", "b", "a")
    ]
    assert ids[0] == ids[2] != ids[1]
    assert sorted(it.body for it in endpoint.first(2)) == [b'"a"', b'"b"']


def test_redacted_parts_are_shown_as_hashes_and_delivered_as_they_are(stage: Stage) -> None:
    """In the message and in the log."""
    endpoint = stage.receiver.endpoint()
    id = message_id(
        stage.client.message.publish(
            url=endpoint.url,
            body="secret body",
            headers={"X-Secret": "secret header", "X-Open": "open"},
            redact={"body": True, "header": ["X-Secret"]},
        )
    )

    received = endpoint.only()
    message = stage.client.message.get(id)

    assert (received.body, received.headers["x-secret"]) == (b"secret body", "secret header")
    assert message.body == f"REDACTED:{hashlib.sha256(b'secret body').hexdigest()}"
    assert message.headers is not None
    assert message.headers["X-Secret"] == [f"REDACTED:{hashlib.sha256(b'secret header').hexdigest()}"]
    assert message.headers["X-Open"] == ["open"]
    assert "secret" not in repr(stage.client.log.list(filter={"message_id": id})).replace("X-Secret", "")


def test_all_headers_are_redacted(stage: Stage) -> None:
    """With `header: True`."""
    endpoint = stage.receiver.endpoint()
    id = message_id(
        stage.client.message.publish(url=endpoint.url, headers={"X-Secret": "secret header"}, redact={"header": True})
    )
    assert endpoint.only().headers["x-secret"] == "secret header"
    headers = stage.client.message.get(id).headers
    assert headers is not None
    assert headers["X-Secret"][0].startswith("REDACTED:")


def test_a_batch_publishes_and_enqueues_all(stage: Stage) -> None:
    """To URLs, to a URL group and to a queue; the answers are in order."""
    one, two, queued = (stage.receiver.endpoint() for _ in range(3))
    group, queue = stage.name("group"), stage.name("queue")
    stage.client.url_group.upsert_endpoints(group, [{"url": one.url, "name": "one"}, {"url": two.url}])
    batch: list[BatchRequest] = [
        {"url": one.url, "body": "a", "headers": {"X-Number": "1"}, "retries": 0, "method": "PUT"},
        {"url_group": group, "body": "b", "content_type": "text/plain"},
        {"url": queued.url, "body": "c", "queue": queue},
    ]

    answers = stage.client.message.batch(batch)

    assert [len(answer) if isinstance(answer, list) else 1 for answer in answers] == [1, 2, 1]
    assert sorted((it.method, it.body) for it in one.first(2)) == [("POST", b"b"), ("PUT", b"a")]
    assert two.only().headers["upstash-topic-name"] == group
    assert queued.only().body == b"c"
    assert stage.client.queue.get(queue).name == queue


def test_batch_json_delivers_json(stage: Stage) -> None:
    """Objects, lists and null."""
    endpoint = stage.receiver.endpoint()
    bodies: list[object] = [{"a": 1}, [1, 2], None]
    batch: list[BatchJsonRequest] = [{"url": endpoint.url, "body": body} for body in bodies]
    assert len(stage.client.message.batch_json(batch)) == 3
    received = endpoint.first(3)
    assert {it.headers["content-type"] for it in received} == {"application/json"}
    assert sorted(it.body for it in received) == [b"[1, 2]", b"null", b'{"a": 1}']


def test_a_batch_with_a_wrong_item_publishes_nothing(stage: Stage) -> None:
    """The request is refused as a whole."""
    endpoint, last = stage.receiver.endpoint(), stage.receiver.endpoint()
    batch: list[BatchRequest] = [{"url": endpoint.url}, {"url": endpoint.url, "delay": "soon"}]
    with pytest.raises(QStashError, match="status: 400"):
        stage.client.message.batch(batch)
    stage.client.message.publish(url=last.url)
    last.only()
    assert endpoint.received == []


def test_a_cancelled_message_is_not_delivered(stage: Stage) -> None:
    """One, several and all; unknown ones do not count. What is cancelled is no longer there to be read."""
    endpoint, messages = stage.receiver.endpoint(), stage.client.message
    wait_until_sync(lambda: messages.cancel_all() == 0, description="nothing of other tests is open")
    ids = [message_id(messages.publish(url=endpoint.url, delay="1h")) for _ in range(5)]

    messages.cancel(ids[0])
    assert messages.cancel_many([ids[1], ids[2], "msg_unknown"]) == 2
    assert messages.cancel_all() == 2

    for id in ids:
        with pytest.raises(QStashError, match="status: 404"):
            messages.get(id)
        states = [log.state.value for log in stage.client.log.list(filter={"message_id": id}).logs]
        assert set(states) == {"CREATED", "CANCEL_REQUESTED", "CANCELED"}
    with pytest.raises(QStashError, match="status: 404"):
        messages.cancel("msg_unknown")
    assert messages.cancel_all() == 0
    assert stage.client.dlq.list(filter={"url": endpoint.url}).messages == []


def test_a_message_that_waits_for_its_retry_can_be_cancelled(stage: Stage) -> None:
    """It is not delivered again, and it is not a dead letter."""
    endpoint = stage.receiver.endpoint(Answer(500))
    id = message_id(stage.client.message.publish(url=endpoint.url, retry_delay="3600000"))
    endpoint.only()
    stage.wait_for_state(id, "RETRY")
    stage.client.message.cancel(id)
    stage.wait_for_state(id, "CANCELED")
    assert len(endpoint.received) == 1
    assert stage.client.dlq.list(filter={"message_id": id}).messages == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"delay": "soon"}, "Upstash-Delay"),
        ({"retry_delay": "oops("}, "Upstash-Retry-Delay"),
        ({"timeout": "never"}, "Upstash-Timeout"),
        ({"label": "not a label!"}, "Upstash-Label"),
    ],
)
def test_a_wrong_option_is_refused_with_its_header(stage: Stage, options: dict[str, Any], sentence: str) -> None:
    """As 400."""
    with pytest.raises(QStashError, match="status: 400") as caught:
        stage.client.message.publish(url=stage.receiver.url, **options)
    assert sentence.lower() in str(caught.value).lower()


def test_a_language_model_is_an_ordinary_destination(stage: Stage) -> None:
    """The SDK makes its URL, and forwards its token."""
    endpoint = stage.receiver.endpoint(suffix="/v1/chat/completions")
    provider = custom(endpoint.url, "the-token")
    stage.client.message.publish_json(api={"name": "llm", "provider": provider}, body={"model": "m"})
    received = endpoint.only()
    assert (received.headers["authorization"], received.body) == ("Bearer the-token", b'{"model": "m"}')
