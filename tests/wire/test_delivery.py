"""The headers of a delivery."""

from dataclasses import replace

from batchflow.wire.delivery import delivery_headers
from tests.wire.requests import envelope


def test_a_delivery_says_which_post_it_is_and_how_often_it_was_tried() -> None:
    """Beside what was forwarded, whose names stay as they are."""
    pushed = envelope({"Content-Type": "text/plain", "Upstash-Forward-x-User": "17"})
    assert delivery_headers(pushed, "msg_1", 2) == (
        ("Content-Type", "text/plain"),
        ("Upstash-Message-Id", "msg_1"),
        ("Upstash-Retried", "2"),
        ("Upstash-Retries", "2"),
        ("Upstash-Max-Retries", "3"),
        ("User-Agent", "Upstash-QStash"),
        ("x-User", "17"),
    )


def test_a_delivery_echoes_the_settings_that_apply() -> None:
    """Limits without spaces, the period in seconds."""
    pushed = envelope(
        {
            "Upstash-Retry-Delay": "1000",
            "Upstash-Flow-Control-Key": "mail",
            "Upstash-Flow-Control-Value": "rate=3, period=1m",
            "Upstash-Label": "a, b",
        }
    )
    sent = dict(delivery_headers(replace(pushed, schedule_id="scd_1", topic="g", caller_ip="::1"), "msg_1", 0))
    assert {
        name: value for name, value in sent.items() if name not in dict(delivery_headers(envelope(), "msg_1", 0))
    } == {
        "Upstash-Retry-Delay": "1000",
        "Upstash-Schedule-Id": "scd_1",
        "Upstash-Topic-Name": "g",
        "Upstash-Caller-Ip": "::1",
        "Upstash-Flow-Control-Key": "mail",
        "Upstash-Flow-Control-Value": "rate=3,period=60",
        "Upstash-Label": "a,b",
    }


def test_no_forwarded_header_stands_beside_one_of_the_engine() -> None:
    """Only the agent may be another one."""
    pushed = envelope(
        {
            "Upstash-Forward-user-agent": "mine",
            "Upstash-Forward-upstash-max-retries": "9",
            "Upstash-Forward-Region": "x",
        }
    )
    sent = delivery_headers(pushed, "msg_1", 0)
    names = [name.lower() for name, _ in sent]
    assert len(names) == len(set(names))
    assert dict(sent)["user-agent"] == "mine"
    assert dict(sent)["Upstash-Max-Retries"] == "3"
