"""The posts of publish requests: their messages, their keys and their descriptions."""

import pytest
from pydantic_core import from_json

from batchflow.core.call import Body
from batchflow.core.flow import FlowControl
from batchflow.core.posts import PUSH_DESTINATION, PUSH_FAILURE_DESTINATION
from batchflow.core.secrets import masked_text
from batchflow.wire.envelope import Envelope
from batchflow.wire.publish import HOST_PARALLELISM
from tests.wire.requests import NOW, URL, envelope, parsed, posts


def test_without_headers_a_post_is_delivered_at_once_and_retried_three_times_as_qstash_does() -> None:
    """12 s, 2 m 28 s, 30 m 8 s."""
    (post,) = posts(parsed())
    message = post.message
    assert (message.destination, message.on_failure, message.label) == (
        PUSH_DESTINATION,
        PUSH_FAILURE_DESTINATION,
        "t",
    )
    assert (message.id, message.not_before, post.dedup, post.queue) == ("msg_1", 0, None, None)
    assert message.retry is not None
    assert message.retry.retries == 3
    assert [message.retry.delay_ms(n) // 1000 for n in (1, 2, 3, 4, 5)] == [12, 148, 1808, 22026, 86400]
    assert Envelope.of_text(message.body) == Envelope(url=URL, tenant="t", created_at=NOW, not_before=NOW)
    # Most settings are not set: without them it has two thirds of its size.
    assert "null" not in message.body


def test_a_shown_message_has_none_of_what_its_sender_gave() -> None:
    """Commands show the bodies of messages: headers, bodies and URLs may be secret, and may be to be redacted."""
    secrets = {"Upstash-Forward-Authorization": "Bearer s3cret", "Upstash-Callback": "https://example.com/s3cret"}
    (post,) = posts(parsed(secrets, body=b"s3cret"))
    assert "s3cret" in post.message.body
    assert "s3cret" not in masked_text(post.message.body)


def test_retries_and_their_expression_make_the_policy() -> None:
    """A wait is at most one day."""
    (post,) = posts(parsed({"Upstash-Retries": "5", "Upstash-Retry-Delay": "pow(1000, retried)"}))
    assert post.message.retry is not None
    assert post.message.retry.retries == 5
    assert [post.message.retry.delay_ms(n) for n in (1, 2, 3, 4, 5)] == [1, 1000, 1_000_000, 86_400_000, 86_400_000]
    assert envelope({"Upstash-Retries": "0"}).retries == 0


@pytest.mark.parametrize(
    ("value", "parallelism", "rate", "period"),
    [
        ("parallelism=3, rate=4, period=2s", 3, 4, 2),
        ("rate=23,period=1h30m3s", None, 23, 5403),
        ("rate=1,period=60", None, 1, 60),
        ("parallelism=5", 5, None, 1),
    ],
)
def test_flow_control_is_windowed_under_a_key_of_the_tenant(
    value: str, parallelism: int | None, rate: int | None, period: int
) -> None:
    """All starts of a period may come at once."""
    request = parsed({"Upstash-Flow-Control-Key": "mail", "Upstash-Flow-Control-Value": value})
    found = request.envelope
    assert (found.flow_key, found.parallelism, found.rate, found.period_s) == ("mail", parallelism, rate, period)
    (post,) = posts(request)
    assert post.message.flow == FlowControl(
        key="qstash.t.mail", parallelism=parallelism, rate=rate, period=period, burst=rate or 1
    )


def test_without_flow_control_each_host_has_a_key_that_leaves_room_for_others() -> None:
    """A tenant cannot name it."""
    urls = ["https://user:pw@Example.com:8080/a", "https://example.com:8080/b", "http://[::1]/"]
    keys = [posts(parsed(to=url))[0].message.flow for url in urls]
    assert keys == [
        FlowControl(key="qstash-host.t.example.com.8080", parallelism=HOST_PARALLELISM),
        FlowControl(key="qstash-host.t.example.com.8080", parallelism=HOST_PARALLELISM),
        FlowControl(key="qstash-host.t....1.", parallelism=HOST_PARALLELISM),
    ]


def test_a_post_of_a_queue_waits_for_its_place() -> None:
    """The queue of the path, or of the header."""
    assert [post.queue for post in posts(parsed(queue="orders"))] == ["orders"]
    assert [post.queue for post in posts(parsed({"Upstash-Queue-Name": "orders"}))] == ["orders"]


def test_a_deduplication_id_is_of_its_tenant_and_wins_over_the_content() -> None:
    """The key of the store is unique over tenants."""
    headers = {"Upstash-Deduplication-Id": "order 7", "Upstash-Content-Based-Deduplication": "true"}
    assert [post.dedup for post in posts(parsed(headers))] == ["t:order 7"]


def test_content_based_deduplication_tells_destination_body_type_and_forwarded_headers_apart() -> None:
    """And nothing else; the Python SDK writes `True`."""
    on = {"Upstash-Content-Based-Deduplication": "True", "Upstash-Forward-A": "1", "Upstash-Forward-B": "2"}
    same = {**dict(reversed(on.items())), "Upstash-Retries": "1", "Upstash-Label": "x"}
    first = parsed(on, body=b"x").dedup
    assert first is not None
    assert parsed(same, body=b"x").dedup == first
    others = [
        parsed(on, body=b"y"),
        parsed({**on, "Content-Type": "text/plain"}, body=b"x"),
        parsed({**on, "Upstash-Forward-A": "2"}, body=b"x"),
        parsed(on, body=b"x", to="https://example.com/other"),
    ]
    assert len({first, *(it.dedup for it in others)}) == 5
    assert parsed({"Upstash-Content-Based-Deduplication": "false"}).dedup is None


def test_a_group_gets_a_post_for_each_endpoint() -> None:
    """Deduplicated one by one."""
    request = parsed({"Upstash-Deduplication-Id": "7"}, to="my-group")
    assert (request.is_group, request.destination, request.envelope.topic) == (True, "my-group", "my-group")
    found = posts(request, ("https://a.example", "first"), ("https://b.example", None))
    pushed = [Envelope.of_text(post.message.body) for post in found]
    assert [(it.url, it.topic, it.endpoint) for it in pushed] == [
        ("https://a.example", "my-group", "first"),
        ("https://b.example", "my-group", None),
    ]
    assert [post.message.id for post in found] == ["msg_1", "msg_2"]
    assert [post.dedup for post in found] == ["t:7\nhttps://a.example", "t:7\nhttps://b.example"]


def test_the_description_of_a_post_is_its_message_of_the_rest_api() -> None:
    """It is in the log from the beginning."""
    (post,) = posts(parsed({"Content-Type": "text/plain"}, body=b"hi"))
    assert from_json(post.description) == {
        "messageId": "msg_1",
        "url": URL,
        "method": "POST",
        "maxRetries": 3,
        "notBefore": NOW,
        "createdAt": NOW,
        "header": {"Content-Type": ["text/plain"]},
        "body": "hi",
    }


def test_a_body_of_any_bytes_is_pushed_as_it_is() -> None:
    """Text stays text."""
    assert envelope(body=b"\xff\x00").body == Body.of(b"\xff\x00")
    assert Envelope.of_text(posts(parsed(body=b"\xff\x00"))[0].message.body).body.content == b"\xff\x00"
