"""Values as the script takes them: arrays, in which a step and whatever else Lua only passes on is JSON text.

Its files name the places of the arrays by the fields of the tuples here, of which `scripts` tells it.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import Any, NamedTuple, TypeAlias

from pydantic_core import PydanticSerializationError, from_json, to_json

from batchflow.core.batch import NO_HEADERS, NewBatch
from batchflow.core.flow import FlowControl
from batchflow.core.ledger import Mark
from batchflow.core.message import Claim, Claimed, DeadLetter, Message
from batchflow.core.retry import RetryPolicy
from batchflow.core.run import Journal, Run, Step, Waiter
from batchflow.core.settlement import (
    Accept,
    Effect,
    Enter,
    Listen,
    Notify,
    OpenBatch,
    Page,
    Publish,
    Settled,
    Settlement,
    StartItems,
    Unlisten,
    Walked,
)
from batchflow.core.worker import WorkerStatus
from batchflow.stores import rows
from batchflow.stores.base import rank

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


def encode_operation(verb: str, arguments: Sequence[Any]) -> bytes:
    """One operation of a group.

    Raises:
        PydanticSerializationError: it holds text that has no encoding.
    """
    match verb:
        case "record":
            id, fence, step = arguments
            return to_json((verb, id, fence, _encode_step(step)))
        case "settle":
            return to_json((verb, *_encode_settlement(arguments[0])))
        case "record_with_effects":
            id, fence, step, effects = arguments
            return to_json((verb, id, fence, _encode_step(step), [_encode_effect(effect) for effect in effects]))
        case "publish":
            return to_json((verb, [_encode_message(message) for message in arguments[0]]))
        case "open_batch":
            batch, first = arguments
            return to_json((verb, _encode_batch(batch), [_encode_message(message) for message in first]))
        case "declare":
            return to_json((verb, [encode_limits(flow) for flow in arguments[0]]))
        case "pin":
            return to_json((verb, encode_limits(arguments[0])))
        case _:
            return to_json((verb, *arguments))


def _encode_step(step: Step) -> tuple[str, int, str]:
    return f"s{step.number}", step.position, to_json(step).decode()


def _encode_settlement(ends: Settlement) -> Wire:
    steps = [_encode_step(step) for step in ends.steps]
    effects = [_encode_effect(effect) for effect in ends.effects]
    return [ends.id, ends.fence, ends.ending, ends.result, ends.error, ends.due, steps, effects, ends.took_ms]


def encode_limits(flow: FlowControl) -> Limits:
    """A flow key and its limits."""
    return Limits(flow.key or "", flow.parallelism, flow.rate, flow.period_ms, flow.burst)


def _encode_message(message: Message) -> MessageRow:
    parent, step = message.parent or (None, None)
    return MessageRow(
        message.id,
        message.destination,
        encode_limits(message.flow),
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


def _encode_batch(batch: NewBatch) -> BatchRow:
    parent, step = batch.parent or (None, None)
    return BatchRow(
        batch.id,
        batch.workflow,
        batch.execute,
        encode_limits(batch.flow),
        batch.params,
        batch.complete,
        encode_limits(batch.complete_flow),
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


def _encode_effect(effect: Effect) -> Wire:
    match effect:
        case StartItems(batch, first, ids, marked, data, already_processed):
            return ["start", batch, first, ids, marked, data, already_processed]
        case Walked(batch, total):
            return ["walked", batch, total]
        case Publish(messages):
            return ["publish", [_encode_message(message) for message in messages]]
        case OpenBatch(batch, messages):
            return ["open", _encode_batch(batch), [_encode_message(message) for message in messages]]
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


STALE = Settled(stale=True)
FRESH = Settled()
FRESH_ITEMS = 6


def decode_settled(answer: Sequence[Any]) -> Settled:
    """How a settlement went."""
    stale, ended = answer
    if stale:
        return STALE
    return Settled(ended_batch=ended) if ended else FRESH


def decode_claimed(answer: Sequence[Any] | None) -> Claimed | None:
    """What was leased; None where the server has to be told what is served."""
    if answer is None:
        return None
    found, next_due, params, now, *rest = answer
    # An empty list where there are none.
    headers: dict[str, str] = dict(rest[0]) if rest and rest[0] else {}
    claims: list[Claim] = []
    for row in found:
        if len(row) == FRESH_ITEMS:
            claims += _decode_fresh_items(row, params, headers)
        else:
            claims.append(_decode_claim(row, params))
    return Claimed(claims, next_due, now)


def _decode_fresh_items(row: list[Any], params: dict[str, str], headers: dict[str, str]) -> list[Claim]:
    """Items of a batch that nobody has claimed before."""
    destination, batch, started, depth, items, data = row
    text, begin = params[batch], f"{batch}.r"
    shared = from_json(headers[batch]) if batch in headers else NO_HEADERS
    return [
        Claim(
            f"{begin}{number:09d}",
            1,
            destination,
            "null",
            batch,
            number,
            item,
            0,
            0,
            shared,
            None,
            (),
            text,
            started,
            depth,
            brought,
        )
        for number, item, brought in zip(items[::2], items[1::2], data or repeat(None), strict=False)
    ]


def _decode_claim(row: list[Any], params: dict[str, str]) -> Claim:
    id, fence, destination, body, batch, number, item, failures, losses, headers, retry, journal, *rest = row
    started, depth, data = rest
    return Claim(
        id,
        fence,
        destination,
        body,
        batch,
        number,
        item,
        failures,
        losses,
        from_json(headers) if headers else NO_HEADERS,
        RetryPolicy.from_wire(from_json(retry)) if retry else None,
        _decode_journal(journal) if journal else (),
        params[batch] if batch else "null",
        started,
        depth,
        data,
    )


def _decode_journal(text: str) -> Journal:
    return tuple(_decode_step(row) for row in from_json(text))


def _decode_step(row: list[Any]) -> Step:
    # Numbers that are too large for Lua's JSON come as text.
    row[8] = int(row[8])
    return Step._make(row)


def decode_run(row: Sequence[Any]) -> Run:
    """A run; without its journal where that was not read."""
    *fields, journal = row
    return rows.run(fields, _decode_journal(journal) if journal else ())


def decode_dead_letter(row: Sequence[Any]) -> DeadLetter:
    """A dead letter."""
    *fields, journal = row
    return rows.dead_letter(fields, _decode_journal(journal))


def decode_waiter(row: Sequence[Any]) -> Waiter:
    """Who waits for an event."""
    run, step, since, until = row
    return Waiter(run, step, since, int(until) or None)


def decode_worker(row: Sequence[Any]) -> WorkerStatus:
    """A worker."""
    name, since, seen_at, lease_until, concurrency, hanging, holds, lost = row
    return WorkerStatus(name, since, seen_at, int(lease_until), concurrency, hanging, holds or {}, lost)


def decode_mark(row: Sequence[Any]) -> Mark:
    """A mark."""
    item, expires_at = row
    return Mark(item, None if expires_at is None else int(expires_at))


class FastPath:
    """Those of one group: the slots of their operations, steps first, and the arguments that the script takes."""

    __slots__ = ("_settlements", "_steps", "settlements", "steps")

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.settlements: list[int] = []
        self._steps: list[str | bytes] = []
        self._settlements: list[str | bytes] = []

    def take(self, slot: int, verb: str, arguments: Sequence[Any]) -> bool:
        """Whether the operation is one of them.

        Raises:
            PydanticSerializationError: it holds text that has no encoding.
        """
        if verb == "record":
            id, fence, step = arguments
            return fence == 1 and _is_item(id) and self._step(slot, id, step)
        return verb == "settle" and self._end(slot, arguments[0])

    def _step(self, slot: int, id: str, step: Step) -> bool:
        self._steps += (id, f"s{step.number}", to_json(step))
        self.steps.append(slot)
        return True

    def _end(self, slot: int, ends: Settlement) -> bool:
        if ends.ending != "done" or ends.fence != 1 or ends.effects or not _is_item(ends.id):
            return False
        self._settlements += (ends.id, b"null" if ends.result is None else to_json(ends.result), str(ends.took_ms))
        self.settlements.append(slot)
        return True

    def arguments(self, worker: str) -> list[str | bytes]:
        """What the script takes: the worker, how many of each, and they themselves."""
        if not self.steps and not self.settlements:
            return []
        return [worker, str(len(self.steps)), str(len(self.settlements)), *self._steps, *self._settlements]


def _is_item(id: str) -> bool:
    return id[-11:-9] == ".r"


DECODERS: dict[str, Callable[[Any], Any]] = {"settle": decode_settled, "claim": decode_claimed}
"""What is made of the answers of some verbs before anybody has them."""


class VerbCall(NamedTuple):
    """A verb with its arguments."""

    verb: str
    arguments: Sequence[Any]


class ScriptRequest:
    """A group: what goes to the script, and by slot what cannot go there at all.

    `worker` is who holds the claims of the group where only one can, else empty: then nothing is taken to go smoothly.
    """

    __slots__ = ("_fast_path", "_operations", "_ranked", "_worker", "refused")

    def __init__(self, operations: Sequence[VerbCall], worker: str) -> None:
        self._operations = operations
        self._worker = worker
        self._fast_path = smooth = FastPath()
        self._ranked: list[tuple[int, int, bytes]] = []
        self.refused: list[tuple[int, Exception]] = []
        # Ends come after effects that are still on their way. Of those that only publish, the claim itself is held, and
        # keeps its batch open whatever else ends: so only its own end has to wait.
        telling = [arguments for verb, arguments in operations if verb == "record_with_effects"]
        easy = worker and all(isinstance(effect, Publish) for arguments in telling for effect in arguments[3])
        later = {arguments[0] for arguments in telling}
        for slot, (verb, arguments) in enumerate(operations):
            try:
                awaits = later and verb == "settle" and arguments[0].id in later
                if awaits or not (easy and smooth.take(slot, verb, arguments)):
                    self._ranked.append((_rank(verb, arguments), slot, encode_operation(verb, arguments)))
            except (PydanticSerializationError, UnicodeError) as error:
                self.refused.append((slot, error))
        self._ranked.sort(key=lambda one: one[:2])

    @property
    def texts(self) -> list[bytes]:
        """Operations that the script reads, in their order."""
        return [text for _, _, text in self._ranked]

    @property
    def fast_path_arguments(self) -> list[str | bytes]:
        """Those that it takes as they are."""
        return self._fast_path.arguments(self._worker)

    @property
    def slots(self) -> list[int]:
        """All that goes to the script, the smooth first."""
        return [*self._fast_path.steps, *self._fast_path.settlements, *[slot for _, slot, _ in self._ranked]]

    def answers(self, reply: Any) -> Iterable[tuple[int, bool, Any]]:
        """What the script answered, by slot: whether it was carried out, and its answer or the error's text."""
        found: list[tuple[bool, Any]]
        # Of the smooth ones those that went otherwise than expected, by their place from 1 on.
        otherwise: list[tuple[int, bool, Any]]
        found, otherwise = from_json(reply)
        smooth = self._fast_path
        yield from [(slot, True, "recorded") for slot in smooth.steps]
        yield from [(slot, True, FRESH) for slot in smooth.settlements]
        slots = self.slots
        for place, fine, answer in otherwise:
            yield self._made(slots[place - 1], fine, answer)
        for (_, slot, _), (fine, answer) in zip(self._ranked, found, strict=True):
            yield self._made(slot, fine, answer)

    def _made(self, slot: int, fine: bool, answer: Any) -> tuple[int, bool, Any]:
        made = DECODERS.get(self._operations[slot].verb) if fine else None
        return slot, fine, made(answer) if made else answer


def _rank(verb: str, arguments: Sequence[Any]) -> int:
    # What stays comes before what ends: a step that begins to wait with its suspension is there when its child ends.
    return 2 * rank(verb) + (verb == "settle" and arguments[0].ending in {"done", "answered", "dead", "cancelled"})
