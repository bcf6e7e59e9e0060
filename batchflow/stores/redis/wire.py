"""Values as the script takes them: arrays, in which a step and whatever else Lua only passes on is JSON text.

Its files name the places of the arrays by the fields of the tuples here, of which `scripts` tells it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from pydantic_core import to_json

from batchflow.core.batch import NewBatch
from batchflow.core.flow import FlowControl
from batchflow.core.message import Message
from batchflow.core.run import Step
from batchflow.core.settlement import (
    Accept,
    Effect,
    Enter,
    Listen,
    Notify,
    OpenBatch,
    Page,
    Publish,
    Settlement,
    StartItems,
    Unlisten,
    Walked,
)

Wire: TypeAlias = list[Any]


class Limits(NamedTuple):
    """A flow key and its limits."""

    key: str
    parallelism: int | None
    rate: int | None
    period_ms: int
    burst: int


class MessageRow(NamedTuple):
    """A message; the fields are those of `batchflow.core.message.Message`."""

    id: str
    destination: str
    flow: Limits
    body: str
    headers: str | None
    retry: str | None
    not_before: int
    batch: str | None
    keep: bool
    label: str | None
    parent: str | None
    parent_step: int | None
    depth: int
    on_failure: str | None
    open_dedup: str | None
    held: bool


class BatchRow(NamedTuple):
    """A batch that is opened; the fields are those of `batchflow.core.batch.NewBatch`."""

    id: str
    workflow: str
    execute: str
    flow: Limits
    params: str
    complete: str | None
    complete_flow: Limits
    ledger_ttl: int | None
    keep_results: bool
    force: bool
    label: str | None
    parent: str | None
    parent_step: int | None
    depth: int
    headers: str | None
    ledger: str
    on_failure: str | None
    named: bool
    open_dedup: str | None


def operation(verb: str, arguments: Sequence[Any]) -> bytes:
    """One operation of a group.

    Raises:
        PydanticSerializationError: it holds text that has no encoding.
    """
    match verb:
        case "record":
            id, fence, step = arguments
            return to_json((verb, id, fence, _step(step)))
        case "settle":
            return to_json((verb, *_settlement(arguments[0])))
        case "record_with_effects":
            id, fence, step, effects = arguments
            return to_json((verb, id, fence, _step(step), [_effect(effect) for effect in effects]))
        case "publish":
            return to_json((verb, [_message(message) for message in arguments[0]]))
        case "open_batch":
            batch, first = arguments
            return to_json((verb, _batch(batch), [_message(message) for message in first]))
        case "declare":
            return to_json((verb, [limits(flow) for flow in arguments[0]]))
        case "pin":
            return to_json((verb, limits(arguments[0])))
        case _:
            return to_json((verb, *arguments))


def _step(step: Step) -> tuple[str, int, str]:
    return f"s{step.number}", step.position, to_json(step).decode()


def _settlement(ends: Settlement) -> Wire:
    steps = [_step(step) for step in ends.steps]
    effects = [_effect(effect) for effect in ends.effects]
    return [ends.id, ends.fence, ends.ending, ends.result, ends.error, ends.due, steps, effects, ends.took_ms]


def limits(flow: FlowControl) -> Limits:
    """A flow key and its limits."""
    return Limits(flow.key or "", flow.parallelism, flow.rate, flow.period_ms, flow.burst)


def _message(message: Message) -> MessageRow:
    parent, step = message.parent or (None, None)
    return MessageRow(
        message.id,
        message.destination,
        limits(message.flow),
        message.body,
        to_json(dict(message.headers)).decode() if message.headers else None,
        to_json(message.retry.as_wire()).decode() if message.retry else None,
        message.not_before,
        message.batch,
        message.keep,
        message.label,
        parent,
        step,
        message.depth,
        message.on_failure,
        message.open_dedup,
        message.held,
    )


def _batch(batch: NewBatch) -> BatchRow:
    parent, step = batch.parent or (None, None)
    return BatchRow(
        batch.id,
        batch.workflow,
        batch.execute,
        limits(batch.flow),
        batch.params,
        batch.complete,
        limits(batch.complete_flow),
        batch.ledger_ttl,
        batch.keep_results,
        batch.force,
        batch.label,
        parent,
        step,
        batch.depth,
        to_json(dict(batch.headers)).decode() if batch.headers else None,
        batch.ledger or batch.workflow,
        batch.on_failure,
        batch.named,
        batch.open_dedup,
    )


def _effect(effect: Effect) -> Wire:
    match effect:
        case StartItems(batch, first, ids, marked, data, already_processed):
            return ["start", batch, first, ids, marked, data, already_processed]
        case Walked(batch, total):
            return ["walked", batch, total]
        case Publish(messages):
            return ["publish", [_message(message) for message in messages]]
        case OpenBatch(batch, messages):
            return ["open", _batch(batch), [_message(message) for message in messages]]
        case Enter(batch, total, left_out):
            return ["enter", batch, total, left_out]
        case Page():
            counts = [effect.eligible, effect.already_processed, effect.duplicates, effect.left_out, effect.chunks]
            return ["page", effect.batch, *counts]
        case Listen(number, event, until):
            return ["listen", number, event, until]
        case Unlisten(numbers):
            return ["unlisten", numbers]
        case Accept(token):
            return ["accept", token]
        case Notify(event, data, run):
            return ["notify", event, data, run]
