"""Triggers: checks the arguments, opens the batch and publishes its messages."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from batchflow.batch.arguments import (
    BatchTrigger,
    check_canary,
    check_failure_budget,
    check_force,
    check_ids,
    check_limit,
    check_params,
    check_priority,
    derive_batch_id,
)
from batchflow.batch.definition import Definition
from batchflow.batch.payloads import EntryBody
from batchflow.batch.runtime import WorkflowRuntime
from batchflow.core.batch import Canary, NewBatch
from batchflow.core.ids import BATCH_ID_PATTERN
from batchflow.core.message import Message
from batchflow.core.schedule import NewSchedule, ScheduledStart, schedule_key, scheduled_batch_id, scheduled_headers
from batchflow.core.secrets import describe_misfit
from batchflow.errors import InputError
from batchflow.serve.app_url import check_url
from batchflow.serve.children import ParentLink
from batchflow.serve.trigger import is_open_dedup, start_time
from batchflow.serve.validation import format_value, is_valid_text, validate_headers, validate_label

_BATCH_ID = re.compile(BATCH_ID_PATTERN)


class PreparedBatch(NamedTuple):
    """A checked batch to open. `is_known_id` is True if the trigger gave its id or dedup id, so that it may exist.

    In a retry that lists ids, `again` are their numbers in the batch that it retries.
    """

    batch: NewBatch
    entry: EntryBody
    ids: Sequence[str]
    not_before: int
    is_known_id: bool
    again: Sequence[int] = ()


def prepare_batch(
    runtime: WorkflowRuntime, params: Any, options: BatchTrigger, link: ParentLink | None = None
) -> PreparedBatch:
    """Check a trigger and prepare its batch; `link` leads to the run that waits for it.

    Raises:
        InputError, ConfigurationError, UnserializableError: as for `Workflow.trigger`; nothing was started.
    """
    definition, client = runtime.definition, runtime.client
    checked = check_params(definition, params)
    where = f"the parameters of '{definition.name}'"
    text, _ = definition.params_codec.round_trip(checked, where=where)
    client.limit.check(text, where)
    named = check_ids(definition, options.ids)
    check_limit(options.limit, named)
    check_force(options.force)
    if options.priority is not None:
        check_priority(options.priority)
    check_canary(options.canary, options.approve_under)
    budget = check_failure_budget(options.failure_budget)
    id = _requested_id(definition.name, options, link)
    is_open = is_open_dedup(options.dedup, options.dedup_id)
    new_id = client.new_id("batch") if id is None or is_open else id
    check_url("notify_url", options.notify_url, no_query=False)
    batch = runtime.messages.batch(new_id, text, definition.ledger_name(checked), link)
    batch = replace(
        batch,
        force=options.force,
        named=named is not None,
        label=validate_label(options.label),
        headers=validate_headers(options.headers),
        open_dedup=id if is_open else None,
        failure_budget=batch.failure_budget if budget is None else budget,
        notify_url=batch.notify_url if options.notify_url is None else options.notify_url,
        priority=definition.priority if options.priority is None else options.priority,
        canary=_canary(definition, options),
    )
    total, canary = (None, options.canary or 0) if named is None else (len(named), 0)
    entry = EntryBody(force=options.force, limit=options.limit, total=total, canary=canary)
    not_before = start_time(options.delay, options.not_before, client.now(), check_era=True)
    return PreparedBatch(batch, entry, named or (), not_before, id is not None and not is_open)


def _canary(definition: Definition, options: BatchTrigger) -> Canary | None:
    if options.canary is None:
        return None
    return Canary(options.canary, options.approve_under, after_walk=definition.walk_first and options.ids is None)


def trigger_messages(runtime: WorkflowRuntime, prepared: PreparedBatch) -> list[list[Message]]:
    """Return the messages in portions; the first one is published in the transaction that opens the batch."""
    start = prepared.batch, prepared.entry, prepared.ids, prepared.not_before, prepared.again
    return list(runtime.messages.of_trigger(*start))


def scheduled_batch(runtime: WorkflowRuntime, schedule: NewSchedule, at: int) -> ScheduledStart:
    """The batch of the fire at `at`, with its first messages.

    Raises:
        InputError: its parameters do not fit any more.
    """
    try:
        params = runtime.definition.params_codec.decode(schedule.payload)
    except ValueError as error:
        raise InputError(f"the parameters of the schedule do not fit: {describe_misfit(error)}") from error
    options = BatchTrigger(
        batch_id=scheduled_batch_id(schedule.id, at),
        label=schedule.label or schedule.id,
        headers=scheduled_headers(schedule, at),
    )
    prepared = prepare_batch(runtime, params, options)
    if schedule.overlap != "allow":
        prepared = prepared._replace(batch=replace(prepared.batch, open_dedup=schedule_key(schedule.id)))
    messages = [message for portion in trigger_messages(runtime, prepared) for message in portion]
    return ScheduledStart(prepared.batch, tuple(messages))


class OpenedBatch(NamedTuple):
    """The batch of a trigger; `deduplicated` is True if it existed."""

    id: str
    deduplicated: bool


async def open_prepared(runtime: WorkflowRuntime, prepared: PreparedBatch) -> OpenedBatch:
    """Open the batch, or find the existing one with its id or dedup id.

    Raises:
        InputError: its id is that of another workflow's batch.
    """
    first, *others = trigger_messages(runtime, prepared)
    existing: str | None = None
    # Again if the batch that was in the way has ended in between.
    while existing is None:
        if await runtime.client.open_batch(prepared.batch, first):
            await _publish(runtime, others)
            return OpenedBatch(prepared.batch.id, deduplicated=False)
        existing = await _existing_id(runtime, prepared)
    if others and await _is_pending(runtime, existing):
        # The trigger that opened it was interrupted before it published the entry.
        _, *others = trigger_messages(runtime, prepared._replace(batch=replace(prepared.batch, id=existing)))
        await _publish(runtime, others)
    # A new id exists only if the answer of the store to its opening was lost.
    return OpenedBatch(existing, deduplicated=prepared.is_known_id or existing != prepared.batch.id)


async def _publish(runtime: WorkflowRuntime, portions: Sequence[Sequence[Message]]) -> None:
    for messages in portions:
        await runtime.client.publish(messages)


async def _existing_id(runtime: WorkflowRuntime, prepared: PreparedBatch) -> str | None:
    """Return the id of the existing batch; None if it has ended in between."""
    if prepared.batch.open_dedup is not None:
        under_way = await runtime.client.store.under_way(prepared.batch.open_dedup)
        return under_way or (prepared.batch.id if await runtime.client.store.batch(prepared.batch.id) else None)
    found = await runtime.client.store.batch(prepared.batch.id)
    if found is not None and found.workflow != prepared.batch.workflow:
        fault = f"which is a batch of '{found.workflow}'"
        raise InputError(fault, option="batch_id", got=f"'{found.id}'", want="write another")
    return prepared.batch.id


async def _is_pending(runtime: WorkflowRuntime, id: str) -> bool:
    batch = await runtime.client.store.batch(id)
    return batch is not None and batch.state == "pending"


def _requested_id(workflow: str, options: BatchTrigger, link: ParentLink | None) -> str | None:
    """Return the id from the batch id, dedup id or link; None for a new id.

    Raises:
        InputError: the id is invalid.
    """
    if link is not None:
        return derive_batch_id(workflow, link.id)
    if options.batch_id is not None and options.dedup_id is not None:
        raise InputError("exclude each other", option="batch_id", other="dedup_id", want="give the one or the other")
    if options.dedup_id is not None:
        return derive_batch_id(workflow, options.dedup_id)
    if options.batch_id is None:
        return None
    if not is_valid_text(options.batch_id) or not _BATCH_ID.fullmatch(options.batch_id):
        want = "write 'bat_' and 1 to 60 letters, digits, '_' and '-', such as 'bat_nightly-7'"
        raise InputError(option="batch_id", got=format_value(options.batch_id), want=want)
    return options.batch_id
