"""A handler whose deliveries the test ends, and a dispatcher for it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from batchflow.core import settlement
from batchflow.core.call import CALL_DESTINATION
from batchflow.core.message import Claim
from batchflow.core.ports import Runtime
from batchflow.core.settlement import Settlement
from batchflow.core.store import Store
from batchflow.engine.clock import ServerClock
from batchflow.engine.delivery import Courier
from batchflow.engine.dispatcher import Dispatcher
from batchflow.engine.observers import CountingObserver, with_engine_log
from batchflow.engine.threads import ThreadPool
from batchflow.engine.watchers import Watchers
from batchflow.stores.sqlite import SqliteStore
from batchflow.testing import FixedEntropy
from batchflow.testing.clock import ManualClock

LEASE_MS = 30_000


class FakeHandler:
    """Delivers to `work`. `held` deliveries wait for `gate`; `stubborn` ones are not to be cancelled."""

    def __init__(self, *, held: bool = False, stubborn: bool = False, timeout: int | None = None) -> None:
        self.gate = asyncio.Event()
        self.begun: list[Claim] = []
        self.cancelled_with: list[object] = []
        self.error: BaseException | None = None
        self.waited = 0.0
        self.under_way = self.most = 0
        self._stubborn = stubborn
        self._timeout = timeout
        if not held:
            self.gate.set()

    @property
    def timeout_ms(self) -> int | None:
        return self._timeout

    async def deliver(self, claim: Claim, runtime: Runtime) -> Settlement | None:
        self.begun.append(claim)
        runtime.interrupts.set_thread_wait(claim, lambda now: self.waited)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self._wait()
        finally:
            self.under_way -= 1
        if self.error is not None:
            raise self.error
        return settlement.done(claim, '"ok"')

    async def _wait(self) -> None:
        while not self.gate.is_set():
            try:
                await self.gate.wait()
            except asyncio.CancelledError as error:
                self.cancelled_with.extend(error.args)
                if not self._stubborn:
                    raise


class TalliedDispatcher(Dispatcher):
    """A dispatcher for the worker `w1` that logs, and whose `tally` counts."""

    def __init__(self, store: Store, handler: FakeHandler, clock: ManualClock, *, concurrency: int = 8) -> None:
        self.tally = CountingObserver()
        runtime = Runtime(
            journaling=store, clock=clock, entropy=FixedEntropy(), threads=ThreadPool(1, lambda given_up: None)
        )
        super().__init__(
            store,
            Courier({"work": handler}, {CALL_DESTINATION: handler}, runtime),
            worker="w1",
            concurrency=concurrency,
            clock=ServerClock(clock),
            watchers=Watchers(),
            observers=with_engine_log(self.tally),
        )


def dispatcher(store: Store, handler: FakeHandler, clock: ManualClock, *, concurrency: int = 8) -> TalliedDispatcher:
    """A dispatcher for the worker `w1`."""
    return TalliedDispatcher(store, handler, clock, concurrency=concurrency)


@asynccontextmanager
async def running(dispatcher: Dispatcher, store: Store) -> AsyncGenerator[None]:
    """The dispatcher at work, woken by the store."""
    unsubscribe = store.on_change(lambda _: dispatcher.wake())
    task = asyncio.create_task(dispatcher.run())
    try:
        yield
    finally:
        unsubscribe()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def memory_store(clock: ManualClock) -> SqliteStore:
    """A store in memory with the worker `w1` enlisted."""
    store = SqliteStore(":memory:", clock=clock)
    await store.open()
    await store.register("w1", LEASE_MS)
    return store
