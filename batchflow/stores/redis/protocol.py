"""The protocol with the script: operations encoded as arrays, answers decoded, and a group put together as a request.

Values that Lua only passes on, such as steps, are JSON text. The Lua files index the arrays by the fields of the tuples
defined here, which `script` defines as constants.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import Any, NamedTuple, TypeAlias

from pydantic_core import PydanticSerializationError, from_json, to_json

from batchflow.core.batch import NO_HEADERS, Mark, NewBatch
from batchflow.core.breaker import BreakerChange
from batchflow.core.call import Body
from batchflow.core.dead_letters import DeadLetter, DeadLetterQuery, fingerprint_of, status_of
from batchflow.core.flow import FlowControl
from batchflow.core.message import Claim, ClaimResult, Message, WorkerStatus
from batchflow.core.posts import Post
from batchflow.core.retry import RetryPolicy
from batchflow.core.run import Journal, Run, Step, Waiter
from batchflow.core.schedule import Fire
from batchflow.core.settlement import (
    AcceptWebhook,
    Effect,
    EndRun,
    FinishEntry,
    FinishWalk,
    LeaveQueue,
    Listen,
    Log,
    Notice,
    Notify,
    OpenBatch,
    Publish,
    RecordPage,
    SendPosts,
    Settlement,
    SettleResult,
    StartItems,
    Unlisten,
)
from batchflow.core.wire_runs import AddEntry, AdoptRun, AwaitEvent, BeginRun, JoinRun, RunLink
from batchflow.stores import base
from batchflow.stores.base import chars_of_link, rank

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


class PostRow(NamedTuple):
    """A post; `message` is a `MessageRow`, or its JSON text if the post has a queue, which keeps it until its place."""

    id: str
    message: MessageRow | str
    tenant: str
    description: str
    dedup: str | None
    queue: str | None
    link: "LinkRow | None"


class LinkRow(NamedTuple):
    """The part of a post in a run: the name of its class, and the fields that it has.

    `entries` are bodies after a letter for their kind; `size` is that of the entries, or of the head of one. `due` is
    when a wait ends.
    """

    kind: str
    run: str
    size: int
    due: int
    created_at: int | None = None
    entries: Sequence[str] = ()
    late: bool = False
    url: str | None = None
    config: str | None = None
    invoker: str | None = None
    event: str | None = None
    head: str | None = None
    about: str | None = None


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
    retry_of: str | None
    priority: int
    notify_url: str | None
    failure_budget: str | None
    canary: int | None
    approve_under: float | None
    after_walk: bool


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
        case "post":
            return to_json((verb, [_encode_post(post) for post in arguments[0]]))
        case "end_run":
            return to_json((verb, *_encode_end(arguments[0])))
        case "notify_event":
            tenant, event, tail, run = arguments
            return to_json((verb, tenant, event, tail, len(tail), run))
        case "open_batch":
            batch, first = arguments
            return to_json((verb, _encode_batch(batch), [_encode_message(message) for message in first]))
        case "put_schedule":
            schedule, next_at = arguments
            timing = " ".join(schedule.cron)
            return to_json((verb, schedule.id, schedule.destination, timing, schedule.text, next_at))
        case "fire_schedule":
            return to_json((verb, *_encode_fire(arguments[0])))
        case "declare":
            return to_json((verb, [encode_limits(flow) for flow in arguments[0]]))
        case "pin":
            limits, until = arguments
            return to_json((verb, encode_limits(limits), until))
        case "redrive":
            id, restart, retry, flow = arguments
            limits = None if flow is None else encode_limits(flow)
            return to_json((verb, id, restart, to_json(retry.as_wire()).decode() if retry else None, limits))
        case _:
            return to_json((verb, *arguments))


def _encode_step(step: Step) -> tuple[str, int, str]:
    return f"s{step.number}", step.position, to_json(step).decode()


def _encode_settlement(ends: Settlement) -> Wire:
    steps = [_encode_step(step) for step in ends.steps]
    effects = [_encode_effect(effect) for effect in ends.effects]
    failures: list[Any] = [ends.failed_attempts, base.reason_of(ends), ends.grouped, ends.sentence]
    if ends.ending == "dead":
        failures += [status_of(ends.error or ""), fingerprint_of(ends.error or "")]
    return [ends.id, ends.fence, ends.ending, ends.result, ends.error, ends.due, steps, effects, ends.took_ms, failures]


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


def _encode_post(post: Post) -> PostRow:
    row = _encode_message(post.message)
    message = to_json(row).decode() if post.queue else row
    link = _encode_link(post.link, row.not_before) if post.link else None
    return PostRow(row.id, message, post.tenant, post.description, post.dedup, post.queue, link)


def _encode_link(link: RunLink, due: int) -> LinkRow:
    row = LinkRow(type(link).__name__, link.run, chars_of_link(link), due)
    match link:
        case BeginRun(_, url, entries, created_at, config, invoker):
            bodies = [_encode_body(body) for body in entries]
            return row._replace(url=url, entries=bodies, created_at=created_at, config=config, invoker=invoker)
        case AdoptRun(_, config, created_at):
            return row._replace(config=config, created_at=created_at)
        case AddEntry(_, body, created_at, late):
            return row._replace(entries=[_encode_body(body)], created_at=created_at, late=late)
        case JoinRun(_, created_at):
            return row._replace(created_at=created_at)
        case AwaitEvent(_, event, head, about, created_at):
            return row._replace(event=event, head=head, about=about, created_at=created_at)


def _encode_body(body: Body) -> str:
    return ("b" if body.base64 else "t") + body.text


def _encode_end(end: EndRun) -> Wire:
    posts = [_encode_post(post) for post in end.posts]
    return [end.tenant, end.run, end.state, end.result, posts, end.created_at]


def _encode_batch(batch: NewBatch) -> BatchRow:
    parent, step = batch.parent or (None, None)
    canary, approve_under, after_walk = batch.canary or (None, None, False)
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
        batch.retry_of,
        batch.priority,
        batch.notify_url,
        batch.failure_budget and batch.failure_budget.to_text(),
        canary,
        approve_under,
        after_walk,
    )


def _encode_fire(fire: Fire) -> Wire:
    start = fire.start
    batch = None if start is None or start.batch is None else _encode_batch(start.batch)
    messages = [] if start is None else [_encode_message(message) for message in start.messages]
    return [fire.id, fire.version, fire.at, fire.next_at, batch, messages, fire.error, fire.queue]


def _encode_item_flows(flows: Sequence[FlowControl | None]) -> Wire:
    """The different limits of items with a flow key of their own, and of each item the place of its own or 0."""
    if not flows:
        return []
    places: dict[FlowControl, int] = {}
    of = [0 if flow is None else places.setdefault(flow, len(places) + 1) for flow in flows]
    return [[encode_limits(flow) for flow in places], of]


def _encode_effect(effect: Effect) -> Wire:
    match effect:
        case StartItems():
            return ["start", *effect[:-1], _encode_item_flows(effect.flows)]
        case FinishWalk(batch, total):
            return ["walked", batch, total]
        case Publish(messages):
            return ["publish", [_encode_message(message) for message in messages]]
        case OpenBatch(batch, messages):
            return ["open", _encode_batch(batch), [_encode_message(message) for message in messages]]
        case FinishEntry(batch, total, left_out):
            return ["enter", batch, total, left_out]
        case RecordPage():
            counts = [effect.eligible, effect.already_processed, effect.duplicates, effect.left_out, effect.chunks]
            return ["page", effect.batch, *counts]
        case Listen(number, event, until):
            return ["listen", number, event, until]
        case Unlisten(numbers):
            return ["unlisten", numbers]
        case AcceptWebhook(token):
            return ["accept", token]
        case Notify(event, data, run):
            return ["notify", event, data, run]
        case SendPosts(posts):
            return ["send", [_encode_post(post) for post in posts]]
        case Log(entries):
            return ["log", entries]
        case LeaveQueue(message, heir):
            return ["leave", message, heir]
        case EndRun():
            return ["end_run", *_encode_end(effect)]


STALE = SettleResult(stale=True)
FRESH = SettleResult()
FRESH_ITEMS = 6
"""The length of a row of items that are claimed for the first time; a row of another message is longer."""
_DUE = Step._fields.index("due")


def decode_settled(answer: Sequence[Any]) -> SettleResult:
    """The answer of a settlement."""
    stale, ended, *change = answer
    if stale:
        return STALE
    if change:
        return SettleResult(ended_batch=ended, breaker=BreakerChange._make(change[0]))
    return SettleResult(ended_batch=ended) if ended else FRESH


def decode_claimed(answer: Sequence[Any] | None) -> ClaimResult | None:
    """The leased claims; None if the server needs the list of destinations."""
    if answer is None:
        return None
    found, next_due, params, now, *rest = answer
    # An empty table of Lua may arrive as a list.
    headers: dict[str, str] = dict(rest[0]) if rest and rest[0] else {}
    claims: list[Claim] = []
    for row in found:
        if len(row) == FRESH_ITEMS:
            claims += _decode_fresh_items(row, params, headers)
        else:
            claims.append(_decode_claim(row, params))
    return ClaimResult(claims, next_due, now)


def _decode_fresh_items(row: list[Any], params: dict[str, str], headers: dict[str, str]) -> list[Claim]:
    """Items of a batch that are claimed for the first time."""
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
    # Numbers that are too large for Lua's JSON arrive as text.
    row[_DUE] = int(row[_DUE])
    return Step._make(row)


def decode_run(row: Sequence[Any]) -> Run:
    """A run, with its journal if it was read."""
    *fields, journal = row
    return base.run(fields, _decode_journal(journal) if journal else ())


def decode_dead_letter(row: Sequence[Any]) -> DeadLetter:
    """A dead letter."""
    *fields, journal = row
    return base.dead_letter(fields, _decode_journal(journal) if journal else ())


def encode_query(query: DeadLetterQuery) -> dict[str, Any]:
    """A filter of dead letters."""
    destination, is_url = query.endpoint
    return {**query._asdict(), "destination": destination, "is_url": is_url}


def decode_waiter(row: Sequence[Any]) -> Waiter:
    """A step that waits for an event."""
    run, step, since, until = row
    return Waiter(run, step, since, int(until) or None)


def decode_worker(row: Sequence[Any]) -> WorkerStatus:
    """A worker."""
    name, since, seen_at, lease_until, concurrency, hanging, holds, lost, serves = row
    served = tuple(sorted(serves or ()))
    return WorkerStatus(name, since, seen_at, int(lease_until), concurrency, hanging, holds or {}, lost, served)


def decode_mark(row: Sequence[Any]) -> Mark:
    """A mark."""
    item, expires_at = row
    return Mark(item, None if expires_at is None else int(expires_at))


class FastPath:
    """Steps and settlements of items on their first claim, without effects: the most frequent operations.

    They are passed to the script as plain arguments, which saves it from decoding JSON. The script decides by itself
    whether an item is still on the fast path. `steps` and `settlements` are the slots of the operations in their group.
    """

    __slots__ = ("_settlements", "_steps", "settlements", "steps")

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.settlements: list[int] = []
        self._steps: list[str | bytes] = []
        self._settlements: list[str | bytes] = []

    def add(self, slot: int, verb: str, arguments: Sequence[Any]) -> bool:
        """Add an operation; False if it does not belong to the fast path.

        Raises:
            PydanticSerializationError: the operation contains text without an encoding.
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
        """The arguments of the script: the worker, the number of steps and of settlements, and these themselves."""
        if not self.steps and not self.settlements:
            return []
        return [worker, str(len(self.steps)), str(len(self.settlements)), *self._steps, *self._settlements]


def _is_item(id: str) -> bool:
    return id[-11:-9] == ".r"


DECODERS: dict[str, Callable[[Any], Any]] = {
    "settle": decode_settled,
    "claim": decode_claimed,
    "claim_one": decode_claimed,
}
"""Decoders of the answers of some verbs; other answers are used as they are."""


class VerbCall(NamedTuple):
    """A verb with its arguments."""

    verb: str
    arguments: Sequence[Any]


class ScriptRequest:
    """The request of a group. `refused` are the operations that cannot be encoded, by slot.

    `worker` is the worker that holds all claims of the store; if it is empty, the fast path is not used.
    """

    __slots__ = ("_fast_path", "_operations", "_ranked", "_worker", "notices", "refused")

    def __init__(self, operations: Sequence[VerbCall], worker: str) -> None:
        self._operations = operations
        self._worker = worker
        self._fast_path = fast_path = FastPath()
        self._ranked: list[tuple[int, int, bytes]] = []
        self.refused: list[tuple[int, Exception]] = []
        self.notices: Sequence[Notice] = ()
        # A settlement comes after effects in the same group. Effects that only publish belong to a claim that is held
        # and keeps its batch open, so that only the settlement of that claim has to come later.
        with_effects = [arguments for verb, arguments in operations if verb == "record_with_effects"]
        has_fast_path = worker and all(
            isinstance(effect, Publish) for arguments in with_effects for effect in arguments[3]
        )
        settled_later = {arguments[0] for arguments in with_effects}
        for slot, (verb, arguments) in enumerate(operations):
            try:
                waits = settled_later and verb == "settle" and arguments[0].id in settled_later
                if waits or not (has_fast_path and fast_path.add(slot, verb, arguments)):
                    self._ranked.append((_rank(verb, arguments), slot, encode_operation(verb, arguments)))
            except (PydanticSerializationError, UnicodeError) as error:
                self.refused.append((slot, error))
        self._ranked.sort(key=lambda one: one[:2])

    @property
    def texts(self) -> list[bytes]:
        """The encoded operations beside the fast path, in the order of verbs."""
        return [text for _, _, text in self._ranked]

    @property
    def fast_path_arguments(self) -> list[str | bytes]:
        """The arguments of the fast path."""
        return self._fast_path.arguments(self._worker)

    @property
    def slots(self) -> list[int]:
        """The slots of all operations in the request, the fast path first."""
        return [*self._fast_path.steps, *self._fast_path.settlements, *[slot for _, slot, _ in self._ranked]]

    def answers(self, reply: Any) -> Iterable[tuple[int, bool, Any]]:
        """The answers of the script, by slot: whether the operation succeeded, and its answer or the error's text."""
        found: list[tuple[bool, Any]]
        # Operations of the fast path with another answer than the usual one, by their place from 1 on.
        exceptions: list[tuple[int, bool, Any]]
        found, exceptions, *notices = from_json(reply)
        self.notices = [Notice._make(notice) for notice in notices[0]] if notices else ()
        yield from [(slot, True, "recorded") for slot in self._fast_path.steps]
        yield from [(slot, True, FRESH) for slot in self._fast_path.settlements]
        slots = self.slots
        for place, fine, answer in exceptions:
            yield self._decoded(slots[place - 1], fine, answer)
        for (_, slot, _), (fine, answer) in zip(self._ranked, found, strict=True):
            yield self._decoded(slot, fine, answer)

    def _decoded(self, slot: int, fine: bool, answer: Any) -> tuple[int, bool, Any]:
        decode = DECODERS.get(self._operations[slot].verb) if fine else None
        return slot, fine, decode(answer) if decode else answer


def _rank(verb: str, arguments: Sequence[Any]) -> int:
    # Suspensions come before ends: a step that begins to wait is recorded before its child ends.
    return 2 * rank(verb) + (verb == "settle" and arguments[0].ending in {"done", "failed", "dead", "cancelled"})
