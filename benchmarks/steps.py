"""Measurements of durable functions: what a step costs, and how late a sleeping run wakes."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from batchflow import Batchflow, WorkflowContext
from batchflow.serve.runs import RunHandle
from benchmarks.app import quiet_app

Figures = dict[str, float]
SLEEPERS = 10_000
SPREAD_S = 10.0


async def _one(number: int) -> int:
    return number


def _chain(flow: Batchflow):
    @flow.serve("/chain")
    async def chain(ctx: WorkflowContext[int]) -> int:
        """So many steps, one after the other."""
        total = 0
        for number in range(ctx.payload):
            total += await ctx.run(f"step:{number}", _one, number)
        return total

    return chain


async def sequential_steps(folder: Path) -> Figures:
    """One run of 10, 100 and 1,000 steps; the time of each step, the run itself taken out."""
    flow = quiet_app(folder)
    chain = _chain(flow)
    figures: Figures = {}
    async with flow:
        await (await chain.trigger(10)).wait()
        begun = time.perf_counter()
        await (await chain.trigger(0)).wait()
        empty = time.perf_counter() - begun
        for steps in (10, 100, 1_000):
            begun = time.perf_counter()
            await (await chain.trigger(steps)).wait()
            figures[f"us_at_{steps}"] = (time.perf_counter() - begun - empty) / steps * 1e6
    return figures


async def parallel_runs(folder: Path) -> Figures:
    """Steps a second of one run of 1,000 steps, and of 1,000 runs of 20 steps."""
    flow = quiet_app(folder)
    chain = _chain(flow)
    async with flow:
        begun = time.perf_counter()
        await (await chain.trigger(1_000)).wait()
        one = 1_000 / (time.perf_counter() - begun)
        begun = time.perf_counter()
        runs = await chain.trigger_many([20] * 1_000)
        await _all_of(runs)
        many = 20_000 / (time.perf_counter() - begun)
    return {"one_run_steps_per_s": one, "thousand_runs_steps_per_s": many}


async def sleeping_runs(folder: Path) -> Figures:
    """10,000 runs that sleep until a moment of their own, within ten seconds; how late they wake."""
    flow = quiet_app(folder)
    late: list[float] = []

    @flow.serve("/sleeper")
    async def sleeper(ctx: WorkflowContext[int]) -> None:
        await ctx.sleep_until("nap", ctx.payload)
        late.append(time.time() * 1000 - ctx.payload)  # batchflow: ok

    async with flow:
        begun = time.time()
        runs = await sleeper.trigger_many([int(begun * 1000) - 1] * 1_000)
        await _all_of(runs)
        # As long again as it takes all of them to fall asleep, with room to spare.
        first = time.time() + 2 + (time.time() - begun) * 20
        late.clear()
        moments = [int((first + number * SPREAD_S / SLEEPERS) * 1000) for number in range(SLEEPERS)]
        runs = await sleeper.trigger_many(moments)
        await _all_of(runs)
    late.sort()
    return {"p50_ms": late[len(late) // 2], "p99_ms": late[len(late) * 99 // 100], "max_ms": late[-1]}


async def _all_of(runs: Sequence[RunHandle[Any]]) -> None:
    """Wait for the end of runs, the last one first: then the others have ended as well, or nearly."""
    for run in reversed(runs):
        await run.wait()
