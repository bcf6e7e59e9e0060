"""Flow control by the official Python SDK."""

import threading

import pytest
from qstash.errors import QStashError

from tests.sdk.receiver import Answer
from tests.sdk.stage import Stage


def test_a_flow_key_is_known_from_its_first_message(stage: Stage) -> None:
    """With the limits of that message."""
    key = stage.name("flow")
    with pytest.raises(QStashError, match="status: 404"):
        stage.client.flow_control.get(key)
    stage.client.message.publish(
        url=stage.receiver.endpoint().url, flow_control={"key": key, "parallelism": 4, "rate": 9, "period": "1m"}
    )
    info = stage.client.flow_control.get(key)
    assert (info.key, info.parallelism_max, info.rate_max, info.rate_period) == (key, 4, 9, 60)
    assert (info.is_paused, info.is_pinned_parallelism, info.is_pinned_rate) == (False, False, False)


def test_a_paused_flow_key_delivers_nothing_until_it_is_resumed(stage: Stage) -> None:
    """Its messages wait meanwhile."""
    key, endpoint, last = stage.name("flow"), stage.receiver.endpoint(), stage.receiver.endpoint()
    flow = stage.client.flow_control
    flow.pause(key)
    stage.client.message.publish(url=endpoint.url, flow_control={"key": key, "parallelism": 1})
    stage.client.message.publish(url=last.url)
    last.only()
    info = flow.get(key)
    assert (info.is_paused, info.wait_list_size, endpoint.received) == (True, 1, [])
    flow.resume(key)
    endpoint.only()
    assert not flow.get(key).is_paused


def test_pinned_limits_are_not_changed_by_messages(stage: Stage) -> None:
    """Parallelism and rate are pinned and unpinned apart."""
    key, flow = stage.name("flow"), stage.client.flow_control

    def publish() -> None:
        stage.client.message.publish(
            url=stage.receiver.endpoint().url, flow_control={"key": key, "parallelism": 4, "rate": 9, "period": 60}
        )

    def limits() -> tuple[int, int, int]:
        info = flow.get(key)
        return info.parallelism_max, info.rate_max, info.rate_period

    publish()
    flow.pin(key, {"parallelism": 7, "rate": 8, "period": 120})
    publish()
    info = flow.get(key)
    assert (limits(), info.is_pinned_parallelism, info.is_pinned_rate) == ((7, 8, 120), True, True)
    flow.unpin(key, {"parallelism": True})
    info = flow.get(key)
    assert (info.is_pinned_parallelism, info.is_pinned_rate) == (False, True)
    publish()
    assert limits() == (4, 8, 120)
    flow.unpin(key, {"rate": True})
    publish()
    assert limits() == (4, 9, 60)


def test_a_reset_rate_begins_a_new_period(stage: Stage) -> None:
    """What waits for the period to end is delivered at once."""
    key, endpoint = stage.name("flow"), stage.receiver.endpoint()
    for _ in range(2):
        stage.client.message.publish(url=endpoint.url, flow_control={"key": key, "rate": 1, "period": "1h"})
    endpoint.first(1)
    stage.client.flow_control.reset_rate(key)
    endpoint.first(2)


def test_the_global_parallelism_is_told(stage: Stage) -> None:
    """The number of deliveries under way; 0 as the most says that there is no limit."""
    held = threading.Event()
    endpoint = stage.receiver.endpoint(Answer(held=held))
    stage.client.message.publish(url=endpoint.url)
    endpoint.first(1)
    info = stage.client.flow_control.get_global_parallelism()
    held.set()
    assert (info.parallelism_max, info.parallelism_count > 0) == (0, True)
