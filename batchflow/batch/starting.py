"""How a batch is started: what a trigger may set, and what it opens and publishes."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from batchflow.batch.arguments import check_force, check_ids, check_limit, check_params, derived_id
from batchflow.batch.layers import Layers
from batchflow.batch.payloads import EntryBody
from batchflow.batch.triggering import BatchTrigger
from batchflow.core.batch import NewBatch
from batchflow.core.message import Message
from batchflow.errors import InputError
from batchflow.serve.children import ParentLink
from batchflow.serve.trigger import is_open_dedup, start_time
from batchflow.serve.validation import format_value, is_valid_text, validate_headers, validate_label

_BATCH_ID = re.compile(r"bat_[A-Za-z0-9_-]{1,60}")


class Start(NamedTuple):
    """A batch to open, checked. `named`: its id, or what it is for, was given, and may be known."""

    batch: NewBatch
    entry: EntryBody
    ids: Sequence[str]
    not_before: int
    named: bool


def start_of(layers: Layers, params: Any, options: BatchTrigger, link: ParentLink | None = None) -> Start:
    """What a trigger asks for; with `link`, for the run that waits for the batch.

    Raises:
        InputError, ConfigurationError, UnserializableError: as for `Workflow.trigger`; nothing was started.
    """
    definition, client = layers.definition, layers.client
    checked = check_params(definition, params)
    where = f"the parameters of '{definition.name}'"
    text, _ = definition.params_codec.round_trip(checked, where=where)
    client.limit.check(text, where)
    named = check_ids(definition, options.ids)
    check_limit(options.limit, named)
    check_force(options.force)
    id = _known_id(definition.name, options, link)
    is_open = is_open_dedup(options.dedup, options.dedup_id)
    own = client.new_id("batch") if id is None or is_open else id
    batch = replace(
        layers.messages.batch(own, text, definition.ledger_of(checked), link),
        force=options.force,
        named=named is not None,
        label=validate_label(options.label),
        headers=validate_headers(options.headers),
        open_dedup=id if is_open else None,
    )
    entry = EntryBody(force=options.force, limit=options.limit, total=None if named is None else len(named))
    not_before = start_time(options.delay, options.not_before, client.now(), check_era=True)
    return Start(batch, entry, named or (), not_before, id is not None and not is_open)


def messages_of(layers: Layers, start: Start) -> list[list[Message]]:
    """What is published for it, in portions; the first goes with the opening of the batch."""
    return list(layers.messages.of_trigger(start.batch, start.entry, start.ids, start.not_before))


class Opened(NamedTuple):
    """The batch that a trigger is answered with; `deduplicated`: it was there already."""

    id: str
    deduplicated: bool


async def open_one(layers: Layers, start: Start) -> Opened:
    """Open the batch, or find the one that is there in its place.

    Raises:
        InputError: its id is that of another workflow's batch.
    """
    first, *others = messages_of(layers, start)
    known: str | None = None
    # Until it is either opened, or there is another: one that was under way may have ended in between.
    while known is None:
        if await layers.client.open_batch(start.batch, first):
            await _publish(layers, others)
            return Opened(start.batch.id, deduplicated=False)
        known = await _known(layers, start)
    if others and await _is_pending(layers, known):
        # The trigger that has opened it was cut off before its entry was published.
        _, *others = messages_of(layers, start._replace(batch=replace(start.batch, id=known)))
        await _publish(layers, others)
    # One whose id was made just now is there because the answer to its opening was lost.
    return Opened(known, deduplicated=start.named or known != start.batch.id)


async def _publish(layers: Layers, portions: Sequence[Sequence[Message]]) -> None:
    for messages in portions:
        await layers.client.publish(messages)


async def _known(layers: Layers, start: Start) -> str | None:
    """The id of the batch that keeps this one from being opened."""
    if start.batch.open_dedup is not None:
        under_way = await layers.client.store.under_way(start.batch.open_dedup)
        return under_way or (start.batch.id if await layers.client.store.batch(start.batch.id) else None)
    found = await layers.client.store.batch(start.batch.id)
    if found is not None and found.workflow != start.batch.workflow:
        fault = f"which is a batch of '{found.workflow}'"
        raise InputError(fault, option="batch_id", got=f"'{found.id}'", want="write another")
    return start.batch.id


async def _is_pending(layers: Layers, id: str) -> bool:
    batch = await layers.client.store.batch(id)
    return batch is not None and batch.state == "pending"


def _known_id(workflow: str, options: BatchTrigger, link: ParentLink | None) -> str | None:
    """The id that the batch is known by, or what it is for; None: another one each time.

    Raises:
        InputError: it is none.
    """
    if link is not None:
        return derived_id(workflow, link.id)
    if options.batch_id is not None and options.dedup_id is not None:
        raise InputError("exclude each other", option="batch_id", other="dedup_id", want="give the one or the other")
    if options.dedup_id is not None:
        return derived_id(workflow, options.dedup_id)
    if options.batch_id is None:
        return None
    if not is_valid_text(options.batch_id) or not _BATCH_ID.fullmatch(options.batch_id):
        want = "write 'bat_' and 1 to 60 letters, digits, '_' and '-', such as 'bat_nightly-7'"
        raise InputError(option="batch_id", got=format_value(options.batch_id), want=want)
    return options.batch_id
