"""One worker process and two, on one SQLite file and on one Redis server: `batchflow worker` as users run it."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

from batchflow import Batchflow, NoParams, Workflow
from benchmarks.app import quiet_logs
from benchmarks.job import Greet, Greeting
from benchmarks.on_redis import server

Figures = dict[str, float]

ITEMS = 20_000
WARM = 200


def __getattr__(name: str) -> Batchflow:
    """`flow` is what the workers serve, made where they ask for it; their store is $BATCHFLOW_URL."""
    if name != "flow":
        raise AttributeError(name)
    quiet_logs(Path(os.environ["BENCHMARK_FOLDER"]))
    flow = Batchflow()
    flow.add(Greet(ITEMS))
    return flow


@contextlib.contextmanager
def at_work(url: str, folder: Path, processes: int) -> Generator[None]:
    """So many processes that work."""
    command = [sys.executable, "-m", "batchflow.cli", "worker", "benchmarks.crew:flow"]
    environment = os.environ | {"BATCHFLOW_URL": url, "BENCHMARK_FOLDER": str(folder)}
    with contextlib.ExitStack() as crew:
        for _ in range(processes):
            worker = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            crew.callback(worker.wait)
            crew.callback(worker.terminate)
        yield


async def per_second(url: str, folder: Path, processes: int) -> float:
    """Items a second of so many processes, none of them the one that triggers."""
    quiet_logs(folder)
    flow = Batchflow(url, worker=False)
    greet = flow.add(Greet(ITEMS))
    async with flow:
        with at_work(url, folder, processes):
            return await _timed(flow, greet, processes)


async def _timed(flow: Batchflow, greet: Workflow[NoParams, Greeting], processes: int) -> float:
    # Until all of them work.
    await (await greet.trigger(limit=WARM)).wait()
    while len(await flow.engine.store.workers()) < processes:
        await (await greet.trigger(limit=WARM, force=True)).wait()
    begun = time.perf_counter()
    summary = await (await greet.trigger(force=True)).wait(check=True)
    assert summary.counts.succeeded == ITEMS
    return ITEMS / (time.perf_counter() - begun)


async def crew_embedded(folder: Path) -> Figures:
    """One process, then two, on one file."""
    one = await per_second(f"sqlite:///{folder / 'one.db'}", folder, 1)
    two = await per_second(f"sqlite:///{folder / 'two.db'}", folder, 2)
    return {"one_per_s": one, "two_per_s": two}


async def crew_on_redis(folder: Path) -> Figures:
    """One process, then two, on a server of their own each."""
    with server(folder) as url:
        one = await per_second(url, folder, 1)
    with server(folder) as url:
        two = await per_second(url, folder, 2)
    return {"one_per_s": one, "two_per_s": two}
