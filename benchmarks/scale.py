"""Measures what must not grow with the items of a batch or with those who wait for it."""

import asyncio
import resource
import time
from pathlib import Path

from batchflow import NoParams, Workflow
from benchmarks.app import quiet_app
from benchmarks.job import Greet, Greeting

Figures = dict[str, float]

SLICE = 100_000
LOOK_S = 0.25


class Sliced(Greet):
    """Notes the CPU time and the memory of the process at each so many items."""

    def __init__(self, items: int) -> None:
        super().__init__(items)
        self.saved = 0
        self.cpu: list[float] = []
        self.resident_mib: list[float] = []

    async def save(self, user_id: str, greeting: Greeting) -> None:
        self.saved += 1
        if self.saved % SLICE == 0:
            self.cpu.append(time.process_time())
            self.resident_mib.append(resident_mib())


def resident_mib() -> float:
    """Return the memory of the process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


async def million(folder: Path) -> Figures:
    """1,000,000 items with the defaults: CPU of each 100,000, memory, and the size of SQLite's write-ahead log."""
    items = 1_000_000
    flow, greet = quiet_app(folder), Sliced(items)
    bound = flow.add(greet)
    log, largest = folder / "benchmark.db-wal", 0
    async with flow:
        batch = await bound.trigger()
        waiting = asyncio.ensure_future(batch.wait(check=True))
        while not waiting.done():
            largest = max(largest, log.stat().st_size)
            await asyncio.wait([waiting], timeout=LOOK_S)
        assert (await waiting).counts.succeeded == items
    slices = [(late - early) / SLICE * 1e6 for early, late in zip(greet.cpu, greet.cpu[1:], strict=False)]
    return {
        "second_cpu_us": slices[0],
        "last_cpu_us": slices[-1],
        "second_mib": greet.resident_mib[1],
        "last_mib": greet.resident_mib[-1],
        "wal_mib": largest / 2**20,
    }


async def waiting_handles(folder: Path) -> Figures:
    """CPU per item while nobody else waits for the batch, and while a thousand handles wait for another."""
    items, handles = 10_000, 1_000
    flow = quiet_app(folder)
    bound = flow.add(Greet(items))
    async with flow:
        await carried_out(bound, items)
        alone = await carried_out(bound, items)
        other = await bound.trigger(delay="1h", force=True)
        waiting = [asyncio.ensure_future(other.wait()) for _ in range(handles)]
        await asyncio.sleep(0)
        beside = await carried_out(bound, items)
        await other.cancel()
        await asyncio.gather(*waiting)
    return {"alone_cpu_us": alone, "beside_cpu_us": beside}


async def carried_out(bound: Workflow[NoParams, Greeting], items: int) -> float:
    """A batch of so many items; CPU of each in us."""
    cpu = time.process_time()
    batch = await bound.trigger(force=True)
    await batch.wait(check=True)
    return (time.process_time() - cpu) / items * 1e6
