"""The answer to the question why a batch is not done: one sentence, then all that it waits for."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from batchflow.batch.definition import Definition
from batchflow.batch.names import quantity
from batchflow.batch.status import WaitReason
from batchflow.batch.wait_reason import WorkflowRoutes, find_wait_reason
from batchflow.core.batch import Batch
from batchflow.core.duration import humanize_duration
from batchflow.core.flow import FlowHolder, FlowStatus
from batchflow.core.message import OpenMessage, OpenState, UnservedWork, WorkerStatus
from batchflow.core.ports import Client
from batchflow.core.report import headline, one_line
from batchflow.errors import StoreError
from batchflow.serve.waiting import format_moment

SHOWN_ITEMS = 20
SHOWN_LAYERS = 5
SHOWN_KEYS = 10
SHOWN_HOLDERS = 5
SHOWN_WORKERS = 10

_AGAIN: tuple[OpenState, ...] = ("retrying", "parked", "lost")
_SLOWS = frozenset({"limit", "completion"})
# The reasons with which a batch goes on all the same.


class BindingKey(NamedTuple):
    """A flow key that holds a batch back, with the messages that take its places, the oldest first, if all are taken.

    They may be of other batches. What waits under the key is not counted.
    """

    status: FlowStatus
    holders: Sequence[FlowHolder] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitReport:
    """All that a batch waits for, at the time `at` (ms). `str()` of it is the `sentence` that sums it up.

    `items` are the first open items: those that are tried again, by time; those that run, the oldest first; those that
    wait. `layers` are the messages of the entry, the pages, the chunks and `on_complete` that have not ended. `steps`
    has the step that a suspended one waits for, by its run. `keys` are the flow keys that hold it back, `workers` those
    that serve it, and `unserved` is work of it that nobody serves. `reason` is as in the status of the batch.
    """

    batch: Batch
    at: int
    sentence: str
    reason: WaitReason | None = None
    items: Sequence[OpenMessage] = ()
    layers: Sequence[OpenMessage] = ()
    steps: Mapping[str, str]
    keys: Sequence[BindingKey] = ()
    workers: Sequence[WorkerStatus] = ()
    unserved: Sequence[UnservedWork] = ()

    def __str__(self) -> str:
        return self.sentence


async def explain_wait(client: Client, definition: Definition | None, batch: Batch) -> WaitReport:
    """Return the reasons why a batch, which was read just now, is not done; of an ended one since when it has been.

    It costs some twenty bounded reads, however many items are open. `definition` is None where the app of the batch is
    not known.
    """
    store, now = client.store, client.now()
    if batch.items_ended and not batch.working:
        return WaitReport(batch=batch, at=now, sentence=_ended_sentence(batch), steps={})
    found = () if batch.items_ended else await store.open_messages(batch.id, limit=SHOWN_ITEMS)
    layers = await store.open_messages(batch.id, layers=True, limit=SHOWN_LAYERS) if batch.working else ()
    waiting = Counter(it.flow_key for it in (*found, *layers) if it.state != "running")
    # Those that are tried again do not wait for room: the reason sets them apart by the counts of the batch.
    waiting[batch.flow_key or ""] += batch.counts.retrying + batch.counts.parked - _count_again(found)
    routes, work = WorkflowRoutes(definition, batch.workflow), await store.unserved() if client.executes else ()

    async def flows_of(names: Sequence[str]) -> Sequence[FlowStatus]:
        return [it._replace(waiting=waiting[it.limits.key or ""]) for it in await _flows(client, names)]

    reason = await find_wait_reason(
        store, definition, batch, now, concurrency=client.concurrency, unserved=work, flows_of=flows_of
    )
    workers = [it for it in await store.workers() if _serves(it, routes)]
    unserved = [it for it in work if it.destination in routes and it.batch in (None, batch.id)]
    items = sorted(found, key=lambda it: (it.due_at or 0) if it.state in _AGAIN else _LAST)[:SHOWN_ITEMS]
    steps: dict[str, str] = {}
    for message in (*items, *layers):
        if message.state == "suspended" and (step := await _pending_step(client, message)):
            steps[message.id] = step
    return WaitReport(
        batch=batch,
        at=now,
        sentence=_Sentence(batch, reason, found, layers, steps, workers if client.executes else None, now).text(),
        reason=reason,
        items=items,
        layers=layers,
        steps=steps,
        keys=await _binding_keys(client, sorted(key for key, count in waiting.items() if count > 0), reason),
        workers=workers[:SHOWN_WORKERS],
        unserved=unserved,
    )


_LAST = 2**62


def _serves(worker: WorkerStatus, routes: WorkflowRoutes) -> bool:
    # A worker of an older version has not reported what it serves.
    return not worker.serves or any(it in routes for it in (*worker.serves, *worker.holds))


async def _pending_step(client: Client, message: OpenMessage) -> str:
    """Return the step that a suspended run waits for, such as "wait 'approved'"."""
    run = await client.store.run(message.id)
    pending = [it for it in run.journal if it.state == "pending"] if run else []
    named = [f"{it.kind} '{it.name}'" for it in pending[:2]]
    return ", ".join(named) + (f" and {len(pending) - 2} more" if len(pending) > 2 else "")


def _count_again(found: Sequence[OpenMessage]) -> int:
    return sum(it.state in ("retrying", "parked") for it in found)


async def _binding_keys(client: Client, names: Sequence[str], reason: WaitReason | None) -> list[BindingKey]:
    """Return those of the keys under which messages wait that are closed or full, or that delay them by their rate."""
    found: list[BindingKey] = []
    delays = reason is not None and reason.code == "limit"
    for status in await _flows(client, names):
        limits, now = status.limits, client.now()
        is_full = limits.parallelism is not None and status.in_use >= limits.parallelism
        is_closed = status.paused or status.parked_until > now or status.breaker.open_for > 0
        is_full = is_full or status.breaker.trial is not None
        if is_full or is_closed or (delays and limits.rate is not None):
            holders = await client.flow_keys.flow_holders(limits.key or "", SHOWN_HOLDERS) if is_full else ()
            found.append(BindingKey(status, holders))
    return found[:SHOWN_KEYS]


async def _flows(client: Client, names: Sequence[str]) -> Sequence[FlowStatus]:
    """Read flow keys where their limits hold, or those of the store if that does not answer."""
    try:
        return await client.flow_keys.flows(names, waiting=False)
    except StoreError:
        return await client.store.flows(names, waiting=False)


def _ended_sentence(batch: Batch) -> str:
    since = f"it is done: {batch.state} since {format_moment(batch.ended_at or batch.created_at)}"
    if batch.completion_error is None:
        return since
    return f"{since}, but its on_complete failed: {one_line(headline(batch.completion_error))}"


class _Sentence:
    """The sentence that answers the question, in parts: what stops the batch, and what of it is open.

    `workers` are those that serve it; None if none is needed.
    """

    def __init__(
        self,
        batch: Batch,
        reason: WaitReason | None,
        items: Sequence[OpenMessage],
        layers: Sequence[OpenMessage],
        steps: Mapping[str, str],
        workers: Sequence[WorkerStatus] | None,
        now: int,
    ) -> None:
        self._batch = batch
        self._reason = reason
        self._items = items
        self._layers = layers
        self._steps = steps
        self._workers = workers
        self._now = now

    def text(self) -> str:
        stop, clauses = self._stop(), self._clauses()
        waits = f"it waits for {'; '.join(clauses)}" if clauses else ""
        return "; ".join(part for part in (stop, waits) if part) or "it goes on; nothing holds it back"

    def _stop(self) -> str:
        if self._batch.state == "cancelling":
            return "it is being cancelled, and what is under way ends at its next step"
        reason = self._reason if self._reason and self._reason.code not in _SLOWS else None
        is_served = self._workers is None or not all(it.lost for it in self._workers)
        if not is_served and (reason is None or reason.code in ("unserved", "worker_silent")):
            silent = f": {reason.sentence}" if reason and reason.code == "worker_silent" else ""
            return f"no live worker serves it{silent}"
        return reason.sentence if reason else ""

    def _clauses(self) -> list[str]:
        if self._batch.items_ended:
            return [f"its on_complete, which {self._doing(self._layers)}" if self._layers else "its on_complete"]
        clauses = [self._walk()] if self._batch.working else []
        clauses += [clause for clause in (self._again(), self._running(), self._suspended(), self._waiting()) if clause]
        return clauses

    def _walk(self) -> str:
        batch = self._batch
        if batch.state == "pending":
            return f"its first layer, which {self._doing(self._layers)}" if self._layers else "its first layer"
        walked = f"{quantity(batch.pages, 'page')} walked so far"
        doing = f": one of {quantity(batch.working, 'message')} {self._doing(self._layers)}" if self._layers else ""
        return f"pages that are not walked ({walked}){doing}"

    def _doing(self, found: Sequence[OpenMessage]) -> str:
        """Say of the first of these messages where it is, such as "is tried again in 8s (…) after ConnectError: …"."""
        message = found[0]
        match message.state:
            case "running":
                return f"has run for {self._age(message.started_at)}"
            case "suspended":
                return f"waits for {self._steps.get(message.id) or 'something from outside'}{self._until(message)}"
            case "waiting" if message.due_at is None:
                return "waits to start"
            case "waiting":
                return f"starts {self._moment(message.due_at)}"
            case _:
                after = one_line(headline(message.error)) if message.error else "the loss of its worker"
                return f"is tried again {self._moment(message.due_at)} after {after}"

    def _again(self) -> str:
        counts, found = self._batch.counts, [it for it in self._items if it.state in _AGAIN]
        count = max(counts.retrying + counts.parked + sum(it.state == "lost" for it in found), len(found))
        if not count:
            return ""
        which = f"{quantity(count, 'item')} that {'is' if count == 1 else 'are'} tried again"
        if not found:
            return which
        first = min(found, key=lambda it: it.due_at or 0)
        when = self._moment(first.due_at)
        return f"{which}, {when}" if count == 1 else f"{which}, the next {when}"

    def _running(self) -> str:
        found = self._in("running")
        if not found:
            return ""
        age = self._age(found[0].started_at)
        verb = "has" if len(found) == 1 else "have"
        oldest = "" if len(found) == 1 else " at most"
        return f"{self._many(found)} that {verb} run for{oldest} {age}"

    def _suspended(self) -> str:
        found = self._in("suspended")
        if not found:
            return ""
        first = "" if len(found) == 1 else "the first "
        step = self._steps.get(found[0].id)
        return f"{self._many(found)} suspended" + (f", {first}in {step}{self._until(found[0])}" if step else "")

    def _waiting(self) -> str:
        known = sum(len(self._in(state)) for state in ("lost", "running", "suspended"))
        counts = self._batch.counts
        if not self._in("waiting"):
            return ""
        is_exact = all(len(self._in(state)) < SHOWN_ITEMS for state in ("lost", "running", "suspended"))
        rest = max(counts.open - counts.retrying - counts.parked - known, len(self._in("waiting")))
        many = quantity(rest, "item") if is_exact else f"up to {quantity(rest, 'item')}"
        limit = f" ({self._reason.sentence})" if self._reason and self._reason.code == "limit" else ""
        return f"{many} to start{limit}"

    def _in(self, state: OpenState) -> list[OpenMessage]:
        return [it for it in self._items if it.state == state]

    def _many(self, found: Sequence[OpenMessage]) -> str:
        more = " or more" if len(found) == SHOWN_ITEMS else ""
        return quantity(len(found), "item") if not more else f"{len(found)}{more} items"

    def _age(self, since: int | None) -> str:
        return humanize_duration(max(0, self._now - (since or self._now)) // 1000 * 1000)

    def _moment(self, due: int | None) -> str:
        if due is None:
            return "as soon as there is room"
        left = humanize_duration((due - self._now + 999) // 1000 * 1000)
        return f"in {left} ({format_moment(due)})"

    def _until(self, message: OpenMessage) -> str:
        return "" if message.due_at is None else f", {self._moment(message.due_at)} at the latest"
