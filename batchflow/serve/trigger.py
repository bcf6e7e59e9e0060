"""The options of a trigger, and the message that starts a run."""

import re
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from hashlib import sha256
from typing import Literal, TypeAlias, TypedDict, get_args

from batchflow.core.duration import Duration, to_ms
from batchflow.core.flow import FlowControl
from batchflow.core.message import Message
from batchflow.core.ports import RunClient
from batchflow.core.retry import RetryPolicy
from batchflow.core.suggestions import check_options
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
"""The lifetime of a `dedup_id`: as long as its run or batch is kept, or only until that has ended."""


class TriggerOptions(TypedDict, total=False):
    """The options of a trigger as a value, for code that passes them on; see `ServedFunction.trigger`."""

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


def check_trigger_options(options: TriggerOptions, now: int) -> None:
    """Raise `ConfigurationError` for an unknown option, or a `not_before` that looks like seconds."""
    check_options("trigger", options, TriggerOptions.__annotations__)
    if (not_before := options.get("not_before")) is not None and options.get("delay") is None:
        parse_timestamp(not_before, option="not_before", now=now)


def run_message(
    endpoint: Endpoint, client: RunClient, body: str, options: TriggerOptions, default_label: str | None
) -> Message:
    """Return the message that starts a run.

    Raises:
        InputError, ConfigurationError: see `ServedFunction.trigger`.
    """
    id = _run_id(endpoint.route, options.get("run_id"), options.get("dedup_id"))
    is_open = is_open_dedup(options.get("dedup", "kept"), options.get("dedup_id"))
    headers = validate_headers(options.get("headers"))
    not_before = start_time(options.get("delay"), options.get("not_before"), client.now())
    retry = run_retry_policy(endpoint, options.get("retries"), options.get("retry_delay"))
    flow = require_key(options.get("flow_control")) or endpoint.flow
    label = validate_label(options.get("label")) or default_label
    client.check_run(flow, retry, label, headers)
    keeps_ids = not client.replaces_ended_runs
    return Message(
        id=client.new_id("run") if id is None or (is_open and keeps_ids) else id,
        open_dedup=id if is_open and keeps_ids else None,
        destination=endpoint.route,
        flow=flow,
        body=body,
        headers=endpoint.run_headers(headers, not_before, retry),
        not_before=not_before,
        retry=retry,
        keep=True,
        label=label,
        on_failure=endpoint.on_failure,
    )


def run_retry_policy(
    endpoint: Endpoint, retries: int | None, retry_delay: RetryPolicy | Duration | None
) -> RetryPolicy | None:
    """Return the retry policy of one run, completed by that of its function; None: the function's own applies."""
    if retries is None and retry_delay is None:
        return None
    return RetryPolicy.of(retries=retries, delay=retry_delay, default=endpoint.retry)


def is_open_dedup(dedup: object, dedup_id: str | None) -> bool:
    """Return whether a `dedup_id` only matches runs or batches that have not ended.

    Raises:
        InputError: `dedup` is invalid, or is "open" without a `dedup_id`.
    """
    if not is_valid_text(dedup) or dedup not in get_args(Dedup):
        raise InputError(option="dedup", got=format_value(dedup), want="write 'kept' or 'open'")
    if dedup == "open" and dedup_id is None:
        raise InputError("go together", option="dedup", other="dedup_id", want="give both, or neither")
    return dedup == "open"


def start_time(delay: Duration | None, not_before: datetime | int | None, now: int, *, check_era: bool = False) -> int:
    """Return when to start, in ms since the epoch; 0: at once. `check_era` rejects seconds in place of ms.

    Raises:
        InputError: both `delay` and `not_before` are given.
        ConfigurationError: one of them is not a time.
    """
    if delay is not None and not_before is not None:
        raise InputError("exclude each other", option="delay", other="not_before", want="give the one or the other")
    if delay is not None:
        return now + to_ms(delay, option="delay")
    if not_before is None:
        return 0
    return parse_timestamp(not_before, option="not_before", now=now if check_era else None)


def _run_id(route: str, run_id: str | None, dedup_id: str | None) -> str | None:
    if run_id is not None and dedup_id is not None:
        raise InputError("exclude each other", option="run_id", other="dedup_id", want="give the one or the other")
    if run_id is not None:
        if not is_valid_text(run_id) or not _RUN_ID.fullmatch(run_id):
            want = "write 1 to 128 letters, digits, '_', '-' and ':'"
            raise InputError(option="run_id", got=format_value(run_id), want=want)
        if run_id.startswith("bat_"):
            raise InputError("since ids of batches begin so", option="run_id", got=repr(run_id))
        return run_id
    if dedup_id is not None:
        refuse = partial(InputError, field="dedupId")
        if not validate_text("'dedup_id'", dedup_id, refuse, "what the run is for, as text"):
            raise InputError("is empty", option="dedup_id", want="name the purpose of the run, or leave it out")
        # A route contains no space, so different pairs give different texts.
        return f"run_{sha256(f'{route} {dedup_id}'.encode()).hexdigest()[:32]}"
    return None
