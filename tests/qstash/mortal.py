"""Processes that die in tests, with what they are doing, and the store that outlives them."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partialmethod
from random import Random
from typing import Any, TypeVar

from batchflow.core.store import Renew, Store
from batchflow.core.wire_store import WireStore
from batchflow.errors import StoreUnavailable
from batchflow.testing.faults import StoreProxy

T = TypeVar("T")

MOST_OF_ONE = 3
"""The same thing meets this many faults at most, so that no retries are used up by faults."""

_OF_QSTASH = frozenset({"log", "post", "claim_entry", "notify_event", "end_run", "run_entries"})
_KILLING = frozenset({"claim", "claim_one", "settle", "record", "publish", "expire"}) | _OF_QSTASH
"""The verbs at which a process dies."""


class Fates:
    """Decides by what a thing is, and how often it has come, what befalls it: in whichever order things happen."""

    def __init__(self, seed: object) -> None:
        self._seed = seed
        self._times: Counter[tuple[object, ...]] = Counter()

    def chance(self, *thing: object) -> float:
        """A number in [0, 1); 1 if the thing has come too often to meet a fault."""
        self._times[thing] += 1
        times = self._times[thing]
        return 1.0 if times > MOST_OF_ONE else Random(f"{self._seed} {thing} {times}").random()


class Process:
    """A process: what it does ends with it."""

    def __init__(self) -> None:
        self.died = asyncio.Event()
        self.tasks: set[asyncio.Task[Any]] = set()
        self._hanging: list[asyncio.Future[Any]] = []
        self._is_buried = False

    async def run(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Do something in this process; None if it dies meanwhile. It goes on when whoever waits for it does not."""
        if self.died.is_set():
            work.close()
            return None
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        death = asyncio.create_task(self.died.wait())
        try:
            await asyncio.wait({task, death}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            death.cancel()
        if self.died.is_set():
            self.kill()
            return None
        return task.result()

    def kill(self) -> None:
        """End all that it does."""
        self.died.set()
        for task in self.tasks:
            task.cancel()

    def hang(self) -> "asyncio.Future[Any]":
        """A future that is never done, as nothing goes on in a process that has died."""
        future = asyncio.get_running_loop().create_future()
        task = asyncio.current_task()
        if self._is_buried or (task is not None and task.cancelling()):
            future.cancel()
        self._hanging.append(future)
        return future

    def bury(self) -> None:
        """Let go what hangs, at the end of a test: no task of a dead process is left over."""
        self._is_buried = True
        for future in self._hanging:
            future.cancel()


class MortalStore(StoreProxy):
    """The store as one life of a process has it, which dies at its `last` verb, before or after that is done."""

    def __init__(self, store: Store, process: Process, last: int | None, *, is_done: bool) -> None:
        super().__init__(store)
        self.died = process.died
        self._process = process
        self.last = last
        """It dies at the last of so many verbs from now on."""
        self._is_done = is_done

    async def _call_verb(self, verb: str, call: Callable[[], Awaitable[T]]) -> T:
        if self.last is not None and verb in _KILLING:
            self.last -= 1
            if self.last == 0 and not self._is_done:
                await self._crash(verb)
        is_last = self.last == 0
        answer = await super()._call_verb(verb, call)
        if is_last:
            await self._crash(verb)
        return answer

    def _hang(self, verb: str) -> "asyncio.Future[Any]":
        return self._process.hang()

    def forward(self, verb: str, *arguments: Any, **options: Any) -> Awaitable[Any]:
        """Call a verb by its name."""
        return self._call_verb(verb, lambda: getattr(self.store, verb)(*arguments, **options))

    @asynccontextmanager
    async def renewing(self) -> AsyncGenerator[Renew]:
        """See the protocol; who has died renews nothing."""
        async with self.store.renewing() as renew:

            async def renew_while_alive(*arguments: Any, **options: Any) -> bool:
                if self.died.is_set():
                    raise StoreUnavailable("the process has died")
                return await renew(*arguments, **options)

            yield renew_while_alive

    async def deregister(self, worker: str) -> None:
        """See the protocol; who has died is known until its lease ends."""
        if self.died.is_set():
            raise StoreUnavailable("the process has died")
        await self.store.deregister(worker)

    async def close(self) -> None:
        """The next life goes on with it."""


for _verb in dir(WireStore):
    # The server looks if a store has them.
    if not _verb.startswith("_") and not hasattr(MortalStore, _verb):
        setattr(MortalStore, _verb, partialmethod(MortalStore.forward, _verb))
