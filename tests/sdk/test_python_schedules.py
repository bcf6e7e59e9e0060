"""Schedules by the official Python SDK."""

import json

import pytest
from qstash.errors import QStashError

from tests.sdk.stage import Stage


def test_a_schedule_takes_every_option(stage: Stage) -> None:
    """It is shown as it was made."""
    endpoint, id = stage.receiver.endpoint(), stage.name("schedule")
    created = stage.client.schedule.create_json(
        destination=endpoint.url,
        cron="CRON_TZ=Europe/Vienna 30 4 * * *",
        body={"a": 1},
        method="PUT",
        headers={"X-Test": "one"},
        callback_headers={"Forward-X-Callback": "two"},
        failure_callback_headers={"Forward-X-Failure": "three"},
        retries=2,
        retry_delay="1000 * (1 + retried)",
        callback="https://callback.example",
        failure_callback="https://failure.example",
        delay="10s",
        timeout="20s",
        schedule_id=id,
        flow_control={"key": stage.name("flow"), "parallelism": 2, "rate": 5, "period": 60},
        label=stage.name("label"),
    )
    schedule = stage.client.schedule.get(created)

    assert created == schedule.schedule_id == id
    assert (schedule.destination, schedule.cron) == (endpoint.url, "CRON_TZ=Europe/Vienna 30 4 * * *")
    assert (json.loads(schedule.body or ""), schedule.method, schedule.retries) == ({"a": 1}, "PUT", 2)
    assert schedule.headers is not None
    assert schedule.headers["X-Test"] == ["one"]
    assert schedule.retry_delay_expression == "1000 * (1 + retried)"
    assert (schedule.callback, schedule.failure_callback) == ("https://callback.example", "https://failure.example")
    assert (schedule.delay, schedule.timeout, schedule.paused) == (10, 20, False)
    assert schedule.label == stage.name("label")
    assert schedule.flow_control is not None
    assert (schedule.flow_control.key, schedule.flow_control.parallelism) == (stage.name("flow"), 2)
    assert (schedule.flow_control.rate, schedule.flow_control.period) == (5, 60)
    assert schedule.next_schedule_time is not None
    assert schedule.next_schedule_time > schedule.created_at
    stage.client.schedule.delete(id)


def test_a_schedule_is_changed_paused_resumed_and_deleted(stage: Stage) -> None:
    """The one with the same id is replaced."""
    schedules, endpoint = stage.client.schedule, stage.receiver.endpoint()
    id = schedules.create(destination=endpoint.url, cron="0 0 1 1 *", body="one", content_type="text/plain")
    assert schedules.create(destination=endpoint.url, cron="0 0 2 1 *", body="two", schedule_id=id) == id
    changed = schedules.get(id)
    assert (changed.cron, changed.body, changed.paused) == ("0 0 2 1 *", "two", False)
    assert [it.schedule_id for it in schedules.list()].count(id) == 1

    schedules.pause(id)
    assert schedules.get(id).paused
    schedules.resume(id)
    assert not schedules.get(id).paused
    schedules.delete(id)

    with pytest.raises(QStashError, match="status: 404"):
        schedules.get(id)
    assert id not in [it.schedule_id for it in schedules.list()]


def test_a_schedule_may_send_to_a_url_group_or_a_queue(stage: Stage) -> None:
    """It keeps both."""
    group, queue = stage.name("group"), stage.name("queue")
    stage.client.url_group.upsert_endpoints(group, [{"url": stage.receiver.url}])
    id = stage.client.schedule.create(destination=group, cron="0 0 1 1 *", queue=queue)
    schedule = stage.client.schedule.get(id)
    assert (schedule.destination, schedule.queue) == (group, queue)
    stage.client.schedule.delete(id)


def test_a_wrong_cron_is_refused(stage: Stage) -> None:
    """As 400."""
    with pytest.raises(QStashError, match="status: 400"):
        stage.client.schedule.create(destination=stage.receiver.url, cron="every day")
