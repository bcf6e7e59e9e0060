"""`SqliteStore`: the verbs of `batchflow.core.store.Store` on one SQLite file."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from batchflow.core.ports import Clock
from batchflow.core.settlement import Notice
from batchflow.core.store import Renew
from batchflow.errors import StoreUnavailable
from batchflow.stores.base import GroupCommit, not_open
from batchflow.stores.sql.store import SqlStore
from batchflow.stores.sqlite import connection
from batchflow.stores.sqlite.connection import Queries, WorkerLocks
from batchflow.stores.sqlite.writer import SqliteTx, Writer

T = TypeVar("T")


class SqliteStore(SqlStore):
    """Durable state in one SQLite file, which several processes of one machine may open.

    `path` may be ":memory:". With `synchronous="FULL"` a write is on disk when it is answered; "NORMAL" may lose the
    latest writes, but never the file, if the machine (not the process) crashes.
    """

    def __init__(self, path: str, *, clock: Clock, synchronous: str = "FULL") -> None:
        self.path = path
        self.synchronous = synchronous
        self._clock = clock
        self._locks = WorkerLocks(path)
        self._is_new = False
        self._subscribers: list[Callable[[bool], None]] = []
        self._notice_subscribers: list[Callable[[Notice], None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._writer: Writer | None = None
        self._commit = None
        self._reader: SqliteTx | None = None
        self._reads: ThreadPoolExecutor | None = None

    # Life

    @property
    def is_durable(self) -> bool:
        """See the protocol."""
        return self.path != ":memory:"

    @property
    def location(self) -> str:
        """See the protocol."""
        return str(Path(self.path).absolute()) if self.is_durable else "memory"

    @property
    def is_new(self) -> bool:
        """See the protocol."""
        return self._is_new

    async def open(self) -> None:
        """See the protocol."""
        if self._writer is not None:
            return
        self._loop = loop = asyncio.get_running_loop()
        self._reads = self._reads or ThreadPoolExecutor(1, "batchflow-sqlite-reader")
        connecting = loop.run_in_executor(self._reads, self._connect)
        try:
            writing = await asyncio.shield(connecting)
        except asyncio.CancelledError:
            connecting.add_done_callback(_close_unused)
            raise
        queries = Queries.load()
        self._writer = Writer(
            SqliteTx(writing, queries, self._locks),
            path=self.path,
            clock=self._clock,
            on_foreign_change=lambda: _call_soon(loop, lambda: self._notify(True)),
            on_notices=lambda notices: _call_soon(loop, lambda: self._report(notices)),
        )
        self._commit = GroupCommit(self._writer.write, lambda: self._notify(False))
        if self.is_durable:
            self._reader = SqliteTx(connection.connect(self.path, synchronous=self.synchronous), queries, self._locks)

    def _connect(self) -> sqlite3.Connection:
        opened = connection.connect(self.path, synchronous=self.synchronous)
        try:
            self._is_new = connection.prepare(opened, self.path)
        except BaseException:
            opened.close()
            raise
        return opened

    async def close(self) -> None:
        """See the protocol."""
        writer, commit = self._writer, self._commit
        if writer is None or commit is None:
            return
        await self._stop_sweep()
        await commit.drain()
        self._writer = self._commit = None
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
        self._locks.release_all()

    def on_change(self, callback: Callable[[bool], None]) -> Callable[[], None]:
        """See the protocol."""
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback)

    def _notify(self, foreign: bool) -> None:
        for callback in tuple(self._subscribers):
            callback(foreign)

    def on_notice(self, callback: Callable[[Notice], None]) -> Callable[[], None]:
        """See the protocol."""
        self._notice_subscribers.append(callback)
        return lambda: self._notice_subscribers.remove(callback)

    def _report(self, notices: Sequence[Notice]) -> None:
        for callback in tuple(self._notice_subscribers):
            for notice in notices:
                callback(notice)

    # Running verbs

    def _enqueue(self, verb: str, *arguments: Any) -> "asyncio.Future[Any]":
        if self._commit is None:
            raise not_open(f"the store '{self.path}'")
        return self._commit.add(verb, *arguments)

    async def _read(self, read: Callable[..., T], *arguments: Any) -> T:
        if self._reader is None:
            return await self._enqueue("read", read, arguments)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._reads, self._read_now, read, arguments)

    def _read_now(self, read: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        tx, writer = self._reader, self._writer
        if tx is None or writer is None:
            raise StoreUnavailable(f"the store '{self.path}' is closed")
        writer.file.check()
        try:
            tx.connection.execute("BEGIN")
            try:
                tx.now = self._clock.now()
                return read(tx, *arguments)
            finally:
                tx.forget_cached()
                tx.connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise connection.as_temporary(connection.translate_error(error, self.path)) from error

    # Messages

    async def register(
        self, worker: str, lease_ms: int, concurrency: int = 0, destinations: Sequence[str] | None = None
    ) -> None:
        """See the protocol."""
        # Before its row is written: a row without a lock means a dead worker.
        self._locks.hold(worker)
        await self._enqueue("register", worker, lease_ms, concurrency, destinations)

    @contextlib.asynccontextmanager
    async def renewing(self) -> AsyncGenerator[Renew]:
        """See the protocol; blocks until the writer thread has run it."""
        yield self._renew

    async def _renew(self, worker: str, lease_ms: int, hung: Sequence[tuple[str, int]] = (), hanging: int = 0) -> bool:
        writer, loop = self._writer, self._loop
        if writer is None or loop is None:
            return False
        held: bool = writer.call("renew", worker, lease_ms, hung, hanging)
        if hung:
            _call_soon(loop, lambda: self._notify(False))
        return held

    async def deregister(self, worker: str) -> None:
        """See the protocol."""
        await self._enqueue("deregister", worker)
        self._locks.release(worker)

    # Housekeeping

    async def was_emptied(self) -> bool:
        """See the protocol; a missing file raises instead."""
        return False


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    # The loop may have been closed while the thread ran.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback)


def _close_unused(connecting: "asyncio.Future[sqlite3.Connection]") -> None:
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().close()
