"""A store in front of a store: all verbs go one way, on which a subclass can stand in it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from batchflow.core.batch import Batch, Item, ItemState, NewBatch
from batchflow.core.flow import FlowControl, FlowStatus
from batchflow.core.ledger import Mark
from batchflow.core.message import Claimed, DeadLetter, Message
from batchflow.core.run import Run, RunQuery, Step, Waiter
from batchflow.core.settlement import Effect, Settled, Settlement
from batchflow.core.store import Store, Verdict
from batchflow.core.worker import WorkerStatus

T = TypeVar("T")


class Died(BaseException):
    """The process died at a verb, as the test wanted. What `drive` raises; no `except Exception` stops it."""


class PassingStore:
    """Hands every verb on to `store`, as one process does.

    Once `died` is set the process is gone: the call at which it died and all later ones never return, and nothing
    reaches the store any more.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.died = asyncio.Event()
        self._settling: list[asyncio.Future[Any]] = []

    # What happens at a verb

    async def _through(self, verb: str, call: Callable[[], Awaitable[T]]) -> T:
        """Every verb but `renew` goes through here."""
        if self.died.is_set():
            await self._gone(verb)
        answer = await call()
        if self.died.is_set():
            await self._gone(verb)
        return answer

    def _written(self, verb: str, call: Callable[[], Awaitable[T]]) -> Awaitable[T]:
        # Not a task that would be left over at the end of the test.
        return self._gone(verb) if self.died.is_set() else self._through(verb, call)

    async def _die(self, verb: str) -> None:
        self.died.set()
        await self._gone(verb)

    def _gone(self, verb: str) -> "asyncio.Future[Any]":
        """Never resolves; a task that is being cancelled, as at the end of a test, is let go."""
        future = asyncio.get_running_loop().create_future()
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            future.cancel()
        elif verb == "settle":
            self._settling.append(future)
        return future

    def bury(self) -> None:
        """Let go of the settlements that never return, once it has died."""
        settling, self._settling = self._settling, []
        for future in settling:
            future.cancel()

    # Life

    @property
    def lasting(self) -> bool:
        """See the protocol."""
        return self.store.lasting

    async def open(self) -> None:
        """See the protocol."""
        await self._through("open", self.store.open)

    async def close(self) -> None:
        """See the protocol; works in every state, so that a test can tidy up."""
        await self.store.close()

    def on_change(self, callback: Callable[[bool], None]) -> Callable[[], None]:
        """See the protocol."""
        return self.store.on_change(callback)

    # Messages

    async def publish(self, messages: Sequence[Message]) -> Sequence[bool]:
        """See the protocol."""
        return await self._through("publish", lambda: self.store.publish(messages))

    async def enlist(self, worker: str, lease_ms: int, concurrency: int = 0) -> None:
        """See the protocol."""
        await self._through("enlist", lambda: self.store.enlist(worker, lease_ms, concurrency))

    def renew(self, worker: str, lease_ms: int, hung: Sequence[tuple[str, int]] = (), hanging: int = 0) -> bool:
        """See the protocol."""
        return self.store.renew(worker, lease_ms, hung, hanging)

    async def claim(self, worker: str, destinations: Sequence[str], limit: int) -> Claimed:
        """See the protocol."""
        return await self._through("claim", lambda: self.store.claim(worker, destinations, limit))

    def record(self, claim: str, fence: int, step: Step, effects: tuple[Effect, ...] = ()) -> Awaitable[Verdict]:
        """See the protocol."""
        return self._written("record", lambda: self.store.record(claim, fence, step, effects))

    def settle(self, settlement: Settlement) -> Awaitable[Settled]:
        """See the protocol."""
        return self._written("settle", lambda: self.store.settle(settlement))

    async def expire(self) -> int:
        """See the protocol."""
        return await self._through("expire", self.store.expire)

    async def dismiss(self, worker: str) -> None:
        """See the protocol."""
        await self._through("dismiss", lambda: self.store.dismiss(worker))

    async def workers(self) -> Sequence[WorkerStatus]:
        """See the protocol."""
        return await self._through("workers", self.store.workers)

    # Runs

    async def run(self, id: str) -> Run | None:
        """See the protocol."""
        return await self._through("run", lambda: self.store.run(id))

    async def cancel_run(self, id: str) -> bool:
        """See the protocol."""
        return await self._through("cancel_run", lambda: self.store.cancel_run(id))

    async def runs(self, query: RunQuery, limit: int) -> Sequence[Run]:
        """See the protocol."""
        return await self._through("runs", lambda: self.store.runs(query, limit))

    async def cancel_runs(self, *, destination: str | None = None, label: str | None = None) -> int:
        """See the protocol."""
        return await self._through("cancel_runs", lambda: self.store.cancel_runs(destination=destination, label=label))

    async def notify(self, event: str, data: str, run: str | None = None) -> Sequence[str]:
        """See the protocol."""
        return await self._through("notify", lambda: self.store.notify(event, data, run))

    async def waiters(self, event: str) -> Sequence[Waiter]:
        """See the protocol."""
        return await self._through("waiters", lambda: self.store.waiters(event))

    async def webhook(self, token: str) -> str | None:
        """See the protocol."""
        return await self._through("webhook", lambda: self.store.webhook(token))

    async def dead_letters(self, *, batch: str | None = None, limit: int = 50) -> Sequence[DeadLetter]:
        """See the protocol."""
        return await self._through("dead_letters", lambda: self.store.dead_letters(batch=batch, limit=limit))

    async def redrive(self, id: str) -> bool:
        """See the protocol."""
        return await self._through("redrive", lambda: self.store.redrive(id))

    # Batches

    async def open_batch(self, batch: NewBatch, messages: Sequence[Message]) -> bool:
        """See the protocol."""
        return await self._through("open_batch", lambda: self.store.open_batch(batch, messages))

    async def batch(self, id: str) -> Batch | None:
        """See the protocol."""
        return await self._through("batch", lambda: self.store.batch(id))

    async def batches(
        self, *, workflow: str | None = None, label: str | None = None, open_only: bool = False, limit: int = 50
    ) -> Sequence[Batch]:
        """See the protocol."""
        return await self._through(
            "batches", lambda: self.store.batches(workflow=workflow, label=label, open_only=open_only, limit=limit)
        )

    async def items(
        self, batch: str, *, state: ItemState | None = None, after: int = -1, limit: int = 100
    ) -> Sequence[Item]:
        """See the protocol."""
        return await self._through("items", lambda: self.store.items(batch, state=state, after=after, limit=limit))

    async def cancel_batch(self, id: str) -> bool:
        """See the protocol."""
        return await self._through("cancel_batch", lambda: self.store.cancel_batch(id))

    async def pause_batch(self, id: str) -> bool:
        """See the protocol."""
        return await self._through("pause_batch", lambda: self.store.pause_batch(id))

    async def resume_batch(self, id: str) -> bool:
        """See the protocol."""
        return await self._through("resume_batch", lambda: self.store.resume_batch(id))

    async def under_way(self, open_dedup: str) -> str | None:
        """See the protocol."""
        return await self._through("under_way", lambda: self.store.under_way(open_dedup))

    # The ledger

    async def processed(self, ledger: str, ids: Sequence[str]) -> frozenset[str]:
        """See the protocol."""
        return await self._through("processed", lambda: self.store.processed(ledger, ids))

    async def mark(self, ledger: str, ids: Sequence[str], ttl_ms: int | None) -> None:
        """See the protocol."""
        await self._through("mark", lambda: self.store.mark(ledger, ids, ttl_ms))

    async def forget(self, ledger: str, ids: Sequence[str] | None = None) -> int:
        """See the protocol."""
        return await self._through("forget", lambda: self.store.forget(ledger, ids))

    async def ledgers(self) -> Sequence[str]:
        """See the protocol."""
        return await self._through("ledgers", self.store.ledgers)

    async def marks(self, ledger: str, *, after: str | None = None, limit: int = 1_000) -> Sequence[Mark]:
        """See the protocol."""
        return await self._through("marks", lambda: self.store.marks(ledger, after=after, limit=limit))

    # Flow keys

    async def declare(self, limits: Sequence[FlowControl]) -> None:
        """See the protocol."""
        await self._through("declare", lambda: self.store.declare(limits))

    async def pin(self, limits: FlowControl) -> None:
        """See the protocol."""
        await self._through("pin", lambda: self.store.pin(limits))

    async def unpin(self, key: str, *, parallelism: bool = True, rate: bool = True) -> None:
        """See the protocol."""
        await self._through("unpin", lambda: self.store.unpin(key, parallelism=parallelism, rate=rate))

    async def pause(self, key: str) -> None:
        """See the protocol."""
        await self._through("pause", lambda: self.store.pause(key))

    async def resume(self, key: str) -> None:
        """See the protocol."""
        await self._through("resume", lambda: self.store.resume(key))

    async def flows(self, keys: Sequence[str] | None = None) -> Sequence[FlowStatus]:
        """See the protocol."""
        return await self._through("flows", lambda: self.store.flows(keys))

    # Housekeeping

    async def prune(self, retention_ms: int) -> int:
        """See the protocol."""
        return await self._through("prune", lambda: self.store.prune(retention_ms))

    async def reconcile(self, destinations: Sequence[str], *, deep: bool = False) -> int:
        """See the protocol."""
        return await self._through("reconcile", lambda: self.store.reconcile(destinations, deep=deep))

    async def was_emptied(self) -> bool:
        """See the protocol."""
        return await self._through("was_emptied", self.store.was_emptied)
