"""How a run is started: what a trigger may set, and the message it becomes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from hashlib import sha256
from typing import Literal, TypeAlias, TypedDict, get_args

from batchflow.core.duration import Duration, to_ms
from batchflow.core.flow import FlowControl
from batchflow.core.message import Message
from batchflow.core.ports import Client
from batchflow.core.retry import RetryPolicy
from batchflow.core.spelling import check_options
from batchflow.errors import InputError
from batchflow.serve.endpoint import Endpoint
from batchflow.serve.validation import (
    format_value,
    is_valid_text,
    parse_timestamp,
    require_key,
    validate_headers,
    validate_label,
    validate_text,
)

_RUN_ID = re.compile(r"[A-Za-z0-9_:-]{1,128}")


Dedup: TypeAlias = Literal["kept", "open"]
"""How long a `dedup_id` holds: as long as what it has started is kept, or only until that has ended."""


class TriggerOptions(TypedDict, total=False):
    """What a trigger may set beside the payload; see `ServedFunction.trigger`."""

    run_id: str | None
    dedup_id: str | None
    dedup: Dedup
    delay: Duration | None
    not_before: datetime | int | None
    label: str | None
    headers: Mapping[str, str] | None
    retries: int | None
    retry_delay: RetryPolicy | Duration | None
    flow_control: FlowControl | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """The same, what is not set being None."""

    run_id: str | None = None
    dedup_id: str | None = None
    dedup: Dedup = "kept"
    delay: Duration | None = None
    not_before: datetime | int | None = None
    label: str | None = None
    headers: Mapping[str, str] | None = None
    retries: int | None = None
    retry_delay: RetryPolicy | Duration | None = None
    flow_control: FlowControl | None = None


NO_OPTIONS = Trigger()


def validate_trigger(options: TriggerOptions, now: int) -> Trigger:
    """Options as they were given, at `now`.

    Raises:
        ConfigurationError: one of them is none.
    """
    check_options("trigger", options, TriggerOptions.__annotations__)
    made = Trigger(**options)
    if made.not_before is not None and made.delay is None:
        parse_timestamp(made.not_before, option="not_before", now=now)
    return made


def run_message(endpoint: Endpoint, client: Client, body: str, options: Trigger, label: str | None) -> Message:
    """The message that starts a run; `label` is what it has where the trigger sets none.

    Raises:
        InputError, ConfigurationError: see `ServedFunction.trigger`.
    """
    id = _run_id(endpoint.route, options)
    is_open = is_open_dedup(options.dedup, options.dedup_id)
    return Message(
        id=client.new_id("run") if id is None or is_open else id,
        open_dedup=id if is_open else None,
        destination=endpoint.route,
        flow=require_key(options.flow_control) or endpoint.flow,
        body=body,
        headers=validate_headers(options.headers),
        not_before=start_time(options.delay, options.not_before, client.now()),
        retry=run_retry_policy(endpoint, options.retries, options.retry_delay),
        keep=True,
        label=validate_label(options.label) or label,
    )


def run_retry_policy(
    endpoint: Endpoint, retries: int | None, retry_delay: RetryPolicy | Duration | None
) -> RetryPolicy | None:
    """The policy of one run, what is not said being its function's; None where nothing is said."""
    if retries is None and retry_delay is None:
        return None
    return RetryPolicy.of(retries=retries, delay=retry_delay, default=endpoint.retry)


def is_open_dedup(dedup: object, dedup_id: str | None) -> bool:
    """Whether a `dedup_id` holds only while what it has started is under way.

    Raises:
        InputError: it is not said how long it holds, or there is none.
    """
    if not is_valid_text(dedup) or dedup not in get_args(Dedup):
        raise InputError(option="dedup", got=format_value(dedup), want="write 'kept' or 'open'")
    if dedup == "open" and dedup_id is None:
        raise InputError("go together", option="dedup", other="dedup_id", want="give both, or neither")
    return dedup == "open"


def start_time(delay: Duration | None, not_before: datetime | int | None, now: int, *, check_era: bool = False) -> int:
    """When what is triggered `now` is to start; 0: at once. `check_era` refuses seconds in the place of ms.

    Raises:
        InputError: both are given.
        ConfigurationError: one is no time.
    """
    if delay is not None and not_before is not None:
        raise InputError("exclude each other", option="delay", other="not_before", want="give the one or the other")
    if delay is not None:
        return now + to_ms(delay, option="delay")
    if not_before is None:
        return 0
    return parse_timestamp(not_before, option="not_before", now=now if check_era else None)


def _run_id(route: str, options: Trigger) -> str | None:
    if options.run_id is not None and options.dedup_id is not None:
        raise InputError("exclude each other", option="run_id", other="dedup_id", want="give the one or the other")
    if options.run_id is not None:
        if not is_valid_text(options.run_id) or not _RUN_ID.fullmatch(options.run_id):
            want = "write 1 to 128 letters, digits, '_', '-' and ':'"
            raise InputError(option="run_id", got=format_value(options.run_id), want=want)
        if options.run_id.startswith("bat_"):
            raise InputError("since ids of batches begin so", option="run_id", got=repr(options.run_id))
        return options.run_id
    if options.dedup_id is not None:
        refuse = partial(InputError, field="dedupId")
        if not validate_text("'dedup_id'", options.dedup_id, refuse, "what the run is for, as text"):
            raise InputError("is empty", option="dedup_id", want="name the purpose of the run, or leave it out")
        # No route holds a space, so two pairs never read alike.
        return f"run_{sha256(f'{route} {options.dedup_id}'.encode()).hexdigest()[:32]}"
    return None
