"""One run: a server, the lines to it, the workers, one batch, and the faults of a plan."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from batchflow import Batchflow, BatchHandle, NoParams
from batchflow.batch.bound import Workflow
from batchflow.errors import StoreUnavailable
from tests.chaos.crew import Crew
from tests.chaos.job import CONCURRENCY, LAST_WORD, STEPS, Chaos, Made
from tests.chaos.plan import Kind, Planned, plan
from tests.chaos.proxy import Line, Trick
from tests.chaos.traces import Reader, Trace
from tests.stores.redis_server import Server
from tests.waiting import wait_until

WORKERS = 3
PREFIX = "bf:{batchflow}:"
PATIENCE_S = 120
AT_WORK: set[Kind] = {"kill", "stop", "end"}
"""What is done to workers that hold claims."""
TRICKS: dict[Kind, Trick] = {"cut after": Trick.AFTER, "cut inside": Trick.INSIDE, "late": Trick.LATE}


@dataclass(frozen=True, slots=True)
class Fault:
    """What was done, to whom, and when: by the machine's monotonic clock, in ns."""

    kind: Kind
    workers: tuple[str, ...]
    begun: int
    ended: int


@dataclass(slots=True)
class Run:
    """What is known of a run in the end, beside what its server holds."""

    seed: int
    items: int
    batch: str = ""
    faults: list[Fault] = field(default_factory=list[Fault])
    traces: list[Trace] = field(default_factory=list[Trace])
    left: list[str] = field(default_factory=list[str])
    exits: list[int] = field(default_factory=list[int])
    seconds: float = 0.0

    @property
    def counts(self) -> Counter[Kind]:
        """How many faults there were of each kind."""
        return Counter(fault.kind for fault in self.faults)


class Stage:
    """Plays one run."""

    def __init__(self, folder: Path, server: Server, *, seed: int, items: int) -> None:
        self.folder = folder
        self.run = Run(seed, items)
        self.server = server
        self.flow = Batchflow(server.url, worker=False)
        self.workflow: Workflow[NoParams, Made] = self.flow.add(Chaos(folder, "stage", items))
        self._lines = [Line(("127.0.0.1", server.port)) for _ in range(WORKERS)]
        self._reader = Reader(folder)
        self._done: set[str] = set()
        self._stopped: set[int] = set()
        self._working: set[int] = set()
        self._meanwhile: list[asyncio.Task[Any]] = []

    async def play(self) -> BatchHandle[Made]:
        """From the trigger to the end of the last worker."""
        begun = time.monotonic()
        batch = await self.workflow.trigger()
        self.run.batch = batch.id
        self._crew.start()
        for planned in plan(self.run.seed, self.run.items, WORKERS):
            await self._until(lambda planned=planned: len(self._done) >= planned.at, f"{planned.at} items are done")
            await self._inflict(planned)
        await self._until(lambda: all(task.done() for task in self._meanwhile), "everybody goes on")
        await asyncio.gather(*self._meanwhile)
        await self._kill_in_the_end()
        await self._until(lambda: self._is_over(batch), "the batch is over")
        # One that is only starting does not know yet how to stop in good order.
        await self._until(self._all_work, "all workers are at work")
        self.run.exits += await asyncio.to_thread(self._crew.end)
        await wait_until(self._forgets_the_dead, description="the dead are forgotten")
        self._follow()
        self.run.traces = self._reader.traces
        self.run.left = self._crew.left
        self.run.seconds = time.monotonic() - begun
        return batch

    @asynccontextmanager
    async def set(self) -> AsyncGenerator[None]:
        """Lines and flow are open."""
        for line in self._lines:
            await line.open()
        self._crew = Crew(
            "tests.chaos.job:flow",
            [line.url for line in self._lines],
            self.folder,
            CONCURRENCY,
            {"CHAOS_ITEMS": str(self.run.items)},
        )
        try:
            async with self.flow:
                yield
        finally:
            for task in self._meanwhile:
                task.cancel()
            self._crew.clear()
            for line in self._lines:
                await line.close()

    async def situation(self) -> str:
        """How far it has come, for whom it may concern."""
        try:
            batch = await self.flow.engine.store.batch(self.run.batch)
            flows = await self.flow.engine.store.flows()
        except StoreUnavailable as error:
            return f"{len(self._done)} items done, {error}"
        return f"{len(self._done)} items done, {dict(self.run.counts)}, left: {self._crew.left}, {batch}, {flows}"

    # Faults

    async def _inflict(self, planned: Planned) -> None:
        self._working = set()
        if planned.kind in AT_WORK:
            await self._until(lambda: self._some_at_work(planned.kind), f"'{planned.kind}' finds a worker that works")
        slot = self._slot(planned.slot)
        begun, workers = time.monotonic_ns(), (self._crew.names()[slot],)
        match planned.kind:
            case "kill":
                self._crew.kill(slot)
            case "end":
                self.run.exits.append(await asyncio.to_thread(self._crew.relieve, slot))
            case "stop":
                self._stopped.add(slot)
                self._meanwhile.append(asyncio.create_task(self._outlive(slot, begun)))
                return
            case "server":
                workers = tuple(self._crew.names())
                await asyncio.to_thread(self.server.stop)
                await asyncio.to_thread(self.server.start)
            case "cut":
                self._lines[slot].cut()
            case "delay":
                self._meanwhile.append(asyncio.create_task(self._slow(slot, planned, begun)))
                return
            case _:
                trick = asyncio.create_task(self._lines[slot].play(TRICKS[planned.kind]))
                self._meanwhile.append(trick)
                await self._until(trick.done, f"'{planned.kind}' happens")
                if not trick.result():
                    return
                workers = (*workers, self._crew.names()[slot])
        self._note(planned.kind, workers, begun)

    async def _some_at_work(self, kind: Kind) -> bool:
        """Whether some worker holds claims; of those that are stopped another one has to take them back."""
        if kind == "stop" and len(self._stopped) == WORKERS - 1:
            return False
        self._working = {slot for slot in range(WORKERS) if slot not in self._stopped and await self._holds(slot)}
        # In the end there may be nothing left to hold.
        return bool(self._working) or len(self._done) == self.run.items

    def _slot(self, wanted: int) -> int:
        """This worker, or another one: that works, where there is one, or is not stopped at least."""
        others = [it % WORKERS for it in range(wanted, wanted + WORKERS) if it % WORKERS not in self._stopped]
        return next((slot for slot in others if slot in self._working), others[0])

    def _note(self, kind: Kind, workers: tuple[str, ...], begun: int) -> None:
        self.run.faults.append(Fault(kind, tuple(dict.fromkeys(workers)), begun, time.monotonic_ns()))

    async def _outlive(self, slot: int, begun: int) -> None:
        """A worker is stopped until its claims have been taken back, and goes on."""
        name, pid = self._crew.names()[slot], self._crew.pid(slot)
        if self._crew.signal(slot, name, signal.SIGSTOP):
            await wait_until(lambda: self._has_lost(pid), description=f"{name} loses its claims", timeout=PATIENCE_S)
            if self._crew.signal(slot, name, signal.SIGCONT):
                self._note("stop", (name,), begun)
        self._stopped.discard(slot)

    async def _has_lost(self, pid: int) -> bool:
        if pid not in map(self._crew.pid, range(WORKERS)):
            return True
        try:
            return not _of(pid, await self._enlisted())
        except redis.RedisError:
            return False

    async def _holds(self, slot: int) -> bool:
        def read() -> int:
            with self.server.client() as client:
                return client.exists(*(f"{PREFIX}w:{name}" for name in names))

        names = _of(self._crew.pid(slot), await self._enlisted())
        return bool(names) and await asyncio.to_thread(read) > 0

    async def _slow(self, slot: int, planned: Planned, begun: int) -> None:
        """Answers take their time, until some items more are done."""
        self._lines[slot].delay_s = 0.02 + 0.2 * planned.amount
        target = min(self.run.items, len(self._done) + self.run.items // 20)
        await wait_until(lambda: len(self._done) >= target, description="some items are done", timeout=PATIENCE_S)
        self._lines[slot].delay_s = 0.0
        self._note("delay", (self._crew.names()[slot],), begun)

    async def _kill_in_the_end(self) -> None:
        """Who has called `on_complete` first is killed in the middle of it."""
        await self._until((self.folder / LAST_WORD).exists, "on_complete is called")
        self._follow()
        who = next(trace.worker for trace in self._reader.traces if trace.step == "on-complete")
        # Unless the plan has come to it already.
        if who in (names := self._crew.names()):
            self._note("kill", (self._crew.kill(names.index(who)),), time.monotonic_ns())

    # What the run waits for

    async def _until(self, predicate: Callable[[], Any], description: str) -> None:
        async def look() -> bool:
            self._crew.look()
            self._follow()
            answer = predicate()
            return await answer if asyncio.iscoroutine(answer) else answer

        await wait_until(look, description=description, timeout=PATIENCE_S)

    def _follow(self) -> None:
        self._done.update(trace.item for trace in self._reader.follow() if trace.step == STEPS[-1])

    async def _is_over(self, batch: BatchHandle[Made]) -> bool:
        try:
            found = await self.flow.engine.store.batch(batch.id)
        except StoreUnavailable:
            return False
        return found is not None and found.items_ended and not found.working

    async def _all_work(self) -> bool:
        enlisted = await self._enlisted()
        return all(_of(self._crew.pid(slot), enlisted) for slot in range(WORKERS))

    async def _forgets_the_dead(self) -> bool:
        await self.flow.engine.store.expire()
        return not await self._enlisted()

    async def _enlisted(self) -> list[str]:
        def read() -> list[str]:
            with self.server.client() as client:
                return client.zrange(f"{PREFIX}workers", 0, -1)

        return await asyncio.to_thread(read)


def _of(pid: int, names: list[str]) -> list[str]:
    """The worker of a process."""
    return [name for name in names if f"-{pid}-" in name]
