"""The runs of an app whose functions have several QStash accounts."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from batchflow.core.dead_letters import DeadLetter
from batchflow.core.flow import FlowStatus
from batchflow.core.message import UnservedWork
from batchflow.core.run import Run, RunQuery, Waiter
from batchflow.core.store import RunReads

T = TypeVar("T")


class RunsOfAccounts:
    """See `batchflow.core.store.RunReads`: the runs of each account, which are asked one after the other."""

    def __init__(self, accounts: Sequence[RunReads]) -> None:
        self._accounts = accounts

    async def run(self, id: str) -> Run | None:
        """See the port."""
        return await self._first(lambda account: account.run(id))

    async def runs(self, query: RunQuery, limit: int) -> Sequence[Run]:
        """See the port."""
        found = [run for account in self._accounts for run in await account.runs(query, limit)]
        return sorted(found, key=lambda run: (run.created_at, run.id), reverse=True)[:limit]

    async def waiters(self, event: str) -> Sequence[Waiter]:
        """See the port."""
        return [waiter for account in self._accounts for waiter in await account.waiters(event)]

    async def under_way(self, open_dedup: str) -> str | None:
        """See the port."""
        return await self._first(lambda account: account.under_way(open_dedup))

    async def dead_letter(self, id: str) -> DeadLetter | None:
        """See the port."""
        return await self._first(lambda account: account.dead_letter(id))

    async def unserved(self, limit: int = 100) -> Sequence[UnservedWork]:
        """See the port: QStash calls whoever is there."""
        return ()

    async def flows(self, keys: Sequence[str] | None = None, *, waiting: bool = True) -> Sequence[FlowStatus]:
        """See the port."""
        return [flow for account in self._accounts for flow in await account.flows(keys, waiting=waiting)]

    async def _first(self, find: Callable[[RunReads], Awaitable[T | None]]) -> T | None:
        for account in self._accounts:
            if (found := await find(account)) is not None:
                return found
        return None
