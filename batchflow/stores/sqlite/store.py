"""`SqliteStore`: the verbs of `batchflow.stores.protocol.Store` on one SQLite file."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from batchflow.core.batch import Batch, Item, ItemState, NewBatch
from batchflow.core.clock import Clock
from batchflow.core.flow import FlowControl, FlowStatus
from batchflow.core.message import Claimed, DeadLetter, Message
from batchflow.core.ports import Verdict
from batchflow.core.run import Run, RunQuery, Step, Waiter
from batchflow.core.settlement import Effect, Settled, Settlement
from batchflow.core.worker import WorkerStatus
from batchflow.errors import StoreUnavailable
from batchflow.stores.grouping import Grouping
from batchflow.stores.sqlite import connection, flows, ledger, reads, settling, verbs, waiting
from batchflow.stores.sqlite.locks import WorkerLocks
from batchflow.stores.sqlite.queries import Queries
from batchflow.stores.sqlite.transaction import Tx
from batchflow.stores.sqlite.writer import Writer

T = TypeVar("T")
PRUNE_SLICE = 5_000


class SqliteStore:
    """Durable state in one SQLite file, which several processes of one machine may open.

    `path` may be ":memory:". With `synchronous="FULL"` what is answered is on disk; "NORMAL" may lose the last
    moments, never the file, when the machine (not the process) goes down.
    """

    def __init__(self, path: str, *, clock: Clock, synchronous: str = "FULL") -> None:
        self.path = path
        self.synchronous = synchronous
        self._clock = clock
        self._locks = WorkerLocks(path)
        self._subscribers: list[Callable[[bool], None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._writer: Writer | None = None
        self._group: Grouping | None = None
        self._reader: Tx | None = None
        self._reads: ThreadPoolExecutor | None = None

    # Life

    async def open(self) -> None:
        """See the protocol."""
        if self._writer is not None:
            return
        self._loop = loop = asyncio.get_running_loop()
        self._reads = self._reads or ThreadPoolExecutor(1, "batchflow-sqlite-reader")
        writing = await loop.run_in_executor(self._reads, self._connect)
        queries = Queries.load()
        self._writer = Writer(
            Tx(writing, queries),
            verbs.table(self._locks),
            path=self.path,
            clock=self._clock,
            on_foreign_change=lambda: _call_soon(loop, lambda: self._tell(True)),
        )
        self._group = Grouping(self._writer.write, lambda: self._tell(False))
        if self.path != ":memory:":
            self._reader = Tx(connection.connect(self.path, synchronous=self.synchronous), queries)

    def _connect(self) -> Any:
        opened = connection.connect(self.path, synchronous=self.synchronous)
        try:
            connection.prepare(opened, self.path)
        except BaseException:
            opened.close()
            raise
        return opened

    async def close(self) -> None:
        """See the protocol."""
        writer, group = self._writer, self._group
        if writer is None or group is None:
            return
        await group.drain()
        self._writer = self._group = None
        reads, self._reads = self._reads, None
        await asyncio.get_running_loop().run_in_executor(reads, self._close, writer)
        if reads is not None:
            reads.shutdown()

    def _close(self, writer: Writer) -> None:
        writer.stop()
        if self._reader is not None:
            self._reader.connection.close()
            self._reader = None
        writer.connection.close()
        self._locks.let_go_of_all()

    def on_change(self, callback: Callable[[bool], None]) -> Callable[[], None]:
        """See the protocol."""
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback)

    def _tell(self, foreign: bool) -> None:
        for callback in tuple(self._subscribers):
            callback(foreign)

    # How verbs are carried out

    def _add(self, verb: str, *arguments: Any) -> "asyncio.Future[Any]":
        if self._group is None:
            raise StoreUnavailable(f"the store '{self.path}' is not open; use it between the app's start and its stop")
        return self._group.add(verb, *arguments)

    async def _read(self, read: Callable[..., T], *arguments: Any) -> T:
        if self._reader is None:
            return await self._add("read", read, arguments)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._reads, self._read_now, read, arguments)

    def _read_now(self, read: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        tx = self._reader
        if tx is None:
            raise StoreUnavailable(f"the store '{self.path}' is closed")
        try:
            tx.connection.execute("BEGIN")
            try:
                tx.now = self._clock.now()
                return read(tx, *arguments)
            finally:
                tx.forget()
                tx.connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise connection.translated(error, self.path) from error

    # Messages

    async def publish(self, messages: Sequence[Message]) -> Sequence[bool]:
        """See the protocol."""
        return await self._add("publish", messages)

    async def enlist(self, worker: str, lease_ms: int, concurrency: int = 0) -> None:
        """See the protocol."""
        # Before its row is there: a row without a lock reads as a dead worker.
        self._locks.hold(worker)
        await self._add("enlist", worker, lease_ms, concurrency)

    def renew(self, worker: str, lease_ms: int, hung: Sequence[tuple[str, int]] = ()) -> bool:
        """See the protocol."""
        writer, loop = self._writer, self._loop
        if writer is None or loop is None:
            return False
        held: bool = writer.call("renew", worker, lease_ms, hung)
        if hung:
            _call_soon(loop, lambda: self._tell(False))
        return held

    async def claim(self, worker: str, destinations: Sequence[str], limit: int) -> Claimed:
        """See the protocol."""
        return await self._add("claim", worker, destinations, limit)

    def record(self, claim: str, fence: int, step: Step, effects: tuple[Effect, ...] = ()) -> "asyncio.Future[Verdict]":
        """See the protocol."""
        if effects:
            return self._add("record_with_effects", claim, fence, step, effects)
        return self._add("record", claim, fence, step)

    def settle(self, settlement: Settlement) -> "asyncio.Future[Settled]":
        """See the protocol."""
        return self._add("settle", settlement)

    async def expire(self) -> int:
        """See the protocol."""
        taken_back: int = await self._add("expire")
        await self._sweep()
        return taken_back

    async def dismiss(self, worker: str) -> None:
        """See the protocol."""
        await self._add("dismiss", worker)
        self._locks.let_go(worker)

    async def workers(self) -> Sequence[WorkerStatus]:
        """See the protocol."""
        return await self._read(reads.workers, self._locks)

    # Runs

    async def run(self, id: str) -> Run | None:
        """See the protocol."""
        return await self._read(reads.run, id)

    async def runs(self, query: RunQuery, limit: int) -> Sequence[Run]:
        """See the protocol."""
        return await self._read(reads.run_list, query, limit)

    async def cancel_run(self, id: str) -> bool:
        """See the protocol."""
        found: bool = await self._add("cancel_run", id)
        await self._sweep()
        return found

    async def cancel_runs(self, *, destination: str | None = None, label: str | None = None) -> int:
        """See the protocol."""
        count = 0
        while found := await self._add("cancel_all", destination, label):
            count += found
        await self._sweep()
        return count

    # Events

    async def notify(self, event: str, data: str, run: str | None = None) -> Sequence[str]:
        """See the protocol."""
        return await self._add("notify", event, data, run)

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

    # Batches

    async def open_batch(self, batch: NewBatch, messages: Sequence[Message]) -> bool:
        """See the protocol."""
        return await self._add("open_batch", batch, messages)

    async def batch(self, id: str) -> Batch | None:
        """See the protocol."""
        return await self._read(reads.batch, id)

    async def batches(
        self, *, workflow: str | None = None, open_only: bool = False, limit: int = 50
    ) -> Sequence[Batch]:
        """See the protocol."""
        return await self._read(reads.batch_list, workflow, open_only, limit)

    async def items(
        self, batch: str, *, state: ItemState | None = None, after: int = -1, limit: int = 100
    ) -> Sequence[Item]:
        """See the protocol."""
        return await self._read(reads.items, batch, state, after, limit)

    async def cancel_batch(self, id: str) -> bool:
        """See the protocol."""
        begun: bool = await self._add("cancel_batch", id)
        if begun:
            await self._sweep()
        return begun

    async def _sweep(self) -> None:
        """End what waits of cancelled batches."""
        while await self._add("sweep_cancelled") == settling.SLICE:
            pass

    # The ledger

    async def processed(self, workflow: str, ids: Sequence[str]) -> frozenset[str]:
        """See the protocol."""
        return await self._read(ledger.processed, workflow, ids)

    async def mark(self, workflow: str, ids: Sequence[str], ttl_ms: int | None) -> None:
        """See the protocol."""
        await self._add("mark", workflow, ids, ttl_ms)

    async def forget(self, workflow: str, ids: Sequence[str] | None = None) -> int:
        """See the protocol."""
        return await self._add("forget", workflow, ids)

    # Flow keys

    async def declare(self, limits: Sequence[FlowControl]) -> None:
        """See the protocol."""
        await self._add("declare", limits)

    async def pin(self, limits: FlowControl, *, paused: bool = False) -> None:
        """See the protocol."""
        await self._add("pin", limits, paused)

    async def unpin(self, key: str) -> None:
        """See the protocol."""
        await self._add("unpin", key)

    async def flows(self, keys: Sequence[str] | None = None) -> Sequence[FlowStatus]:
        """See the protocol."""
        return await self._read(flows.status, keys)

    # Housekeeping

    async def prune(self, retention_ms: int) -> int:
        """See the protocol."""
        swept: int = await self._add("sweep_cancelled")
        return swept + await self._add("prune", retention_ms, PRUNE_SLICE)


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    # The loop may have been closed under the thread that looks around.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback)
