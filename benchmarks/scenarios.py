"""The measurements. Each runs in a process of its own, `python -m benchmarks.scenarios NAME`, and prints JSON."""

import asyncio
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path

from batchflow import BatchWorkflow, FlowControl, NoParams, Page
from batchflow.cli.process import new_event_loop, tune_garbage_collector
from benchmarks import on_redis
from benchmarks.app import quiet_app
from benchmarks.claims import claims_embedded, claims_on_redis
from benchmarks.crew import crew_embedded, crew_on_redis
from benchmarks.job import Greet, GreetHundred, Greeting, GreetLarge, GreetMany, GreetTenants, User, Users
from benchmarks.push import post_log, push_6k, server_6k
from benchmarks.references import python_items, sqlite_items
from benchmarks.scale import million, waiting_handles
from benchmarks.steps import parallel_runs, sequential_steps, sleeping_runs

Figures = dict[str, float]

SLICE = 20_000


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Timed(GreetLarge):
    """Notes the CPU time of the process at each so many items."""

    def __init__(self, items: int) -> None:
        super().__init__(items)
        self.saved = 0
        self.cpu: list[float] = []

    async def save(self, user_id: str, greeting: Greeting) -> None:
        self.saved += 1
        if self.saved == 1 or self.saved % SLICE == 0:
            self.cpu.append(time.process_time())


async def end_to_end(folder: Path, greet: Users, items: int) -> Figures:
    """A batch from trigger to the end of its `on_complete`; and SQLite alone, right before it."""
    alone = await asyncio.to_thread(sqlite_items, folder)
    flow = quiet_app(folder)
    bound = flow.add(greet)
    async with flow:
        cpu, begun = time.process_time(), time.perf_counter()
        batch = await bound.trigger()
        summary = await batch.wait(check=True)
        taken, cpu = time.perf_counter() - begun, time.process_time() - cpu
        assert summary.counts.succeeded == items
    figures = {
        "items_per_s": items / taken,
        "cpu_us": cpu / items * 1e6,
        "peak_mib": _peak_mib(),
        "sqlite_items_per_s": alone,
    }
    if isinstance(greet, Timed) and len(greet.cpu) > 2:
        slices = [(late - early) / SLICE * 1e6 for early, late in pairwise(greet.cpu)]
        figures |= {"first_cpu_us": slices[0], "last_cpu_us": slices[-1]}
    return figures


async def defaults_20k(folder: Path) -> Figures:
    """20,000 items in pages of 50 and chunks of 20, embedded in an app."""
    return await end_to_end(folder, Greet(20_000), 20_000)


async def large_20k(folder: Path) -> Figures:
    """The same in pages and chunks of 1,000."""
    return await end_to_end(folder, Timed(20_000), 20_000)


async def command_20k(folder: Path) -> Figures:
    """With the event loop and the garbage collector as the command has them."""
    return await end_to_end(folder, Timed(20_000), 20_000)


async def large_200k(folder: Path) -> Figures:
    """200,000 items."""
    return await end_to_end(folder, Timed(200_000), 200_000)


async def groups_10k(folder: Path) -> Figures:
    """10,000 items with one call for each, and then with one for up to fifty."""
    items = 10_000
    one, many = Greet(items), GreetMany(items)
    alone, together = folder / "alone", folder / "together"
    for place in (alone, together):
        place.mkdir()
    each = await end_to_end(alone, one, items)
    grouped = await end_to_end(together, many, items)
    return {
        "items_per_s": grouped["items_per_s"],
        "cpu_us": grouped["cpu_us"],
        "one_items_per_s": each["items_per_s"],
        "one_cpu_us": each["cpu_us"],
        "calls": many.calls,
        "one_calls": items,
    }


async def tenants_20k(folder: Path) -> Figures:
    """20,000 items, a hundred at once, and then one at a time of each of 2,000 tenants."""
    items = 20_000
    places = folder / "plain", folder / "tenants"
    for place in places:
        place.mkdir()
    plain = await end_to_end(places[0], GreetHundred(items), items)
    tenants = await end_to_end(places[1], GreetTenants(items), items)
    return {
        "items_per_s": tenants["items_per_s"],
        "cpu_us": tenants["cpu_us"],
        "plain_items_per_s": plain["items_per_s"],
        "plain_cpu_us": plain["cpu_us"],
    }


async def references(folder: Path) -> Figures:
    """SQLite alone, asyncio alone."""
    sqlite = await asyncio.to_thread(sqlite_items, folder)
    python = await asyncio.to_thread(python_items)
    return {"sqlite_items_per_s": sqlite, "asyncio_items_per_s": python}


class LargeResults(Greet):
    """Results of a megabyte."""

    async def execute(self, user: User) -> Greeting:
        return Greeting(text="x" * 1_000_000, length=1_000_000)


async def large_results(folder: Path) -> Figures:
    """600 items whose results have a megabyte each."""
    flow = quiet_app(folder)
    bound = flow.add(LargeResults(600))
    before = _peak_mib()
    async with flow:
        begun = time.perf_counter()
        await (await bound.trigger()).wait(check=True)
        taken = time.perf_counter() - begun
    return {"items_per_s": 600 / taken, "peak_mib": _peak_mib(), "idle_mib": before}


async def dry_run(folder: Path) -> Figures:
    """A dry run of a million ids through the default filter; and the same ids only fetched."""
    items = 1_000_000
    flow = quiet_app(folder)
    workflow = GreetLarge(items)
    greet = flow.add(workflow)
    async with flow:
        begun = time.perf_counter()
        statistics_ = await greet.dry_run()
        taken = time.perf_counter() - begun
        assert statistics_.total_eligible == statistics_.to_process == items
        begun, cursor = time.perf_counter(), None
        while True:
            page = await workflow.fetch(NoParams(), cursor, GreetLarge.page_size)
            cursor = page.next_cursor
            if cursor is None:
                break
        fetching = time.perf_counter() - begun
    return {"ids_per_s": items / taken, "fetch_only_ids_per_s": items / fetching, "peak_mib": _peak_mib()}


async def idle(folder: Path) -> Figures:
    """A worker with nothing to do, for ten seconds."""
    flow = quiet_app(folder)
    flow.add(Greet(1))
    async with flow:
        await asyncio.sleep(1)
        cpu, begun = time.process_time(), time.perf_counter()
        await asyncio.sleep(10)
        share = (time.process_time() - cpu) / (time.perf_counter() - begun)
    return {"core_percent": share * 100}


class Latency(BatchWorkflow[NoParams]):
    """Says when its first item is executed."""

    name = "latency"
    entry_flow = paginate_flow = execute_flow = None

    def __init__(self) -> None:
        self.executed_at = 0.0

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page([f"item-{number}" for number in range(limit)])

    async def execute(self, item_id: str) -> None:
        self.executed_at = self.executed_at or time.perf_counter()


async def latency(folder: Path) -> Figures:
    """From trigger to the first item's execution, the median of 50; and one commit of SQLite beside it."""
    flow = quiet_app(folder)
    workflow = Latency()
    bound = flow.add(workflow)
    taken: list[float] = []
    commits: list[float] = []
    async with flow:
        for _ in range(50):
            workflow.executed_at = 0.0
            begun = time.perf_counter()
            batch = await bound.trigger(force=True)
            commits.append(time.perf_counter() - begun)
            await batch.wait()
            taken.append(workflow.executed_at - begun)
    return {"first_ms": statistics.median(taken) * 1e3, "trigger_ms": statistics.median(commits) * 1e3}


class Limited(Latency):
    """Starts 200 items a second."""

    name = "limited"
    execute_flow = FlowControl(rate=200)

    def __init__(self) -> None:
        self.starts: list[float] = []

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        start = int(cursor or 0)
        return Page([f"item-{start + number}" for number in range(limit)], str(start + limit) if start < 1950 else None)

    async def execute(self, item_id: str) -> None:
        self.starts.append(time.perf_counter())


async def rate(folder: Path) -> Figures:
    """A rate of 200 a second, over 2,000 items; the busiest second of it."""
    flow = quiet_app(folder)
    workflow = Limited()
    bound = flow.add(workflow)
    async with flow:
        await (await bound.trigger()).wait()
    starts = workflow.starts
    held = (len(starts) - 1) / (starts[-1] - starts[0])
    busiest = max(sum(1 for at in starts[low : low + 250] if at < starts[low] + 1) for low in range(len(starts)))
    return {"per_s": held, "busiest_second": busiest}


async def redis_defaults_20k(folder: Path) -> Figures:
    """20,000 items on Redis in pages of 50 and chunks of 20, one worker."""
    return await on_redis.batch(folder, Greet(20_000), 20_000)


async def redis_large_20k(folder: Path) -> Figures:
    """The same in pages and chunks of 1,000."""
    return await on_redis.batch(folder, GreetLarge(20_000), 20_000)


async def redis_tenants_20k(folder: Path) -> Figures:
    """20,000 items on Redis, a hundred at once, and then one at a time of each of 2,000 tenants."""
    places = folder / "plain", folder / "tenants"
    for place in places:
        place.mkdir()
    plain = await on_redis.batch(places[0], GreetHundred(20_000), 20_000)
    tenants = await on_redis.batch(places[1], GreetTenants(20_000), 20_000)
    return {**tenants, **{f"plain_{name}": figure for name, figure in plain.items()}}


async def redis_queue(folder: Path) -> Figures:
    """100,000 items that wait in Redis."""
    return await on_redis.queued(folder, 100_000)


async def redis_calls(folder: Path) -> Figures:
    """10,000 calls that do nothing."""
    return await on_redis.calls(folder, 10_000)


SCENARIOS: dict[str, Callable[[Path], Awaitable[Figures]]] = {
    scenario.__name__: scenario
    for scenario in (
        references,
        defaults_20k,
        large_20k,
        command_20k,
        large_200k,
        large_results,
        groups_10k,
        tenants_20k,
        crew_embedded,
        dry_run,
        idle,
        latency,
        rate,
        sequential_steps,
        parallel_runs,
        sleeping_runs,
        waiting_handles,
        claims_embedded,
        redis_defaults_20k,
        redis_large_20k,
        redis_tenants_20k,
        crew_on_redis,
        redis_queue,
        redis_calls,
        claims_on_redis,
        push_6k,
        server_6k,
        post_log,
        million,
    )
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        figures = SCENARIOS[sys.argv[1]](Path(folder))
        factory = None
        if sys.argv[1].startswith("command"):
            tune_garbage_collector()
            factory = new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            print(json.dumps(runner.run(_await(figures))))


async def _await(figures: Awaitable[Figures]) -> Figures:
    return await figures


if __name__ == "__main__":
    main()
