"""Making schedules of publish requests."""

from batchflow.engine.push_schedules import new_schedule
from batchflow.errors import ConfigurationError, InputError
from batchflow.server.context import ServerContext
from batchflow.wire.publish import PublishRequest
from batchflow.wire.publish_headers import check_name
from batchflow.wire.url_groups import endpoints_of_group


async def make_schedule(context: ServerContext, request: PublishRequest) -> str:
    """Make the schedule of a publish request, or replace the one with its id; returns the id.

    Raises:
        InputError: its cron expression is missing or not valid, or its id has other characters than QStash lets
            through.
        NotFoundError: its URL group does not exist.
    """
    tenant = request.envelope.tenant
    if request.cron is None:
        raise InputError(
            "'upstash-cron' is missing; send it with five fields, such as '*/5 * * * *'",
            field="Upstash-Cron",
            status=400,
        )
    if request.is_group:
        await endpoints_of_group(context.wire, tenant, request.destination)
    id = (
        context.new_id("scd") if request.schedule_id is None else check_name(request.schedule_id, "upstash-schedule-id")
    )
    try:
        schedule = new_schedule(id, request)
    except ConfigurationError as error:
        raise InputError(f"'upstash-cron' is not valid: {error}", field="Upstash-Cron", status=400) from error
    await context.store.put_schedule(schedule, schedule.cron.next_after(context.now()))
    context.engine.wake_schedules()
    return id
