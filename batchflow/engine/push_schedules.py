"""Schedules that publish posts: their form in a store, and the work of their fires."""

from dataclasses import replace
from typing import Literal

from batchflow.core.codec import Codec
from batchflow.core.flow import FlowControl
from batchflow.core.message import Message
from batchflow.core.posts import PUSH_SCHEDULE_DESTINATION
from batchflow.core.schedule import Cron, NewSchedule, ScheduledStart, scheduled_run_id
from batchflow.core.secrets import marked_text
from batchflow.errors import InputError
from batchflow.wire.publish import PublishRequest

_TITLE = "push"
_FLOW = FlowControl(key="batchflow.push-schedule")


def stored_schedule_id(tenant: str, id: str) -> str:
    """The id that the store has for the schedule `id` of a tenant: those of two tenants are apart."""
    return f"{tenant}/{id}"


def new_schedule(id: str, request: PublishRequest) -> NewSchedule:
    """The schedule `id` of the request's tenant, each of whose fires publishes `request`.

    A delay of the request is that of each post. The whole payload is a secret value: it has headers and a body.

    Raises:
        ConfigurationError: its cron expression is missing or not valid.
    """
    envelope = replace(request.envelope, schedule_id=id)
    return NewSchedule(
        id=stored_schedule_id(envelope.tenant, id),
        target=_TITLE,
        destination=PUSH_SCHEDULE_DESTINATION,
        cron=Cron.parse(request.cron),
        payload=marked_text(_codec().encode(replace(request, envelope=envelope, schedule_id=id))),
        overlap="allow",
        label=envelope.tenant,
    )


def schedule_request(schedule: NewSchedule) -> PublishRequest:
    """The request of a schedule as it was made; its `cron` is the text that was given."""
    return _codec().decode(schedule.payload)


def fired_request(payload: str, now: int) -> PublishRequest:
    """The request that a fire publishes at `now`, of the body of its message."""
    request = _codec().decode(payload)
    envelope = request.envelope
    due = envelope.not_before and max(0, envelope.not_before - envelope.created_at) + now
    return replace(request, envelope=replace(envelope, created_at=now, not_before=due))


class PushSchedules:
    """Fires the schedules of posts: each fire is a message that the handler of its destination expands to posts."""

    title: str = _TITLE
    schedule_route: str = PUSH_SCHEDULE_DESTINATION
    schedule_starts: Literal["batch", "run"] = "run"
    declared_schedule: NewSchedule | None = None

    def schedule_payload(self, params: object, payload: object) -> str:
        """See the port.

        Raises:
            InputError: such schedules are made over the REST API.
        """
        raise InputError(f"'{_TITLE}' is for schedules that are made with POST /v2/schedules; use that")

    def scheduled_start(self, schedule: NewSchedule, at: int) -> ScheduledStart:
        """See the port."""
        message = Message(
            id=scheduled_run_id(schedule.id, at),
            destination=PUSH_SCHEDULE_DESTINATION,
            flow=_FLOW,
            body=schedule.payload,
            label=schedule.label,
        )
        return ScheduledStart(None, (message,))


def _codec() -> Codec[PublishRequest]:
    return Codec.of(PublishRequest)
