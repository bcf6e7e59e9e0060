"""Values as the script takes them: arrays, in which a step and whatever else Lua only passes on is JSON text."""

from collections.abc import Sequence
from typing import Any, TypeAlias

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
            return to_json((verb, [_limits(limits) for limits in arguments[0]]))
        case "pin":
            return to_json((verb, _limits(arguments[0])))
        case _:
            return to_json((verb, *arguments))


def _step(step: Step) -> tuple[str, int, str]:
    return f"s{step.number}", step.position, to_json(step).decode()


def _settlement(ends: Settlement) -> Wire:
    steps = [_step(step) for step in ends.steps]
    effects = [_effect(effect) for effect in ends.effects]
    return [ends.id, ends.fence, ends.ending, ends.result, ends.error, ends.due, steps, effects, ends.took_ms]


def _limits(flow: FlowControl) -> Wire:
    return [flow.key or "", flow.parallelism, flow.rate, flow.period_ms, flow.burst]


def _message(message: Message) -> Wire:
    parent, step = message.parent or (None, None)
    headers = to_json(dict(message.headers)).decode() if message.headers else None
    retry = to_json(message.retry.as_wire()).decode() if message.retry else None
    fixed = [message.id, message.destination, _limits(message.flow), message.body, headers, retry, message.not_before]
    tied = [message.batch, message.keep, message.label, parent, step, message.depth]
    return [*fixed, *tied, message.on_failure, message.open_dedup, message.held]


def _batch(batch: NewBatch) -> Wire:
    parent, step = batch.parent or (None, None)
    items = [batch.id, batch.workflow, batch.execute, _limits(batch.flow), batch.params]
    end = [batch.complete, _limits(batch.complete_flow), batch.ledger_ttl, batch.keep_results]
    tied = [batch.force, batch.label, parent, step, batch.depth]
    headers = to_json(dict(batch.headers)).decode() if batch.headers else None
    more = [headers, batch.ledger or batch.workflow, batch.on_failure, batch.named, batch.open_dedup]
    return [*items, *end, *tied, *more]


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
