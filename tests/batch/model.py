"""A small model of an engine and its store, in memory: enough to run a bound workflow to its end."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar

from batchflow.batch.bound import Workflow
from batchflow.core.batch import Batch, Counts, Item, ItemState, NewBatch
from batchflow.core.codec import DEFAULT_SIZE_LIMIT
from batchflow.core.dead_letters import ALL_DEAD_LETTERS, DeadLetter, DeadLetterGroup, DeadLetterQuery
from batchflow.core.expected_data import ExpectedData
from batchflow.core.failure_budget import FailureBudget
from batchflow.core.flow import FlowHolder, FlowStatus
from batchflow.core.ids import complete_id, item_run_id
from batchflow.core.message import Claim, Message, OpenMessage, UnservedWork, WorkerStatus
from batchflow.core.ports import DeadLetterStore, LogNames, Threads
from batchflow.core.run import Journal, Run, RunQuery, Step, Waiter, apply_arrivals, merge_steps
from batchflow.core.settlement import Effect, FinishEntry, FinishWalk, Publish, RecordPage, Settlement, StartItems
from batchflow.core.store import FlowKeyAdmin, Ledger, RecordResult
from batchflow.engine.observers import EngineLog, with_engine_log
from batchflow.engine.watchers import Watchers
from batchflow.serve.endpoint import Endpoint, Runtime
from tests.batch.job import Clock, Job, NoChance

T = TypeVar("T")


class Model:
    """A client to trigger and ask with, a journal to record in, and a worker that `drive` lets run until it is idle."""

    limit = DEFAULT_SIZE_LIMIT
    executes = True
    ledger: Ledger | None = None

    def __init__(self, threads: Threads) -> None:
        self.clock = Clock()
        self.endpoints: dict[str, Endpoint] = {}
        self.jobs: dict[str, Job] = {}
        self.queue: deque[tuple[Message, int]] = deque()
        self.published: list[Message] = []
        self.held: list[Message] = []
        self.known: set[str] = set()
        self.journals: dict[str, Journal] = {}
        self.results: dict[str, str] = {}
        self.dead: dict[str, str] = {}
        self.marked: dict[str, set[str]] = {}
        self.item_ms = 10
        self.limits: list[FlowStatus] = []
        self.expected_data = ExpectedData()
        self.failures: dict[str, int] = {}
        self.watchers = Watchers()
        self.threads: Threads | None = threads
        self.names: dict[str, LogNames] = {}
        self.log = EngineLog(self.names, self.now)
        observers = with_engine_log(log=self.log)
        self.runtime = Runtime(
            journaling=self, clock=self.clock, entropy=NoChance(), threads=threads, observers=observers
        )

    def serve(self, workflow: Workflow[Any, Any]) -> None:
        self.endpoints.update((endpoint.route, endpoint) for endpoint in workflow.endpoints)
        self.names.update((endpoint.route, endpoint.log) for endpoint in workflow.endpoints)

    # The client's port

    @property
    def store(self) -> "Model":
        return self

    @property
    def marks(self) -> "Model":
        return self

    @property
    def run_store(self) -> "Model":
        return self

    @property
    def replaces_ended_runs(self) -> bool:
        return False

    def check_run(self, *options: object, **named: object) -> None: ...

    @property
    def dead_letter_store(self) -> DeadLetterStore: ...

    @property
    def flow_keys(self) -> FlowKeyAdmin: ...

    def now(self) -> int:
        return self.clock.ms

    def new_id(self, kind: Literal["run", "batch"]) -> str:
        return f"{'bat' if kind == 'batch' else 'run'}_{len(self.jobs):03}"

    async def publish(self, messages: Sequence[Message]) -> Sequence[bool]:
        new = [message.id not in self.known for message in messages]
        for message in messages:
            if message.id not in self.known:
                self.known.add(message.id)
                self.published.append(message)
                if message.held:
                    self.held.append(message)
                else:
                    self.queue.append((message, -1))
                if message.batch:
                    self._work(message.batch, +1)
        return new

    async def open_batch(self, batch: NewBatch, messages: Sequence[Message]) -> bool:
        if batch.id in self.jobs or (batch.open_dedup and await self.under_way(batch.open_dedup)):
            return False
        made = Batch(
            id=batch.id,
            workflow=batch.workflow,
            state="pending",
            params=batch.params,
            force=batch.force,
            label=batch.label,
            created_at=self.now(),
        )
        self.jobs[batch.id] = Job(batch, made)
        await self.publish(messages)
        return True

    async def under_way(self, open_dedup: str) -> str | None:
        found = (job for job in self.jobs.values() if job.new.open_dedup == open_dedup)
        return next((job.new.id for job in found if not job.batch.items_ended), None)

    async def batch(self, id: str) -> Batch | None:
        return self.jobs[id].batch if id in self.jobs else None

    async def flows(self, keys: Sequence[str] | None = None, *, waiting: bool = True) -> Sequence[FlowStatus]:
        return self.limits

    async def flow_holders(self, key: str, limit: int = 100) -> Sequence[FlowHolder]:
        return ()

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
        assert before is None
        found = [job.batch for job in reversed(self.jobs.values()) if workflow in (None, job.batch.workflow)]
        return [it for it in found if not (open_only and it.items_ended) and label in (None, it.label)][:limit]

    async def items(
        self, batch: str, *, state: ItemState | None = None, after: int = -1, limit: int = 100, results: bool = True
    ) -> Sequence[Item]:
        items = [item for number, item in sorted(self.jobs[batch].items.items()) if number > after]
        return [item for item in items if state in (None, item.state)][:limit]

    async def cancel_batch(self, id: str) -> bool:
        job = self.jobs[id]
        if job.batch.items_ended:
            return False
        job.batch = replace(job.batch, state="cancelled", working=0, ended_at=self.now())
        self.queue = deque(it for it in self.queue if it[0].batch != id)
        return True

    async def pause_batch(self, id: str) -> bool:
        raise NotImplementedError

    async def set_failure_budget(self, id: str, budget: FailureBudget | None) -> bool:
        raise NotImplementedError

    async def resume_batch(self, id: str) -> bool:
        raise NotImplementedError

    async def set_batch_priority(self, id: str, priority: int) -> bool:
        raise NotImplementedError

    async def approve_batch(self, id: str) -> bool:
        raise NotImplementedError

    async def run(self, id: str) -> Run | None:
        return None

    async def runs(self, query: RunQuery, limit: int) -> Sequence[Run]:
        raise NotImplementedError

    async def cancel_runs(
        self, *, destination: str | None = None, label: str | None = None, ids: Sequence[str] = ()
    ) -> int:
        raise NotImplementedError

    async def notify(self, event: str, data: str, run: str | None = None) -> Sequence[str]:
        raise NotImplementedError

    async def waiters(self, event: str) -> Sequence[Waiter]:
        raise NotImplementedError

    async def workers(self) -> Sequence[WorkerStatus]:
        return ()

    async def unserved(self, limit: int = 100) -> Sequence[UnservedWork]:
        return ()

    async def find_item(self, batch: str, item_id: str) -> Item | None:
        return next((it for it in self.jobs[batch].items.values() if it.id == item_id), None)

    async def open_messages(self, batch: str, *, layers: bool = False, limit: int = 20) -> Sequence[OpenMessage]:
        return ()

    async def items_with_ids(self, batch: str, ids: Sequence[str]) -> Sequence[Item]:
        raise NotImplementedError

    async def retries(self, batch: str) -> Sequence[Batch]:
        return ()

    async def retried_items(self, batch: str, ids: Sequence[str]) -> Mapping[str, tuple[str, Item]]:
        raise NotImplementedError

    async def missing_items(self, batch: str, ids: Sequence[str]) -> frozenset[str]:
        raise NotImplementedError

    async def find_items(self, workflow: str, item_id: str, limit: int = 20) -> Sequence[tuple[str, Item]]:
        raise NotImplementedError

    async def webhook(self, token: str) -> str | None:
        raise NotImplementedError

    async def dead_letter(self, id: str) -> DeadLetter | None:
        raise NotImplementedError

    async def dead_letters(
        self, query: DeadLetterQuery = ALL_DEAD_LETTERS, limit: int = 50, before: tuple[int, str] | None = None
    ) -> Sequence[DeadLetter]:
        raise NotImplementedError

    async def dead_letter_groups(
        self, query: DeadLetterQuery = ALL_DEAD_LETTERS, limit: int = 100
    ) -> Sequence[DeadLetterGroup]:
        raise NotImplementedError

    async def open(self) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError

    async def cancel_run(self, id: str) -> bool:
        return False

    async def processed(self, workflow: str, ids: Sequence[str]) -> frozenset[str]:
        return frozenset(self.marked.get(workflow, set()).intersection(ids))

    async def mark(self, workflow: str, ids: Sequence[str], ttl_ms: int | None) -> None:
        self.marked.setdefault(workflow, set()).update(ids)

    async def forget(self, workflow: str, ids: Sequence[str] | None = None) -> int:
        marks = self.marked.get(workflow, set())
        gone = set(marks if ids is None else marks.intersection(ids))
        marks -= gone
        return len(gone)

    @property
    def concurrency(self) -> int | None:
        return None

    async def ended(self, id: str, look: Callable[[], Awaitable[T | None]], limit: float | None) -> T | None:
        return await self.watchers.wait_for_end(id, look, limit)

    # The journal's port

    async def record(self, claim: str, fence: int, step: Step, effects: tuple[Effect, ...] = ()) -> RecordResult:
        self.journals[claim] = merge_steps(self.journals.get(claim, ()), (step,))
        for effect in effects:
            await self._apply(effect)
        return "recorded"

    # The worker

    async def drive(self) -> None:
        """Deliver everything, moving the clock on to whatever is due next."""
        while self.queue:
            self.watchers.check_all()
            message, number = self.queue.popleft()
            self.clock.ms = max(self.clock.ms, message.not_before)
            claim = self._claim(message, number)
            self.clock.ms += self.item_ms if number >= 0 else 0
            delivery = self.endpoints[message.destination].deliver(claim, self.runtime)
            settlement = await asyncio.create_task(delivery)
            assert settlement is not None
            await self._settle(settlement, message, number)
            self.log.settled(claim, settlement)
        self.watchers.check_all()

    def _claim(self, message: Message, number: int) -> Claim:
        job = self.jobs.get(message.batch or "")
        journal = self.journals.get(message.id, ())
        self.journals[message.id] = journal = merge_steps(journal, apply_arrivals(journal, self.now()))
        return Claim(
            id=message.id,
            fence=1,
            destination=message.destination,
            body=message.body,
            batch=message.batch,
            number=number,
            item=job.items[number].id if job and number >= 0 else "",
            failures=self.failures.get(message.id, 0),
            journal=journal,
            params=job.new.params if job else "null",
        )

    async def _settle(self, settlement: Settlement, message: Message, number: int) -> None:
        self.journals[message.id] = merge_steps(self.journals.get(message.id, ()), settlement.steps)
        if settlement.ending in ("retry", "suspended", "parked"):
            self.failures[message.id] = self.failures.get(message.id, 0) + (settlement.ending == "retry")
            self.queue.append((replace(message, not_before=settlement.due), number))
            return
        if settlement.result is not None:
            self.results[message.id] = settlement.result
        if settlement.ending == "dead":
            self.dead[message.id] = settlement.error or ""
        for effect in settlement.effects:
            await self._apply(effect)
        if message.batch:
            self._end(self.jobs[message.batch], settlement, number)

    async def _apply(self, effect: Effect) -> None:
        match effect:
            case FinishEntry(batch, total):
                job = self.jobs[batch]
                job.entered = True
                job.batch = replace(job.batch, state="open", total=total)
            case RecordPage(batch, eligible, already_processed, duplicates, left_out, chunks):
                job = self.jobs[batch]
                job.count(
                    eligible=eligible, already_processed=already_processed, duplicates=duplicates, left_out=left_out
                )
                job.batch = replace(job.batch, pages=job.batch.pages + 1, chunks=job.batch.chunks + chunks)
            case StartItems(batch, first, ids):
                self._start(self.jobs[batch], first, ids)
            case FinishWalk(batch, total):
                job = self.jobs[batch]
                job.batch = replace(job.batch, total=total)
                self.queue.extend((message, -1) for message in self.held)
                self.held.clear()
            case Publish(messages):
                await self.publish(messages)
            case _:
                raise AssertionError(f"no layer of a batch writes {effect}")

    def _start(self, job: Job, first: int, ids: tuple[str, ...]) -> None:
        for number, id in enumerate(ids, first):
            if any(item.id == id for item in job.items.values()):
                job.count(duplicates=1)
                continue
            job.items[number] = Item(number=number, id=id, state="open")
            job.count(open=1)
            message = Message(
                id=item_run_id(job.new.id, number), destination=job.new.execute, flow=job.new.flow, batch=job.new.id
            )
            self.queue.append((message, number))

    def _end(self, job: Job, settlement: Settlement, number: int) -> None:
        if number < 0:
            self._work(job.new.id, -1)
            if settlement.ending == "dead" and not job.batch.items_ended:
                job.batch = replace(job.batch, state="failed", error=settlement.error, ended_at=self.now())
        else:
            state: ItemState = "succeeded" if settlement.ending == "done" else "failed"
            item = job.items[number]
            job.items[number] = replace(item, state=state, result=settlement.result, error=settlement.error)
            job.count(open=-1, **{state: 1})
            job.batch = replace(job.batch, worked_ms=job.batch.worked_ms + self.item_ms)
            if state == "succeeded":
                self.marked.setdefault(job.new.ledger, set()).add(item.id)
        self._complete(job)

    def _complete(self, job: Job) -> None:
        if job.batch.items_ended or not job.entered or job.batch.working or job.batch.counts.open:
            return
        job.batch = replace(job.batch, state="completed", ended_at=self.now())
        if job.new.complete:
            message = Message(
                id=complete_id(job.new.id),
                destination=job.new.complete,
                flow=job.new.complete_flow,
                batch=job.new.id,
            )
            self.queue.append((message, -1))
            self._work(job.new.id, +1)

    def _work(self, batch: str, more: int) -> None:
        job = self.jobs[batch]
        job.batch = replace(job.batch, working=job.batch.working + more)

    def counts(self, batch: str) -> Counts:
        """The states of a batch's items."""
        return self.jobs[batch].batch.counts
