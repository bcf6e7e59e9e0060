"""A store on a SQL database: its verbs, and the functions that carry them out in a group."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from batchflow.core.batch import Batch, Item, ItemState, Mark
from batchflow.core.dead_letters import ALL_DEAD_LETTERS, DeadLetter, DeadLetterGroup, DeadLetterQuery
from batchflow.core.flow import FlowHolder, FlowStatus
from batchflow.core.message import ClaimResult, OpenMessage, UnservedWork, WorkerStatus
from batchflow.core.posts import Document, DocumentKind, LogEntry, LoggedEntry, Queue
from batchflow.core.run import NEVER, Run, RunQuery, Waiter
from batchflow.core.schedule import DueSchedules, ScheduleStatus
from batchflow.core.wire_runs import EventWait, RunEntry, RunMember, WireRun
from batchflow.stores.base import Answers, WriteVerbs, rank
from batchflow.stores.sql import (
    batches,
    claims,
    dead_letters,
    documents,
    events,
    flows,
    ledger,
    messages,
    operating,
    post_log,
    posts,
    queues,
    reads,
    retries,
    schedules,
    settling,
    steps,
    wire_runs,
)
from batchflow.stores.sql import ledger as ledgers
from batchflow.stores.sql.transaction import Tx
from batchflow.stores.sql.workers import deregister, expire, renew
from batchflow.stores.wire import WireVerbs

T = TypeVar("T")


class SqlStore(WriteVerbs, WireVerbs):
    """The verbs of a store on a SQL database; a dialect opens it, and runs groups and reads."""

    @abstractmethod
    async def _read(self, read: Callable[..., T], *arguments: Any) -> T:
        """Run `read`, whose first argument is a `Tx`, in a transaction that reads committed data."""

    # Messages

    async def claim(self, worker: str, destinations: Sequence[str], limit: int) -> ClaimResult:
        """See the protocol."""
        return await self._enqueue("claim", worker, destinations, limit)

    async def claim_one(self, worker: str, id: str, fence: int) -> ClaimResult:
        """See the protocol."""
        return await self._enqueue("claim_one", worker, id, fence)

    async def workers(self) -> Sequence[WorkerStatus]:
        """See the protocol."""
        return await self._read(reads.workers)

    async def unserved(self, limit: int = 100) -> Sequence[UnservedWork]:
        """See the protocol."""
        return await self._read(reads.unserved, limit)

    # Runs

    async def run(self, id: str) -> Run | None:
        """See the protocol."""
        return await self._read(reads.run, id)

    async def runs(self, query: RunQuery, limit: int) -> Sequence[Run]:
        """See the protocol."""
        return await self._read(reads.run_list, query, limit)

    # Events

    async def waiters(self, event: str) -> Sequence[Waiter]:
        """See the protocol."""
        return await self._read(events.waiters, event)

    async def webhook(self, token: str) -> str | None:
        """See the protocol."""
        return await self._read(events.webhook, token)

    # Dead letters

    async def dead_letter(self, id: str) -> DeadLetter | None:
        """See the protocol."""
        return await self._read(dead_letters.read, id)

    async def dead_letters(
        self, query: DeadLetterQuery = ALL_DEAD_LETTERS, limit: int = 50, before: tuple[int, str] | None = None
    ) -> Sequence[DeadLetter]:
        """See the protocol."""
        return await self._read(dead_letters.listed, query, limit, before)

    async def dead_letter_groups(
        self, query: DeadLetterQuery = ALL_DEAD_LETTERS, limit: int = 100
    ) -> Sequence[DeadLetterGroup]:
        """See the protocol."""
        return await self._read(dead_letters.groups, query, limit)

    async def under_way(self, open_dedup: str) -> str | None:
        """See the protocol."""
        return await self._read(reads.under_way, open_dedup)

    # Batches

    async def batch(self, id: str) -> Batch | None:
        """See the protocol."""
        return await self._read(reads.batch, id)

    async def batches(
        self,
        *,
        workflow: str | None = None,
        label: str | None = None,
        open_only: bool = False,
        limit: int = 50,
        params: bool = True,
        before: str | None = None,
    ) -> Sequence[Batch]:
        """See the protocol."""
        return await self._read(reads.batch_list, workflow, label, open_only, limit, params, before)

    async def items(
        self,
        batch: str,
        *,
        state: ItemState | None = None,
        after: int = -1,
        limit: int = 100,
        results: bool = True,
    ) -> Sequence[Item]:
        """See the protocol."""
        return await self._read(reads.items, batch, state, after, limit, results)

    async def find_item(self, batch: str, item_id: str) -> Item | None:
        """See the protocol."""
        return await self._read(reads.find_item, batch, item_id)

    async def items_with_ids(self, batch: str, ids: Sequence[str]) -> Sequence[Item]:
        """See the protocol."""
        return await self._read(retries.items_with_ids, batch, ids)

    async def retries(self, batch: str) -> Sequence[Batch]:
        """See the protocol."""
        return await self._read(retries.listed, batch)

    async def retried_items(self, batch: str, ids: Sequence[str]) -> Mapping[str, tuple[str, Item]]:
        """See the protocol."""
        return await self._read(retries.items, batch, ids)

    async def missing_items(self, batch: str, ids: Sequence[str]) -> frozenset[str]:
        """See the protocol."""
        return await self._read(retries.missing, batch, ids)

    async def open_messages(self, batch: str, *, layers: bool = False, limit: int = 20) -> Sequence[OpenMessage]:
        """See the protocol."""
        return await self._read(reads.open_messages, batch, layers, limit)

    async def find_items(self, workflow: str, item_id: str, limit: int = 20) -> Sequence[tuple[str, Item]]:
        """See the protocol."""
        return await self._read(reads.find_items, workflow, item_id, limit)

    # The ledger

    async def processed(self, ledger: str, ids: Sequence[str]) -> frozenset[str]:
        """See the protocol."""
        return await self._read(ledgers.processed, ledger, ids)

    async def ledgers(self) -> Sequence[str]:
        """See the protocol."""
        return await self._read(ledgers.ledgers)

    async def marks(self, ledger: str, *, after: str | None = None, limit: int = 1_000) -> Sequence[Mark]:
        """See the protocol."""
        return await self._read(ledgers.marks, ledger, after, limit)

    # Flow keys

    async def flows(self, keys: Sequence[str] | None = None, *, waiting: bool = True) -> Sequence[FlowStatus]:
        """See the protocol."""
        return await self._read(flows.status, keys, waiting)

    async def flow_holders(self, key: str, limit: int = 100) -> Sequence[FlowHolder]:
        """See the protocol."""
        return await self._read(flows.holders, key, limit)

    # Schedules

    async def due_schedules(self, destinations: Sequence[str], limit: int = 100) -> DueSchedules:
        """See the protocol."""
        return await self._read(schedules.due, destinations, limit)

    async def schedule(self, id: str) -> ScheduleStatus | None:
        """See the protocol."""
        return await self._read(schedules.find, id)

    async def schedules(self, *, after: str = "", limit: int = 100) -> Sequence[ScheduleStatus]:
        """See the protocol."""
        return await self._read(schedules.listed, after, limit)

    # Posts

    async def open_posts(self, tenant: str, *, after: int = 0, limit: int = 100) -> Sequence[LoggedEntry]:
        """See the protocol."""
        return await self._read(post_log.open_posts, tenant, after, limit)

    async def log_entries(
        self, tenant: str, *, before: int | None = None, limit: int = 100, message: str | None = None
    ) -> Sequence[LoggedEntry]:
        """See the protocol."""
        return await self._read(post_log.entries, tenant, NEVER if before is None else before, limit, message)

    async def created_entries(self, tenant: str, ids: Sequence[str]) -> Mapping[str, LogEntry]:
        """See the protocol."""
        return await self._read(post_log.created, tenant, ids)

    async def latest_entries(self, tenant: str, ids: Sequence[str]) -> Mapping[str, LogEntry]:
        """See the protocol."""
        return await self._read(post_log.latest, tenant, ids)

    # Workflow runs of QStash

    async def event_waits(self, tenant: str, event: str) -> Sequence[EventWait]:
        """See the protocol."""
        return await self._read(wire_runs.waits, tenant, event)

    async def wire_run(self, tenant: str, id: str) -> WireRun | None:
        """See the protocol."""
        return await self._read(wire_runs.find, tenant, id)

    async def wire_runs(
        self, tenant: str, *, before: tuple[int, str] | None = None, limit: int = 100
    ) -> Sequence[WireRun]:
        """See the protocol."""
        return await self._read(wire_runs.listed, tenant, before, limit)

    async def run_entries(self, tenant: str, run: str) -> Sequence[RunEntry]:
        """See the protocol."""
        return await self._read(wire_runs.entries, tenant, run)

    async def run_members(self, tenant: str, run: str) -> Sequence[RunMember]:
        """See the protocol."""
        return await self._read(wire_runs.members, tenant, run)

    # Queues and documents

    async def queue(self, tenant: str, name: str) -> Queue | None:
        """See the protocol."""
        return await self._read(queues.find, tenant, name)

    async def queues(self, tenant: str) -> Sequence[Queue]:
        """See the protocol."""
        return await self._read(queues.listed, tenant)

    async def document(self, kind: DocumentKind, name: str) -> Document | None:
        """See the protocol."""
        return await self._read(documents.find, kind, name)

    async def documents(
        self, kind: DocumentKind, *, prefix: str = "", after: str = "", limit: int = 100
    ) -> Sequence[Document]:
        """See the protocol."""
        return await self._read(documents.listed, kind, prefix, after, limit)

    # Housekeeping

    async def reconcile(self, destinations: Sequence[str], *, deep: bool = False) -> int:
        """See the protocol; a group is one transaction."""
        return 0


def prune(tx: Tx, retention_ms: int, limit: int) -> int:
    """Remove one slice of the rows whose retention is over, and return how many."""
    before = tx.now - retention_ms
    gone = tx.run("prune_marks", now=tx.now, limit=limit)
    tx.run("prune_steps", before=before, limit=limit)
    gone += tx.run("prune_runs", before=before, limit=limit)
    tx.run("prune_dead_steps", before=before, limit=limit)
    tx.run("prune_dead_webhooks", before=before, limit=limit)
    gone += tx.run("prune_dead_letters", before=before, limit=limit)
    gone += tx.run("prune_log", before=before, limit=limit)
    gone += tx.run("prune_dedup", now=tx.now, limit=limit)
    gone += tx.run("prune_wire_entries", before=before, limit=limit)
    gone += tx.run("prune_wire_members", before=before, limit=limit)
    gone += tx.run("prune_wire_runs", before=before, limit=limit)
    key = tx.one("prune_batch_pick", before=before)
    if key is not None:
        gone += tx.run("prune_items", batch=key, limit=limit) + tx.run("prune_retried", batch=key, limit=limit)
        if tx.run("prune_batch", batch=key):
            tx.run("lanes_drop", batch=key)
            tx.run("failure_drop", batch=key)
            gone += 1
            tx.forget_cached()
    return gone


Verb: TypeAlias = Callable[[Tx, list[tuple[Any, ...]]], Sequence[Any]]
"""Runs all calls of one verb in a group, given their arguments, and returns the answers in the same order."""


def _each(verb: Callable[..., Any]) -> Verb:
    """A verb whose calls run one by one."""
    return lambda tx, calls: [verb(tx, *arguments) for arguments in calls]


def _read(tx: Tx, read: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return read(tx, *arguments)


VERBS: Mapping[str, Verb] = {
    "register": _each(claims.register),
    "declare": _each(flows.declare),
    "pin": _each(flows.pin),
    "unpin": _each(flows.unpin),
    "pause": _each(flows.pause),
    "resume": _each(flows.resume),
    "reset": _each(flows.reset),
    "put_schedule": _each(schedules.put),
    "plan_schedule": _each(schedules.plan),
    "pause_schedule": _each(schedules.pause),
    "resume_schedule": _each(schedules.resume),
    "delete_schedule": _each(schedules.delete),
    "fire_schedule": _each(schedules.fire),
    "open_batch": _each(batches.open_batch),
    "record": steps.record,
    "record_with_effects": steps.record_with_effects,
    "settle": lambda tx, calls: settling.settle(tx, [settlement for (settlement,) in calls]),
    "publish": _each(messages.publish),
    "post": posts.post_calls,
    "log": post_log.log_calls,
    "claim_entry": _each(wire_runs.claim_entry),
    "notify_event": _each(wire_runs.notify),
    "end_run": _each(settling.end_run),
    "put_queue": _each(queues.put),
    "drop_queue": _each(queues.drop),
    "put_document": _each(documents.put),
    "drop_document": _each(documents.drop),
    "renew": _each(renew),
    "deregister": _each(deregister),
    "expire": _each(expire),
    "notify": _each(events.notify),
    "set_batch_priority": _each(batches.set_priority),
    "cancel_run": _each(operating.cancel_run),
    "cancel_listed": _each(operating.cancel_listed),
    "cancel_all": _each(operating.cancel_all),
    "cancel_posts": _each(operating.cancel_posts),
    "cancel_batch": _each(operating.cancel_batch),
    "pause_batch": _each(operating.pause_batch),
    "resume_batch": _each(operating.resume_batch),
    "set_failure_budget": _each(operating.set_failure_budget),
    "approve_batch": _each(batches.approve),
    "redrive": _each(dead_letters.redrive),
    "call_failure_again": _each(dead_letters.call_failure_again),
    "delete_dead_letter": _each(dead_letters.delete),
    "remove_idle": _each(flows.remove_idle),
    "sweep_cancelled": _each(operating.sweep_cancelled),
    "mark": _each(ledger.mark),
    "forget": _each(ledger.forget),
    "prune": _each(prune),
    "claim": _each(claims.claim),
    "claim_one": _each(claims.claim_one),
    "read": _each(_read),
}
"""The verbs of a group by name (`batchflow.stores.base.ORDER`), and `read`."""


def run_group(tx: Tx, calls: Sequence[tuple[str, tuple[Any, ...]]]) -> Answers:
    """Run a group of verbs with their arguments in the transaction `tx`; the answers are in the order of the calls."""
    answers: Answers = [(True, None)] * len(calls)
    by_verb: dict[str, list[int]] = {}
    for slot, (verb, _) in enumerate(calls):
        by_verb.setdefault(verb, []).append(slot)
    for verb in sorted(by_verb, key=rank):
        slots = by_verb[verb]
        found = VERBS[verb](tx, [calls[slot][1] for slot in slots])
        for slot, answer in zip(slots, found, strict=True):
            answers[slot] = (True, answer)
    return answers
