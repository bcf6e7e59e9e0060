"""The client port of an engine: what publishes and asks, whether or not a worker runs in this process."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Literal

from batchflow.core import ids
from batchflow.core.batch import Batch, Item, ItemState, NewBatch
from batchflow.core.clock import Clock, Entropy
from batchflow.core.flow import FlowStatus
from batchflow.core.limit import DEFAULT, Limit
from batchflow.core.message import Message
from batchflow.core.ports import Ledger, Threads
from batchflow.core.run import Run, RunQuery, Waiter
from batchflow.core.worker import WorkerStatus
from batchflow.stores.protocol import Store


class StoreClient:
    """`batchflow.core.ports.Client` over a store."""

    def __init__(self, store: Store, clock: Clock, entropy: Entropy, limit: Limit = DEFAULT) -> None:
        self.store = store
        self.ledger: Ledger | None = None
        """See the port."""
        self.limit: Limit = limit
        """See the port."""
        self._clock: Clock = clock
        self._entropy: Entropy = entropy
        self._changes = 0
        self._change = asyncio.Event()

    def _wake(self) -> None:
        """Something may be due; who works here wants to know."""

    def _notify(self) -> None:
        """Something may have ended."""
        self._changes += 1
        self._change.set()
        # Another one: an event is bound to the event loop on which it was waited for.
        self._change = asyncio.Event()

    def now(self) -> int:
        """See `batchflow.core.ports.Client`."""
        return self._clock.now()

    def new_id(self, kind: Literal["run", "batch"]) -> str:
        """See the port."""
        if kind == "batch":
            return ids.batch_id(self.now(), self._entropy.bytes(ids.BATCH_ENTROPY))
        return ids.run_id(self.now(), self._entropy.bytes(ids.RUN_ENTROPY))

    async def publish(self, messages: Sequence[Message]) -> Sequence[bool]:
        """See the port."""
        # Woken first, the worker claims in the very transaction that publishes.
        self._wake()
        return await self.store.publish(messages)

    async def open_batch(self, batch: NewBatch, messages: Sequence[Message]) -> bool:
        """See the port."""
        self._wake()
        return await self.store.open_batch(batch, messages)

    async def under_way(self, open_dedup: str) -> str | None:
        """See the port."""
        return await self.store.under_way(open_dedup)

    async def batch(self, id: str) -> Batch | None:
        """See the port."""
        return await self.store.batch(id)

    async def batches(
        self, *, workflow: str | None = None, label: str | None = None, open_only: bool = False, limit: int = 50
    ) -> Sequence[Batch]:
        """See the port."""
        return await self.store.batches(workflow=workflow, label=label, open_only=open_only, limit=limit)

    async def items(self, batch: str, *, state: ItemState | None, after: int, limit: int) -> Sequence[Item]:
        """See the port."""
        return await self.store.items(batch, state=state, after=after, limit=limit)

    async def cancel_batch(self, id: str) -> bool:
        """See the port."""
        found = await self.store.cancel_batch(id)
        self._notify()
        return found

    async def run(self, id: str) -> Run | None:
        """See the port."""
        return await self.store.run(id)

    async def runs(self, query: RunQuery, limit: int) -> Sequence[Run]:
        """See the port."""
        return await self.store.runs(query, limit)

    async def cancel_run(self, id: str) -> bool:
        """See the port."""
        found = await self.store.cancel_run(id)
        self._notify()
        return found

    async def cancel_runs(self, *, destination: str | None = None, label: str | None = None) -> int:
        """See the port."""
        found = await self.store.cancel_runs(destination=destination, label=label)
        self._notify()
        return found

    async def notify(self, event: str, data: str, run: str | None = None) -> Sequence[str]:
        """See the port."""
        return await self.store.notify(event, data, run)

    async def waiters(self, event: str) -> Sequence[Waiter]:
        """See the port."""
        return await self.store.waiters(event)

    async def webhook(self, token: str) -> str | None:
        """See the port."""
        return await self.store.webhook(token)

    async def processed(self, workflow: str, ids: Sequence[str]) -> frozenset[str]:
        """See the port."""
        return await (self.ledger or self.store).processed(workflow, ids)

    async def marked(self, workflow: str, ids: Sequence[str]) -> frozenset[str]:
        """See the port."""
        return await self.store.processed(workflow, ids)

    async def mark(self, workflow: str, ids: Sequence[str], ttl_ms: int | None) -> None:
        """See the port."""
        await (self.ledger or self.store).mark(workflow, ids, ttl_ms)

    async def forget(self, workflow: str, ids: Sequence[str] | None = None) -> int:
        """See the port."""
        return await (self.ledger or self.store).forget(workflow, ids)

    async def workers(self) -> Sequence[WorkerStatus]:
        """See the port."""
        return await self.store.workers()

    async def flows(self, keys: Sequence[str]) -> Sequence[FlowStatus]:
        """See the port."""
        return await self.store.flows(keys)

    @property
    def threads(self) -> Threads | None:
        """See the port."""
        return None

    @property
    def changes(self) -> int:
        """See the port."""
        return self._changes

    async def changed(self, since: int, timeout: float) -> None:
        """See the port."""
        if self._changes == since:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._change.wait()
