"""Schedules of posts: what the store keeps of them, and what their fires start."""

from dataclasses import replace

import pytest

from batchflow.core.call import Body
from batchflow.core.posts import PUSH_SCHEDULE_DESTINATION
from batchflow.core.schedule import NewSchedule
from batchflow.core.secrets import masked_text
from batchflow.engine.push_schedules import PushSchedules, fired_request, new_schedule, schedule_request
from batchflow.errors import ConfigurationError, InputError
from batchflow.wire.envelope import CallbackTarget, Envelope
from batchflow.wire.publish import PublishRequest

ENVELOPE = Envelope(
    url="https://example.com/hook",
    tenant="acme",
    created_at=1_000,
    headers=(("X-User", "7"),),
    body=Body.of(b"\xff\x00"),
    callback=CallbackTarget(url="https://example.com/done", headers={"upstash-retries": "5"}),
)
REQUEST = PublishRequest(destination=ENVELOPE.url, envelope=ENVELOPE, dedup="d", cron="CRON_TZ=Europe/Berlin 0 3 * * *")


# The stored definition gives back what the request had: destination, headers, body, callback, cron as it was written.
def test_a_schedule_keeps_its_request() -> None:
    schedule = NewSchedule.of_text(new_schedule("nightly", REQUEST).text)
    kept = schedule_request(schedule)
    assert (kept.destination, kept.cron, kept.dedup) == (REQUEST.destination, REQUEST.cron, REQUEST.dedup)
    assert kept.envelope.body.content == b"\xff\x00"
    assert kept.envelope.headers == ENVELOPE.headers
    assert kept.envelope.callback == ENVELOPE.callback
    assert (schedule.cron.expression, schedule.cron.timezone) == ("0 3 * * *", "Europe/Berlin")
    assert kept.envelope.schedule_id == kept.schedule_id == "nightly"


# No command shows the headers and the body, which may be secret.
def test_a_shown_schedule_has_no_headers_or_bodies() -> None:
    request = replace(REQUEST, envelope=replace(ENVELOPE, headers=(("X-User", "s3cret"),), body=Body.of(b"s3cret")))
    schedule = new_schedule("nightly", request)
    assert "s3cret" in schedule.payload
    assert "s3cret" not in masked_text(schedule.payload)
    assert fired_request(schedule.payload, 1_000).envelope.headers == (("X-User", "s3cret"),)


# Two tenants may have schedules with the same id, and the label of the work is the tenant.
def test_schedules_of_two_tenants_are_apart() -> None:
    other = PublishRequest(
        destination=ENVELOPE.url, envelope=Envelope(url=ENVELOPE.url, tenant="b", created_at=1), cron="* * * * *"
    )
    one, two = new_schedule("nightly", REQUEST), new_schedule("nightly", other)
    assert one.id != two.id
    assert (one.label, two.label) == ("acme", "b")


# A fire starts one message with a derived id, so that repeating the fire starts no second one.
def test_a_fire_starts_one_message_with_a_derived_id() -> None:
    schedule = new_schedule("nightly", REQUEST)
    start, again = (PushSchedules().scheduled_start(schedule, 60_000) for _ in range(2))
    assert start == again
    (message,) = start.messages
    assert (message.destination, message.label) == (PUSH_SCHEDULE_DESTINATION, "acme")
    assert PushSchedules().scheduled_start(schedule, 120_000).id != start.id


# The posts of a fire are made at its time, and Upstash-Delay delays each of them, not the schedule.
@pytest.mark.parametrize(("not_before", "due"), [(0, 0), (1_000, 90_000), (31_000, 120_000)])
def test_the_delay_of_a_schedule_is_that_of_each_post(not_before: int, due: int) -> None:
    envelope = Envelope(url=ENVELOPE.url, tenant="acme", created_at=1_000, not_before=not_before)
    request = PublishRequest(destination=ENVELOPE.url, envelope=envelope, cron="* * * * *")
    schedule = new_schedule("nightly", request)
    (message,) = PushSchedules().scheduled_start(schedule, 60_000).messages
    fired = fired_request(message.body, 90_000)
    assert (fired.envelope.created_at, fired.envelope.not_before) == (90_000, due)


# A cron expression that is not valid, or missing, is refused when the schedule is made.
@pytest.mark.parametrize("cron", [None, "every day"])
def test_a_schedule_needs_a_cron_expression(cron: str | None) -> None:
    with pytest.raises(ConfigurationError, match="cron"):
        new_schedule("nightly", PublishRequest(destination=ENVELOPE.url, envelope=ENVELOPE, cron=cron))


# The app's own API of schedules makes none of posts.
def test_a_schedule_of_posts_is_made_over_rest() -> None:
    with pytest.raises(InputError, match="POST /v2/schedules"):
        PushSchedules().schedule_payload(None, {})
