"""The verbs of `batchflow.core.wire_store.WireStore` on Redis that read, and those that need several calls."""

from collections.abc import Mapping, Sequence

from batchflow.core.posts import Document, DocumentKind, LogEntry, LoggedEntry, Queue
from batchflow.core.run import NEVER
from batchflow.core.wire_runs import EventWait, RunEntry, RunMember, WireRun
from batchflow.stores.wire import WireVerbs, logged, queue, run_entry


class RedisWireVerbs(WireVerbs):
    """Posts, runs, queues and documents in Redis."""

    # Posts

    async def open_posts(self, tenant: str, *, after: int = 0, limit: int = 100) -> Sequence[LoggedEntry]:
        """See the protocol."""
        found: list[LoggedEntry] = []
        more = True
        while more:
            rows, more = await self._enqueue("open_posts", tenant, after, limit - len(found))
            found += map(logged, rows)
            after = found[-1].key if found else after
        return found

    async def log_entries(
        self, tenant: str, *, before: int | None = None, limit: int = 100, message: str | None = None
    ) -> Sequence[LoggedEntry]:
        """See the protocol."""
        found: list[LoggedEntry] = []
        more = True
        while more:
            rows, more = await self._enqueue("log_entries", tenant, before, limit - len(found), message)
            found += map(logged, rows)
            before = found[-1].key if found else before
        return found

    async def created_entries(self, tenant: str, ids: Sequence[str]) -> Mapping[str, LogEntry]:
        """See the protocol."""
        return await self._of_posts("created_entries", tenant, ids)

    async def latest_entries(self, tenant: str, ids: Sequence[str]) -> Mapping[str, LogEntry]:
        """See the protocol."""
        return await self._of_posts("latest_entries", tenant, ids)

    async def _of_posts(self, verb: str, tenant: str, ids: Sequence[str]) -> Mapping[str, LogEntry]:
        found: dict[str, LogEntry] = {}
        more = True
        while more:
            rows, more = await self._enqueue(verb, tenant, [id for id in ids if id not in found])
            found.update((entry.message, entry) for _, entry in map(logged, rows))
        return found

    # Runs

    async def claim_entry(self, tenant: str, run: str, message: str) -> Sequence[RunEntry] | None:
        """See the protocol; many entries are read in several calls, which all find the run as it is."""
        found: list[RunEntry] = []
        last = 1
        while len(found) < last:
            answer = await self._enqueue("claim_entry", tenant, run, message, len(found))
            if answer is None:
                return None
            rows, last = answer
            found += map(run_entry, rows)
        return found

    async def event_waits(self, tenant: str, event: str) -> Sequence[EventWait]:
        """See the protocol."""
        return [EventWait(*row) for row in await self._enqueue("event_waits", tenant, event)]

    async def wire_run(self, tenant: str, id: str) -> WireRun | None:
        """See the protocol."""
        row = await self._enqueue("wire_run", tenant, id)
        return WireRun(*row) if row else None

    async def wire_runs(
        self, tenant: str, *, before: tuple[int, str] | None = None, limit: int = 100
    ) -> Sequence[WireRun]:
        """See the protocol."""
        found: list[WireRun] = []
        more: tuple[int, str] | None = before or (NEVER, "")
        while more:
            rows, more = await self._enqueue("wire_runs", tenant, *more, limit - len(found))
            found += [WireRun(*row) for row in rows]
        return found

    async def run_entries(self, tenant: str, run: str) -> Sequence[RunEntry]:
        """See the protocol."""
        found: list[RunEntry] = []
        more = True
        while more:
            rows, more = await self._enqueue("run_entries", tenant, run, len(found))
            found += map(run_entry, rows)
        return found

    async def run_members(self, tenant: str, run: str) -> Sequence[RunMember]:
        """See the protocol."""
        return [RunMember(*row) for row in await self._enqueue("run_members", tenant, run)]

    # Queues

    async def queue(self, tenant: str, name: str) -> Queue | None:
        """See the protocol."""
        row = await self._enqueue("queue", tenant, name)
        return queue(row) if row else None

    async def queues(self, tenant: str) -> Sequence[Queue]:
        """See the protocol."""
        return [queue(row) for row in await self._enqueue("queues", tenant)]

    async def drop_queue(self, tenant: str, name: str) -> bool:
        """See the protocol; of very many posts that wait, each slice is cancelled in a transaction of its own."""
        dropped: bool | None = None
        while dropped is None:
            dropped = await self._enqueue("drop_queue", tenant, name)
        return dropped

    # Documents

    async def document(self, kind: DocumentKind, name: str) -> Document | None:
        """See the protocol."""
        row = await self._enqueue("document", kind, name)
        return Document(*row) if row else None

    async def documents(
        self, kind: DocumentKind, *, prefix: str = "", after: str = "", limit: int = 100
    ) -> Sequence[Document]:
        """See the protocol."""
        return [Document(*row) for row in await self._enqueue("documents", kind, prefix, after, limit)]
