"""Limits over three worker processes on Redis: `python -m benchmarks.flow_control`.

How exactly a rate is held, and how long messages of nine quiet keys wait without and beside a hot one.
"""

import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

from batchflow import Batchflow, BatchHandle, BatchWorkflow, FlowControl, NoParams
from benchmarks.app import quiet_logs
from benchmarks.on_redis import server

Figures = dict[str, float]

WORKERS, CONCURRENCY = 3, 20
RATE, RATED = 200, 2_000
QUIET = [f"quiet-{number}" for number in range(9)]
ROUNDS, BURST, HOT = 8, 5, 12_000
WORK_S = 0.02


def timed(key: str, limits: FlowControl | None, work_s: float) -> BatchWorkflow[NoParams, str, float]:
    """A workflow whose items return when they began; its chunks are in nobody's way."""

    class Timed(BatchWorkflow[NoParams, str, float], ids_only=True):
        name = key
        chunk_size = 1_000
        entry_flow = paginate_flow = None
        execute_flow = limits

        async def execute(self, item_id: str) -> float:
            begun = time.time()
            await asyncio.sleep(work_s)
            return begun

    return Timed()


def program(url: str) -> Batchflow:
    """What is worked for."""
    flow = Batchflow(url)
    flow.add(timed("rated", FlowControl(rate=RATE), 0))
    flow.add(timed("hot", None, WORK_S))
    for name in QUIET:
        flow.add(timed(name, FlowControl(parallelism=1), WORK_S))
    return flow


@contextlib.contextmanager
def workers(url: str) -> Generator[None]:
    """Three processes that work."""
    command = [sys.executable, "-m", "batchflow.cli", "worker", "benchmarks.flow_control:flow"]
    command += ["--concurrency", str(CONCURRENCY)]
    environment = os.environ | {"BATCHFLOW_URL": url, "BATCHFLOW_LOG_LEVEL": "WARNING"}
    started = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) for _ in range(WORKERS)]
    try:
        yield
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()


def _ids(count: int) -> list[str]:
    return [f"{time.time_ns()}-{number}" for number in range(count)]


async def _begun(batch: BatchHandle[float]) -> list[float]:
    await batch.wait(check=True)
    return [begun async for _, begun in batch.results()]


async def rate(flow: Batchflow) -> Figures:
    """Starts a second as the items see them, and the busiest second of them."""
    starts = sorted(await _begun(await flow.workflows["rated"].trigger(ids=_ids(RATED))))
    busiest = max(sum(start <= other < start + 1 for other in starts) for start in starts)
    return {"per_s": (len(starts) - 1) / (starts[-1] - starts[0]), "busiest_second": busiest}


async def quiet_wait_ms(flow: Batchflow) -> float:
    """The median time from a trigger of a few items to the beginning of each, over all quiet keys."""

    async def waits(name: str) -> list[float]:
        triggered = time.time()
        return [begun - triggered for begun in await _begun(await flow.workflows[name].trigger(ids=_ids(BURST)))]

    found: list[float] = []
    for _ in range(ROUNDS):
        for some in await asyncio.gather(*(waits(name) for name in QUIET)):
            found += some
    return statistics.median(found) * 1e3


async def measured(folder: Path) -> Figures:
    """All of it, on a server of its own."""
    quiet_logs(folder)
    with server(folder) as url, workers(url):
        flow = program(url)
        await flow.start(worker=False)
        try:
            await quiet_wait_ms(flow)
            figures = await rate(flow)
            alone = await quiet_wait_ms(flow)
            hot = await flow.workflows["hot"].trigger(ids=_ids(HOT))
            beside = await quiet_wait_ms(flow)
            assert not (await hot.status()).is_over, "the hot key has run out of work"
            await hot.cancel()
        finally:
            await flow.stop()
    return figures | {"alone_ms": alone, "beside_ms": beside}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(measured(Path(folder)))
    print(f"rate of {RATE}/s over {WORKERS} workers: {figures['per_s']:.1f}/s held, ", end="")
    print(f"{figures['busiest_second']:.0f} in the busiest second")
    ratio = figures["beside_ms"] / figures["alone_ms"]
    print(f"median wait of {len(QUIET)} quiet keys: {figures['alone_ms']:.0f} ms alone, ", end="")
    print(f"{figures['beside_ms']:.0f} ms beside a hot one ({ratio:.2f} times)")


if __name__ == "__main__":
    main()
elif "BATCHFLOW_URL" in os.environ:
    flow = program(os.environ["BATCHFLOW_URL"])
