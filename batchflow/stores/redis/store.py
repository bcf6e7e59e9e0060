"""`RedisStore`: the verbs of `batchflow.core.store.Store` on one namespace of a Redis server."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

from redis.exceptions import NoPermissionError

from batchflow.core.batch import Batch, Item, ItemState, Mark
from batchflow.core.dead_letters import ALL_DEAD_LETTERS, DeadLetter, DeadLetterGroup, DeadLetterQuery, merge_groups
from batchflow.core.flow import FlowHolder, FlowStatus
from batchflow.core.message import ClaimResult, OpenMessage, UnservedWork, WorkerStatus
from batchflow.core.ports import Clock
from batchflow.core.run import NEVER, Run, RunQuery, Waiter
from batchflow.core.schedule import DueSchedules, ScheduleStatus
from batchflow.core.settlement import Notice, Settlement
from batchflow.core.store import ITEMS_SIZE, Renew
from batchflow.stores import base
from batchflow.stores.base import GroupCommit, WriteVerbs, not_open
from batchflow.stores.redis import clients, errors, keys, protocol
from batchflow.stores.redis.clients import Client
from batchflow.stores.redis.notifier import ChangeNotifier
from batchflow.stores.redis.script import ScriptRunner
from batchflow.stores.redis.wire import RedisWireVerbs

DRAIN_S = 5.0


class RedisStore(WriteVerbs, RedisWireVerbs):
    """Durable state in Redis 6.2 or newer, which any number of processes share.

    `server` is a URL (`redis://`, `rediss://`, `unix://`, `redis+cluster://`, `redis+sentinel://`) or your own client
    (`redis.asyncio.Redis` or `RedisCluster`), which you close yourself. `namespace` separates programs or environments
    on one server; a cluster keeps all keys of a namespace on one node. The time is the server's unless a test gives a
    `clock`.
    """

    def __init__(self, server: str | Client, *, clock: Clock | None = None, namespace: str = "batchflow") -> None:
        self._namespace = namespace
        self._prefix = keys.prefix(namespace)
        self._owns_client = isinstance(server, str)
        self._client = clients.client_from_url(server) if isinstance(server, str) else server
        self._server = clients.server_name(self._client)
        self._runner = ScriptRunner(self._client, self._prefix, self._server, clock, self._on_settled, self._on_notices)
        self._notifier = ChangeNotifier()
        self._commit = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._founded = ""
        self._is_new = False
        self._claims: dict[str, _WorkerClaims] = {}

    # Life

    @property
    def is_durable(self) -> bool:
        """See the protocol."""
        return True

    @property
    def location(self) -> str:
        """See the protocol."""
        return f"{self._server}, namespace '{self._namespace}'"

    @property
    def is_new(self) -> bool:
        """See the protocol."""
        return self._is_new

    async def open(self) -> None:
        """See the protocol."""
        if self._commit is not None:
            return
        clients.check_pool(self._client, self._server)
        self._loop = asyncio.get_running_loop()
        number = await self._runner.open(self._namespace)
        # Stores are numbered from 1 on.
        self._is_new = number == 1
        self._founded = await self._runner.run_one("founded", keys.SCHEMA, number)
        try:
            await self._notifier.listen(self._client, self._prefix + keys.CHANNEL, number, self._on_reconnect)
        except NoPermissionError as error:
            raise errors.translate_error(error, self._server) from error
        self._commit = GroupCommit(self._runner.submit, lambda: self._notifier.notify(False))

    async def close(self) -> None:
        """See the protocol."""
        commit = self._commit
        if commit is not None:
            await self._stop_sweep()
            with contextlib.suppress(TimeoutError):
                # A server that does not answer is not waited for any longer.
                async with asyncio.timeout(DRAIN_S):
                    await commit.drain()
            self._commit = None
        await self._notifier.stop()
        if self._owns_client:
            await clients.close(self._client)

    def on_change(self, callback: Callable[[bool], None]) -> Callable[[], None]:
        """See the protocol."""
        return self._notifier.subscribe(callback)

    def on_notice(self, callback: Callable[[Notice], None]) -> Callable[[], None]:
        """See the protocol."""
        return self._notifier.subscribe_to_notices(callback)

    def _on_notices(self, notices: Sequence[Notice]) -> None:
        # Called on this event loop, which may be closed by now, or on that of the thread that renews.
        with contextlib.suppress(RuntimeError):
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._notifier.report, notices)

    def _on_reconnect(self) -> None:
        """The server was away: it may be another one, or have lost its latest writes."""
        for claims in self._claims.values():
            claims.report_held = True

    def _on_settled(self, settlement: Settlement) -> None:
        for claims in self._claims.values():
            if claims.held.get(settlement.id) == settlement.fence:
                del claims.held[settlement.id]

    # Running verbs

    def _enqueue(self, verb: str, *arguments: Any) -> "asyncio.Future[Any]":
        return self._require_open().add(verb, *arguments)

    def _require_open(self) -> GroupCommit:
        if self._commit is None:
            raise not_open(f"the store {self._server}")
        return self._commit

    # Messages

    async def register(
        self, worker: str, lease_ms: int, concurrency: int = 0, destinations: Sequence[str] | None = None
    ) -> None:
        """See the protocol."""
        self._require_open()
        list_name = None
        if destinations is not None:
            list_name = self._claims.setdefault(worker, _WorkerClaims()).list_name(destinations)
        await self._enqueue("register", worker, lease_ms, concurrency, list_name, destinations)

    @contextlib.asynccontextmanager
    async def renewing(self) -> AsyncGenerator[Renew]:
        """See the protocol; uses connections of its own, which are opened on first use."""
        client = clients.duplicate(self._client)
        runner = self._runner.with_client(client)

        async def renew(worker: str, lease_ms: int, hung: Sequence[tuple[str, int]] = (), hanging: int = 0) -> bool:
            loop = self._loop
            if self._commit is None or loop is None:
                return False
            if (claims := self._claims.get(worker)) is not None:
                claims.report_held = True
            held: bool = await runner.run_one("renew", worker, lease_ms, list(hung), hanging)
            if hung:
                # The loop may have been closed while the thread renewed.
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(lambda: self._notifier.notify(False))
            return held

        try:
            yield renew
        finally:
            with contextlib.suppress(*errors.ERRORS):
                await clients.close(client)

    async def claim(self, worker: str, destinations: Sequence[str], limit: int) -> ClaimResult:
        """See the protocol."""
        self._require_open()
        claims = self._claims_of(worker)
        async with claims.lock:
            claims.token += 1
            token = claims.token
            held = [*claims.held, *claims.asked] if claims.report_held else None
            list_name = claims.list_name(destinations)
            claimed: ClaimResult | None = None
            while claimed is None:
                # A server that does not know the name of the list, or not any more, has done nothing.
                names = None if list_name == claims.known_list else destinations
                claims.known_list = list_name
                claimed = await self._enqueue(
                    "claim", worker, list_name, names, limit, token, claims.acknowledged, held
                )
                if claimed is None:
                    claims.known_list = ""
            claims.acknowledged = token
            if held is not None:
                claims.report_held = False
            claims.held.update([(claim.id, claim.fence) for claim in claimed.claims])
        return claimed

    async def claim_one(self, worker: str, id: str, fence: int) -> ClaimResult:
        """See the protocol."""
        self._require_open()
        claims = self._claims_of(worker)
        claims.asked.append(id)
        try:
            claimed: ClaimResult = await self._enqueue("claim_one", worker, id, fence)
            claims.held.update([(claim.id, claim.fence) for claim in claimed.claims])
        finally:
            claims.asked.remove(id)
        return claimed

    def _claims_of(self, worker: str) -> "_WorkerClaims":
        claims = self._claims.setdefault(worker, _WorkerClaims())
        self._runner.worker = worker if len(self._claims) == 1 else ""
        return claims

    async def deregister(self, worker: str) -> None:
        """See the protocol."""
        await self._enqueue("deregister", worker)

    async def workers(self) -> Sequence[WorkerStatus]:
        """See the protocol."""
        found: list[WorkerStatus] = []
        after: str | None = ""
        while after is not None:
            rows, after = await self._enqueue("workers", after)
            found += [protocol.decode_worker(row) for row in rows]
        return found

    async def unserved(self, limit: int = 100) -> Sequence[UnservedWork]:
        """See the protocol."""
        return [UnservedWork._make(row) for row in await self._enqueue("unserved", limit)]

    # Runs

    async def run(self, id: str) -> Run | None:
        """See the protocol."""
        row = await self._enqueue("run", id)
        return protocol.decode_run(row) if row else None

    async def runs(self, query: RunQuery, limit: int) -> Sequence[Run]:
        """See the protocol."""
        found: list[Run] = []
        before: tuple[int, str] | None = query.before or (NEVER, "")
        while before is not None and len(found) < limit:
            fixed = (query.state, query.destination, query.label, *before)
            rows, before = await self._enqueue("runs", *fixed, limit - len(found))
            found += [protocol.decode_run(row) for row in rows]
        return found

    # Events

    async def waiters(self, event: str) -> Sequence[Waiter]:
        """See the protocol."""
        return [protocol.decode_waiter(row) for row in await self._enqueue("waiters", event)]

    async def webhook(self, token: str) -> str | None:
        """See the protocol."""
        return await self._enqueue("webhook", token)

    async def dead_letter(self, id: str) -> DeadLetter | None:
        """See the protocol."""
        row = await self._enqueue("dead_letter", id)
        return protocol.decode_dead_letter(row) if row else None

    async def dead_letters(
        self, query: DeadLetterQuery = ALL_DEAD_LETTERS, limit: int = 50, before: tuple[int, str] | None = None
    ) -> Sequence[DeadLetter]:
        """See the protocol."""
        found: list[DeadLetter] = []
        wanted, at = protocol.encode_query(query), before or (NEVER, "")
        while at is not None and len(found) < limit:
            rows, at = await self._enqueue("dead_letters", wanted, *at, limit - len(found))
            found += [protocol.decode_dead_letter(row) for row in rows]
        return found

    async def dead_letter_groups(
        self, query: DeadLetterQuery = ALL_DEAD_LETTERS, limit: int = 100
    ) -> Sequence[DeadLetterGroup]:
        """See the protocol."""
        found: list[DeadLetterGroup] = []
        wanted, at = protocol.encode_query(query), (NEVER, "")
        while at is not None:
            rows, at = await self._enqueue("dead_letter_groups", wanted, *at)
            found = merge_groups([*found, *[DeadLetterGroup._make(row) for row in rows]])
        return found[:limit]

    async def under_way(self, open_dedup: str) -> str | None:
        """See the protocol."""
        return await self._enqueue("under_way", open_dedup)

    # Batches

    async def batch(self, id: str) -> Batch | None:
        """See the protocol."""
        row = await self._enqueue("batch", id)
        return base.batch(row) if row else None

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
        found = await self._enqueue("batches", workflow, label, open_only, limit, params, before)
        return [base.batch(row) for row in found]

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
        found: list[Item] = []
        at: int | None = after
        left = ITEMS_SIZE
        while at is not None and len(found) < limit and left > 0:
            page, at = await self._enqueue("items", batch, state, at, limit - len(found), results, left)
            items = [base.item(row) for row in page]
            found += items
            left -= sum(len(it.result or "") + len(it.error or "") for it in items) if results else 0
        return found

    async def find_item(self, batch: str, item_id: str) -> Item | None:
        """See the protocol; the items of a batch are not indexed by their id."""
        row, at = None, 0
        while row is None and at is not None:
            row, at = await self._enqueue("find_item", batch, item_id, at)
        return None if row is None else base.item(row)

    async def items_with_ids(self, batch: str, ids: Sequence[str]) -> Sequence[Item]:
        """See the protocol; the items of a batch are not indexed by their id."""
        found: list[Item] = []
        at: int | None = 0
        while at is not None and len(found) < len(ids):
            rows, at = await self._enqueue("items_with_ids", batch, ids, at)
            found += [base.item(row) for row in rows]
        return found

    async def retries(self, batch: str) -> Sequence[Batch]:
        """See the protocol."""
        return [base.batch(row) for row in await self._enqueue("retries", batch)]

    async def retried_items(self, batch: str, ids: Sequence[str]) -> Mapping[str, tuple[str, Item]]:
        """See the protocol."""
        found = [(retry, base.item(row)) for retry, row in await self._enqueue("retried_items", batch, ids)]
        return {item.id: (retry, item) for retry, item in found}

    async def missing_items(self, batch: str, ids: Sequence[str]) -> frozenset[str]:
        """See the protocol; the ids of the items of an ended batch are added to those of the retry first."""
        missing: Sequence[str] | None = None
        while missing is None:
            missing = await self._enqueue("missing_items", batch, ids)
        return frozenset(missing)

    async def open_messages(self, batch: str, *, layers: bool = False, limit: int = 20) -> Sequence[OpenMessage]:
        """See the protocol."""
        return base.open_messages(await self._enqueue("open_messages", batch, layers, limit))

    async def find_items(self, workflow: str, item_id: str, limit: int = 20) -> Sequence[tuple[str, Item]]:
        """See the protocol; the items of ended batches are not indexed by their id."""
        found: list[tuple[str, Item]] = []
        at: tuple[int, int] | None = (0, 0)
        while at is not None and len(found) < limit:
            rows, at = await self._enqueue("find_items", workflow, item_id, limit - len(found), *at)
            found += [(batch, base.item(row)) for batch, row in rows]
        return found

    # The ledger

    async def processed(self, ledger: str, ids: Sequence[str]) -> frozenset[str]:
        """See the protocol."""
        return frozenset(await self._enqueue("processed", ledger, ids))

    async def ledgers(self) -> Sequence[str]:
        """See the protocol."""
        return list(await self._enqueue("ledgers"))

    async def marks(self, ledger: str, *, after: str | None = None, limit: int = 1_000) -> Sequence[Mark]:
        """See the protocol."""
        return [protocol.decode_mark(row) for row in await self._enqueue("marks", ledger, after, limit)]

    # Flow keys

    async def flows(self, keys: Sequence[str] | None = None, *, waiting: bool = True) -> Sequence[FlowStatus]:
        """See the protocol."""
        return [base.flow(row) for row in await self._enqueue("flows", keys, waiting)]

    async def flow_holders(self, key: str, limit: int = 100) -> Sequence[FlowHolder]:
        """See the protocol; of more than 10,000 claims of workers, those that are looked at."""
        return [FlowHolder._make(row) for row in await self._enqueue("flow_holders", key, limit)]

    # Schedules

    async def due_schedules(self, destinations: Sequence[str], limit: int = 100) -> DueSchedules:
        """See the protocol."""
        due, next_at, queued, now = await self._enqueue("due_schedules", destinations, limit)
        return DueSchedules(tuple(map(base.scheduled, due)), next_at, queued, now)

    async def schedule(self, id: str) -> ScheduleStatus | None:
        """See the protocol."""
        row = await self._enqueue("schedule", id)
        return base.scheduled(row) if row else None

    async def schedules(self, *, after: str = "", limit: int = 100) -> Sequence[ScheduleStatus]:
        """See the protocol."""
        return [base.scheduled(row) for row in await self._enqueue("schedules", after, limit)]

    # Housekeeping

    async def reconcile(self, destinations: Sequence[str], *, deep: bool = False) -> int:
        """See the protocol."""
        count, cursor = 0, None
        while True:
            found, cursor = await self._enqueue("reconcile", destinations, deep, cursor)
            count += found
            if cursor is None:
                return count

    async def was_emptied(self) -> bool:
        """See the protocol."""
        self._require_open()
        before, self._founded = self._founded, await self._runner.run_one("founded", keys.SCHEMA, self._runner.store)
        return self._founded != before


class _WorkerClaims:
    """The claims of one worker.

    `token` is the number of its latest claim, `acknowledged` that of the latest claim whose answer arrived. `held` are
    its messages whose settlement has not been answered, as id → fence; `asked` are those of calls of `claim_one` that
    have not been answered. The next claim sends both if `report_held` is set: after each heartbeat, and after the
    server was away. `known_list` is the list of destinations that the server has.
    """

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.token = 0
        self.acknowledged = 0
        self.held: dict[str, int] = {}
        self.asked: list[str] = []
        self.report_held = False
        self.known_list = ""
        self._latest: tuple[Sequence[str], str] = ((), "")

    def list_name(self, destinations: Sequence[str]) -> str:
        """A hash of the destinations, which names their list on the server."""
        # A worker passes the same object each time; hashing thousands of names takes longer than a claim.
        if destinations is not self._latest[0] or not isinstance(destinations, tuple):
            name = hashlib.sha1("\n".join(destinations).encode(), usedforsecurity=False).hexdigest()
            self._latest = (destinations, name)
        return self._latest[1]
