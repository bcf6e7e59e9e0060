"""Queues by the official Python SDK."""

import json
from typing import Any

import pytest
from qstash.errors import QStashError

from tests.sdk.stage import Stage, message_id
from tests.waiting import wait_until_sync


def test_a_queue_is_made_changed_and_deleted(stage: Stage) -> None:
    """And listed with the others."""
    name, queues = stage.name("queue"), stage.client.queue
    queues.upsert(name, parallelism=2)
    made = queues.get(name)
    queues.upsert(name, parallelism=5, paused=True)
    changed = queues.get(name)

    assert (made.name, made.parallelism, made.paused, made.lag) == (name, 2, False, 0)
    assert (changed.parallelism, changed.paused, changed.created_at) == (5, True, made.created_at)
    assert changed.updated_at >= made.updated_at
    assert changed in queues.list()
    queues.delete(name)
    with pytest.raises(QStashError, match="status: 404"):
        queues.get(name)
    assert name not in [it.name for it in queues.list()]


def test_a_paused_queue_delivers_nothing_until_it_is_resumed(stage: Stage) -> None:
    """It accepts messages meanwhile."""
    name, queues = stage.name("queue"), stage.client.queue
    endpoint, last = stage.receiver.endpoint(), stage.receiver.endpoint()
    queues.upsert(name)
    queues.pause(name)
    assert queues.get(name).paused
    for number in range(3):
        stage.client.message.enqueue_json(queue=name, url=endpoint.url, body=number)
    stage.client.message.publish(url=last.url)
    last.only()
    assert (endpoint.received, queues.get(name).lag) == ([], 3)

    queues.resume(name)

    assert [json.loads(it.body) for it in endpoint.first(3)] == [0, 1, 2]
    wait_until_sync(lambda: queues.get(name).lag == 0, description="the queue is empty")


def test_a_message_of_a_deleted_queue_is_dropped(stage: Stage) -> None:
    """It is cancelled."""
    name = stage.name("queue")
    stage.client.queue.upsert(name, paused=True)
    endpoint = stage.receiver.endpoint()
    id = message_id(stage.client.message.enqueue(queue=name, url=endpoint.url))
    stage.client.queue.delete(name)
    stage.wait_for_state(id, "CANCELED")
    assert endpoint.received == []


def test_enqueue_takes_every_option(stage: Stage) -> None:
    """And makes the queue."""
    name, endpoint, callback = stage.name("queue"), stage.receiver.endpoint(), stage.receiver.endpoint()
    options: dict[str, Any] = {"url": endpoint.url, "queue": name, "deduplication_id": stage.name("once")}
    first = stage.client.message.enqueue(
        **options,
        body="text",
        content_type="text/plain",
        method="PATCH",
        headers={"X-Test": "one"},
        callback_headers={"Forward-X-Callback": "two"},
        failure_callback_headers={"Forward-X-Failure": "three"},
        retries=1,
        retry_delay="1000",
        callback=callback.url,
        failure_callback=callback.url,
        timeout="30s",
        label=stage.name("label"),
        redact={"body": True},
    )
    second = stage.client.message.enqueue(**options, body="text")

    assert message_id(first) == message_id(second)
    received = endpoint.only()
    assert (received.method, received.body, received.headers["x-test"]) == ("PATCH", b"text", "one")
    message = stage.client.message.get(message_id(first))
    assert (message.queue, message.max_retries, message.label) == (name, 1, stage.name("label"))
    assert stage.client.queue.get(name).parallelism == 1
    assert callback.only().headers["x-callback"] == "two"


def test_a_queue_fans_out_to_a_url_group(stage: Stage) -> None:
    """One message for each URL."""
    name, group = stage.name("queue"), stage.name("group")
    one, two = stage.receiver.endpoint(), stage.receiver.endpoint()
    stage.client.url_group.upsert_endpoints(group, [{"url": one.url}, {"url": two.url}])
    answers = stage.client.message.enqueue_json(queue=name, url_group=group, body=[1])
    assert isinstance(answers, list)
    assert sorted(it.url for it in answers) == sorted([one.url, two.url])
    assert (one.only().body, two.only().body) == (b"[1]", b"[1]")
