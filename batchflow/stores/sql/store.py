"""What a store does alike on every dialect: each verb named once, for a group or for a reading transaction."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from batchflow.core.batch import Batch, Item, ItemState
from batchflow.core.flow import FlowStatus
from batchflow.core.ledger import Mark
from batchflow.core.message import Claimed, DeadLetter
from batchflow.core.run import Run, RunQuery, Waiter
from batchflow.core.worker import WorkerStatus
from batchflow.stores.sql import flows, reads, waiting
from batchflow.stores.sql import ledger as ledgers
from batchflow.stores.writing import Writing

T = TypeVar("T")


class SqlStore(Writing):
    """The verbs of a store on a SQL database; a dialect opens it, and carries out groups and reads."""

    @abstractmethod
    async def _read(self, read: Callable[..., T], *arguments: Any) -> T:
        """Carry out `read`, whose first argument is a `Tx`, in one transaction that sees what is committed."""

    # Messages

    async def claim(self, worker: str, destinations: Sequence[str], limit: int) -> Claimed:
        """See the protocol."""
        return await self._add("claim", worker, destinations, limit)

    async def workers(self) -> Sequence[WorkerStatus]:
        """See the protocol."""
        return await self._read(reads.workers)

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
        return await self._read(waiting.waiters, event)

    async def webhook(self, token: str) -> str | None:
        """See the protocol."""
        return await self._read(waiting.webhook, token)

    # Dead letters

    async def dead_letters(self, *, batch: str | None = None, limit: int = 50) -> Sequence[DeadLetter]:
        """See the protocol."""
        return await self._read(reads.dead_letters, batch, limit)

    async def under_way(self, open_dedup: str) -> str | None:
        """See the protocol."""
        return await self._read(reads.under_way, open_dedup)

    # Batches

    async def batch(self, id: str) -> Batch | None:
        """See the protocol."""
        return await self._read(reads.batch, id)

    async def batches(
        self, *, workflow: str | None = None, label: str | None = None, open_only: bool = False, limit: int = 50
    ) -> Sequence[Batch]:
        """See the protocol."""
        return await self._read(reads.batch_list, workflow, label, open_only, limit)

    async def items(
        self, batch: str, *, state: ItemState | None = None, after: int = -1, limit: int = 100
    ) -> Sequence[Item]:
        """See the protocol."""
        return await self._read(reads.items, batch, state, after, limit)

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

    async def flows(self, keys: Sequence[str] | None = None) -> Sequence[FlowStatus]:
        """See the protocol."""
        return await self._read(flows.status, keys)

    # Housekeeping

    async def reconcile(self, destinations: Sequence[str], *, deep: bool = False) -> int:
        """See the protocol; a group is one transaction."""
        return 0
