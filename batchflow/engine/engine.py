"""The engine: the client port for those who publish and ask, and the worker that does the work."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from batchflow.core import ids
from batchflow.core.batch import Batch, Item, ItemState, NewBatch
from batchflow.core.clock import Clock, Entropy
from batchflow.core.flow import FlowControl, FlowStatus
from batchflow.core.message import Message
from batchflow.core.ports import Delivered, Runtime, StandIn
from batchflow.core.run import Run, RunQuery, Waiter
from batchflow.engine.caller import HttpCaller
from batchflow.engine.courier import LocalCourier
from batchflow.engine.dispatch import Dispatcher
from batchflow.engine.heartbeat import LEASE_MS, Heartbeat
from batchflow.engine.housekeeping import Housekeeping
from batchflow.logs import logger
from batchflow.stores.protocol import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How an engine works.

    `concurrency` bounds the claims under way, `grace_s` the time a stop waits for them, `threads` those that sync user
    functions run in; finished things are removed after `retention_ms`. `always_replay` suspends runs after every step.
    """

    concurrency: int
    grace_s: float
    retention_ms: int
    threads: int
    always_replay: bool = False


class Engine:
    """One process's access to the store, and its worker while one is started."""

    def __init__(
        self,
        store: Store,
        endpoints: Mapping[str, Delivered],
        limits: Sequence[FlowControl],
        *,
        clock: Clock,
        entropy: Entropy,
        options: EngineOptions,
    ) -> None:
        self.store = store
        self._endpoints = endpoints
        self._limits = limits
        self._clock = clock
        self._entropy = entropy
        self._options = options
        self.loop: asyncio.AbstractEventLoop | None = None
        """The event loop on which it is open."""
        self.stand_in: StandIn | None = None
        """Is asked what to execute in place of a step, where a test wants that."""
        self.caller: Delivered | None = None
        """Makes the calls in place of HTTP, where a test wants that."""
        self._threads: ThreadPoolExecutor | None = None
        self._changes = 0
        self._change = asyncio.Event()
        self._end_subscription = lambda: None
        self._caller = HttpCaller()
        self._worker: _Worker | None = None
        self._stopping: _Worker | None = None

    # Life

    async def open(self) -> None:
        """Open the store and tell it the code's limits."""
        if self._threads is not None:
            return
        await self.store.open()
        self.loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(self._options.threads, "batchflow-sync")
        await self.store.declare(self._limits)
        self._end_subscription = self.store.on_change(self._on_store_change)

    async def close(self) -> None:
        """Stop the worker, if there is one, and close the store."""
        await self.stop()
        threads, self._threads = self._threads, None
        self.loop = None
        if threads is not None:
            self._end_subscription()
            await self._caller.close()
            await self.store.close()
            threads.shutdown(wait=False, cancel_futures=True)

    async def start(self) -> None:
        """Start a worker in this process; safe to repeat."""
        if self._worker is None:
            worker = _Worker(self, self.make_dispatcher(name := self._worker_name()), name)
            await worker.start(self._options.retention_ms)
            self._worker = worker

    async def stop(self) -> None:
        """Stop claiming, wait the grace for what is under way, give the rest back without counting an attempt."""
        worker, self._worker = self._worker, None
        if worker is not None:
            self._stopping = worker
            await worker.stop(self._options.grace_s)
            self._stopping = None

    def hurry(self) -> None:
        """End the grace of a stop that is under way: what still runs is given back at once."""
        if self._stopping is not None:
            self._stopping.dispatcher.hurry()

    def make_dispatcher(self, worker: str) -> Dispatcher:
        """A dispatcher for `worker`, not started; the engine is open."""
        assert self._threads is not None
        runtime = Runtime(
            journaling=self.store,
            clock=self._clock,
            entropy=self._entropy,
            threads=self._threads,
            always_replay=self._options.always_replay,
            stand_in=self.stand_in,
        )
        return Dispatcher(
            self.store,
            LocalCourier(self._endpoints, self.caller or self._caller, runtime),
            worker=worker,
            concurrency=self._options.concurrency,
            clock=self._clock,
            on_end=self._notify,
        )

    def _worker_name(self) -> str:
        return f"{socket.gethostname()}-{os.getpid()}-{self._entropy.bytes(3).hex()}"

    def _on_store_change(self, foreign: bool) -> None:
        self._wake()
        if foreign:
            self._notify()

    def _wake(self) -> None:
        if self._worker is not None:
            self._worker.dispatcher.wake()

    def _notify(self) -> None:
        self._changes += 1
        self._change.set()
        self._change = asyncio.Event()

    # The client port

    def now(self) -> int:
        """See `batchflow.core.ports.Client`."""
        return self._clock.now()

    def new_id(self, kind: Literal["run", "batch"]) -> str:
        """See the port."""
        if kind == "batch":
            return ids.batch_id(self.now(), self._entropy.bytes(ids.BATCH_ENTROPY))
        return ids.run_id(self.now(), self._entropy.bytes(ids.RUN_ENTROPY))

    async def publish(self, messages: Sequence[Message]) -> None:
        """See the port."""
        # Woken first, the worker claims in the very transaction that publishes.
        self._wake()
        await self.store.publish(messages)

    async def open_batch(self, batch: NewBatch, messages: Sequence[Message]) -> bool:
        """See the port."""
        self._wake()
        return await self.store.open_batch(batch, messages)

    async def batch(self, id: str) -> Batch | None:
        """See the port."""
        return await self.store.batch(id)

    async def batches(
        self, *, workflow: str | None = None, open_only: bool = False, limit: int = 50
    ) -> Sequence[Batch]:
        """See the port."""
        return await self.store.batches(workflow=workflow, open_only=open_only, limit=limit)

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
        return await self.store.processed(workflow, ids)

    async def flows(self, keys: Sequence[str]) -> Sequence[FlowStatus]:
        """See the port."""
        return await self.store.flows(keys)

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


class _Worker:
    """What runs while a worker is started."""

    def __init__(self, engine: Engine, dispatcher: Dispatcher, name: str) -> None:
        self.dispatcher = dispatcher
        self._store = engine.store
        self._name = name
        self._tasks: list[asyncio.Task[None]] = []
        self._heartbeat = Heartbeat(engine.store, dispatcher, name, self._lease_lost)

    async def start(self, retention_ms: int) -> None:
        await self._store.enlist(self._name, LEASE_MS)
        # What died with an earlier process of ours goes on at once.
        await self._store.expire()
        housekeeping = Housekeeping(self._store, self.dispatcher, retention_ms)
        self._tasks = [
            asyncio.create_task(self.dispatcher.run(), name="batchflow-dispatch"),
            asyncio.create_task(housekeeping.run(), name="batchflow-housekeeping"),
        ]
        self._heartbeat.start()

    async def stop(self, grace_s: float) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        given_back = await self.dispatcher.stop(grace_s)
        await self._heartbeat.stop()
        await self._store.dismiss(self._name)
        if given_back:
            logger().info("[batchflow] Stopped; claims given back", claims=given_back)

    def _lease_lost(self) -> None:
        logger().warning("[batchflow] This worker's lease had ended (was the process suspended?); enlisting again")
        self._tasks.append(asyncio.create_task(self._store.enlist(self._name, LEASE_MS)))
