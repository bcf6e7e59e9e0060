"""The requests of QStash for the fires of schedules: each starts a run."""

from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256

from pydantic_core import to_json

from batchflow.core.failure_functions import FailureResponse
from batchflow.core.ports import ScheduleTarget
from batchflow.core.schedule import scheduled_run_id
from batchflow.core.secrets import printable_error
from batchflow.errors import StoreError
from batchflow.logs import logger
from batchflow.qstash.endpoint import RUN_ID, WireAnswer, failure_answer, unstored_answer
from batchflow.qstash.run_options import SCHEDULE_ID, trigger_headers
from batchflow.qstash.schedules import DEFINITION, SchedulingEngine, read_schedule, start_run

_MINUTE_MS = 60_000


def is_fire(headers: Mapping[str, str]) -> bool:
    """True for the headers, in lower case, of such a request."""
    return SCHEDULE_ID in headers and RUN_ID not in headers


async def answer_fire(
    engine: SchedulingEngine, target: ScheduleTarget, headers: Mapping[str, str], body: bytes, *, now: int
) -> WireAnswer:
    """Start the run of a fire; the id of the run is that of the request, which QStash may repeat."""
    id = headers[SCHEDULE_ID]
    own = {**trigger_headers(headers), **{name: value for name, value in headers.items() if name == DEFINITION}}
    try:
        schedule = read_schedule(id, target, own, body.decode(errors="replace"))
        # QStash fires at whole minutes.
        (message,) = target.scheduled_start(schedule, now // _MINUTE_MS * _MINUTE_MS).messages
        digest = sha256(headers.get("upstash-message-id", str(now)).encode()).digest()
        message = replace(message, id=scheduled_run_id(id, int.from_bytes(digest[:5])))
        outcome = await start_run(engine, schedule, message)
    except Exception as error:
        # Validators of payloads may raise anything.
        if isinstance(error, StoreError) and error.retryable:
            return unstored_answer(error)
        said = printable_error(str(error))
        logger().error(f"[{target.title}:error] A schedule could start nothing", error=said, schedule=id)
        return failure_answer(FailureResponse(489, type(error).__name__, said, ""))
    if outcome == "skipped":
        logger().info(f"[{target.title}:schedule] Skipped: the previous fire has not ended", schedule=id)
    elif outcome == "fired":
        logger().info(f"[{target.title}:schedule] Fired", started=message.id, schedule=id)
    return WireAnswer(200, {"Content-Type": "application/json"}, to_json({"outcome": outcome, "startedId": message.id}))
