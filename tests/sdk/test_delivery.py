"""Deliveries as a receiver sees them: retries, callbacks, limits, signatures; published by the official Python SDK."""

import base64
import json
import threading
import time
from typing import Any

import pytest
from qstash import Receiver as Verifier
from qstash.errors import SignatureError
from qstash.message import FlowControl

from tests.sdk.receiver import Answer, Received
from tests.sdk.stage import Stage, message_id
from tests.waiting import wait_until_sync

GO = {"Retry-After": "0"}


def test_a_failed_delivery_is_repeated_after_retry_after(stage: Stage) -> None:
    """As seconds; each attempt says how many were before it, and is signed anew."""
    endpoint = stage.receiver.endpoint(Answer(500, b"no", {"Retry-After": "1"}), Answer(429, b"", GO), Answer(200))
    began = time.monotonic()
    id = message_id(stage.client.message.publish_json(url=endpoint.url, body={"a": 1}))

    received = endpoint.first(3)

    assert time.monotonic() - began >= 1
    assert [it.retried for it in received] == [0, 1, 2]
    assert {it.message_id for it in received} == {id}
    assert {it.body for it in received} == {b'{"a": 1}'}
    assert len({it.headers["upstash-signature"] for it in received}) == 3
    stage.wait_for_state(id, "DELIVERED")
    assert stage.states(id) == [
        *("CREATED", "ACTIVE", "ERROR", "RETRY", "ACTIVE", "ERROR", "RETRY", "ACTIVE", "DELIVERED"),
    ]


def test_a_retry_delay_expression_decides_the_wait(stage: Stage) -> None:
    """In ms, by the number of retries so far."""
    endpoint = stage.receiver.endpoint(Answer(500), Answer(500), Answer(200))
    began = time.monotonic()
    stage.client.message.publish(url=endpoint.url, retries=2, retry_delay="200 * (1 + retried)")
    endpoint.first(3)
    assert 0.6 <= time.monotonic() - began < 10


def test_used_up_retries_are_a_dead_letter(stage: Stage) -> None:
    """With the last response; the failure callback has it too."""
    endpoint = stage.receiver.endpoint(Answer(503, b"broken \xff", {"X-Reason": "a", **GO}))
    failure, callback = stage.receiver.endpoint(), stage.receiver.endpoint()
    id = message_id(
        stage.client.message.publish_json(
            url=endpoint.url, body={"a": 1}, retries=1, callback=callback.url, failure_callback=failure.url
        )
    )

    told = outcome(failure.only())

    assert [it.retried for it in endpoint.received] == [0, 1]
    assert (told["status"], told["body"], told["header"]["X-Reason"]) == (503, b"broken \xff", ["a"])
    assert (told["sourceMessageId"], told["url"], told["method"]) == (id, endpoint.url, "POST")
    assert (told["sourceBody"], told["sourceHeader"]["Content-Type"]) == (b'{"a": 1}', ["application/json"])
    assert (told["retried"], told["maxRetries"]) == (1, 1)
    letter = stage.client.dlq.get(told["dlqId"])
    assert (letter.message_id, letter.response_status, letter.url) == (id, 503, endpoint.url)
    assert base64.b64decode(letter.response_body_base64 or "") == b"broken \xff"
    assert letter.response_headers is not None
    assert letter.response_headers["X-Reason"] == ["a"]
    assert stage.states(id)[-1] == "FAILED"


def test_a_callback_tells_of_a_delivery(stage: Stage) -> None:
    """With the response and the source; its own headers configure it, and it is repeated as any message is."""
    endpoint = stage.receiver.endpoint(Answer(201, "größer".encode(), {"Content-Type": "text/plain", "X-Two": "b"}))
    callback, failure = stage.receiver.endpoint(Answer(500, b"", GO), Answer(200)), stage.receiver.endpoint()
    id = message_id(
        stage.client.message.publish(
            url=endpoint.url,
            body="the source",
            content_type="text/x-source",
            callback=callback.url,
            failure_callback=failure.url,
            callback_headers={"Forward-X-Mine": "mine", "Method": "PUT"},
        )
    )

    first, second = callback.first(2)
    told = outcome(second)

    assert (first.method, first.headers["x-mine"], first.headers["content-type"]) == ("PUT", "mine", "application/json")
    assert (first.message_id, first.body) == (second.message_id, second.body)
    assert first.message_id != id
    assert (told["status"], told["body"], told["header"]["X-Two"]) == (201, "größer".encode(), ["b"])
    assert (told["sourceMessageId"], told["sourceBody"]) == (id, b"the source")
    assert told["sourceHeader"]["Content-Type"] == ["text/x-source"]
    assert (told["maxRetries"], told["url"]) == (3, endpoint.url)
    assert "dlqId" not in told
    assert failure.received == []


def test_a_nonretryable_answer_ends_the_message(stage: Stage) -> None:
    """489 with its header: no retry, a dead letter at once. 489 without it is repeated."""
    ends = stage.receiver.endpoint(Answer(489, b"never", {"Upstash-NonRetryable-Error": "true", **GO}))
    repeated = stage.receiver.endpoint(Answer(489, b"", GO), Answer(200))
    id = message_id(stage.client.message.publish(url=ends.url))
    stage.client.message.publish(url=repeated.url)

    stage.wait_for_state(id, "FAILED")
    (letter,) = stage.client.dlq.list(filter={"message_id": id}).messages

    assert (letter.response_status, letter.response_body) == (489, "never")
    assert len(ends.received) == 1
    assert len(repeated.first(2)) == 2


def test_a_slow_receiver_is_given_up_after_the_timeout(stage: Stage) -> None:
    """The attempt has failed, and is repeated."""
    endpoint = stage.receiver.endpoint(Answer(held=threading.Event()), Answer(200))
    id = message_id(stage.client.message.publish(url=endpoint.url, timeout=1, retry_delay="0"))
    assert [it.retried for it in endpoint.first(2)] == [0, 1]
    stage.wait_for_state(id, "DELIVERED")
    assert "ERROR" in stage.states(id)


def test_a_redirect_is_a_failure(stage: Stage) -> None:
    """It is not followed."""
    target = stage.receiver.endpoint()
    endpoint = stage.receiver.endpoint(Answer(307, b"", {"Location": target.url}))
    id = message_id(stage.client.message.publish(url=endpoint.url, retries=0))
    stage.wait_for_state(id, "FAILED")
    assert target.received == []


def test_a_receiver_that_is_not_there_is_a_dead_letter(stage: Stage) -> None:
    """With the error in the log."""
    id = message_id(stage.client.message.publish(url="http://127.0.0.1:1/nobody", retries=0))
    stage.wait_for_state(id, "FAILED")
    assert any(log.error for log in stage.client.log.list(filter={"message_id": id}).logs)
    assert len(stage.client.dlq.list(filter={"message_id": id}).messages) == 1


def test_the_signature_is_verified_by_the_receiver_of_the_sdk(stage: Stage) -> None:
    """With the body, the URL and either key; nothing else is."""
    endpoint = stage.receiver.endpoint(query="?a=1")
    body = json.dumps({"text": "ü"})
    stage.client.message.publish(url=endpoint.url, body=body)
    signature = endpoint.only().headers["upstash-signature"]
    keys = stage.client.signing_key.get()

    Verifier(keys.current, keys.next).verify(signature=signature, body=body, url=endpoint.url)
    Verifier("sig_old", keys.current).verify(signature=signature, body=body)

    with pytest.raises(SignatureError):
        Verifier(keys.current, keys.next).verify(signature=signature, body=body + " ", url=endpoint.url)
    with pytest.raises(SignatureError):
        Verifier(keys.current, keys.next).verify(signature=signature, body=body, url=endpoint.url + "&b=2")
    with pytest.raises(SignatureError):
        Verifier("sig_a", "sig_b").verify(signature=signature, body=body, url=endpoint.url)


def test_callbacks_and_retries_are_signed(stage: Stage) -> None:
    """For their own URL and body."""
    endpoint = stage.receiver.endpoint(Answer(500, b"", GO), Answer(200, b"done"))
    callback = stage.receiver.endpoint()
    stage.client.message.publish(url=endpoint.url, body="x", callback=callback.url)
    for received, url in ((callback.only(), callback.url), *((it, endpoint.url) for it in endpoint.first(2))):
        stage.verify(received, url)


def test_a_parallelism_of_one_delivers_one_after_the_other(stage: Stage) -> None:
    """To whichever URL: the limit is that of the key."""
    held = threading.Event()
    endpoint = stage.receiver.endpoint(Answer(held=held), Answer())
    flow_control: FlowControl = {"key": stage.name("flow"), "parallelism": 1}
    for number in range(5):
        stage.client.message.publish(url=endpoint.url, body=str(number), flow_control=flow_control)
    endpoint.first(1)
    info = stage.client.flow_control.get(stage.name("flow"))
    assert (info.parallelism_max, info.parallelism_count, info.wait_list_size) == (1, 1, 4)
    held.set()
    endpoint.first(5)
    assert endpoint.most_under_way == 1


def test_a_rate_lets_all_of_its_messages_go_at_once(stage: Stage) -> None:
    """The next one goes when the period has a place for it again."""
    endpoint = stage.receiver.endpoint()
    flow_control: FlowControl = {"key": stage.name("flow"), "rate": 3, "period": "9s"}
    for _ in range(4):
        stage.client.message.publish(url=endpoint.url, flow_control=flow_control)
    first, _, third, fourth = (received.at for received in endpoint.first(4))
    assert third - first < 2_000 < fourth - first


def test_a_queue_keeps_its_order_over_retries(stage: Stage) -> None:
    """A message that fails holds its place until it is delivered."""
    endpoint = stage.receiver.endpoint(Answer(), Answer(500, b"", {"Retry-After": "1"}), Answer(500, b"", GO), Answer())
    queue = stage.name("queue")
    for number in range(4):
        stage.client.message.enqueue(queue=queue, url=endpoint.url, body=str(number))
    assert [it.body for it in endpoint.first(6)] == [b"0", b"1", b"1", b"1", b"2", b"3"]
    assert endpoint.most_under_way == 1
    wait_until_sync(lambda: stage.client.queue.get(queue).lag == 0, description="the queue is empty")


def test_a_queue_waits_for_the_callback_of_a_message(stage: Stage) -> None:
    """The next message begins when the callback has ended."""
    held = threading.Event()
    endpoint, callback = stage.receiver.endpoint(), stage.receiver.endpoint(Answer(held=held), Answer())
    queue = stage.name("queue")
    for number in range(2):
        stage.client.message.enqueue(queue=queue, url=endpoint.url, body=str(number), callback=callback.url)
    callback.first(1)
    assert [it.body for it in endpoint.received] == [b"0"]
    held.set()
    assert [it.body for it in endpoint.first(2)] == [b"0", b"1"]
    callback.first(2)


def test_a_message_whose_retries_are_used_up_frees_its_queue(stage: Stage) -> None:
    """The next one begins."""
    endpoint = stage.receiver.endpoint(Answer(500), Answer(200))
    queue = stage.name("queue")
    for number in range(2):
        stage.client.message.enqueue(queue=queue, url=endpoint.url, body=str(number), retries=0)
    assert [it.body for it in endpoint.first(2)] == [b"0", b"1"]


def outcome(received: Received) -> dict[str, Any]:
    """The body of a callback, with what is base64 in it as bytes."""
    told: dict[str, Any] = json.loads(received.body)
    return {**told, **{name: base64.b64decode(told[name]) for name in ("body", "sourceBody")}}
