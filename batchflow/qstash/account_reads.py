"""The runs of an app on QStash: those of its accounts, and those that items of its batches have started."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from batchflow.core.dead_letters import DeadLetter
from batchflow.core.flow import FlowStatus
from batchflow.core.ids import is_of_batch
from batchflow.core.message import UnservedWork
from batchflow.core.run import Run, RunQuery, Waiter
from batchflow.core.store import RunReads

T = TypeVar("T")


class RunsOfAccounts:
    """See `batchflow.core.store.RunReads`: the runs of each account, and of the store for batches if there is one.

    They are asked one after the other.
    """

    def __init__(self, accounts: Sequence[RunReads], store: RunReads | None) -> None:
        self._accounts = accounts
        self._store = store
        self._places = [*accounts, *([] if store is None else [store])]

    async def run(self, id: str) -> Run | None:
        """See the port."""
        if self._store is not None and is_of_batch(id):
            return await self._store.run(id)
        return await self._first(lambda place: place.run(id))

    async def runs(self, query: RunQuery, limit: int) -> Sequence[Run]:
        """See the port."""
        found = [run for place in self._places for run in await place.runs(query, limit)]
        return sorted(found, key=lambda run: (run.created_at, run.id), reverse=True)[:limit]

    async def waiters(self, event: str) -> Sequence[Waiter]:
        """See the port."""
        return [waiter for place in self._places for waiter in await place.waiters(event)]

    async def under_way(self, open_dedup: str) -> str | None:
        """See the port."""
        return await self._first(lambda place: place.under_way(open_dedup))

    async def dead_letter(self, id: str) -> DeadLetter | None:
        """See the port."""
        return await self._first(lambda place: place.dead_letter(id))

    async def unserved(self, limit: int = 100) -> Sequence[UnservedWork]:
        """See the port: QStash calls whoever is there."""
        return ()

    async def flows(self, keys: Sequence[str] | None = None, *, waiting: bool = True) -> Sequence[FlowStatus]:
        """See the port."""
        return [flow for account in self._accounts for flow in await account.flows(keys, waiting=waiting)]

    async def _first(self, find: Callable[[RunReads], Awaitable[T | None]]) -> T | None:
        for place in self._places:
            if (found := await find(place)) is not None:
                return found
        return None
