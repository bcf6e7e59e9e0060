"""Measures the cost of a claim as workflows, flow keys and batches grow, without executing what it claims."""

import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from batchflow.core.flow import FlowControl
from batchflow.core.message import Message
from batchflow.core.store import Store
from batchflow.engine.clock import SystemClock
from batchflow.stores.redis import RedisStore
from batchflow.stores.sqlite import SqliteStore
from benchmarks.on_redis import connect, server

Figures = dict[str, float]

ROUNDS = 200
TAKEN = 10
PORTION = 5_000
LAYERS = 4
"""Routes of one workflow."""


def messages(count: int, keys: int, retries: float = 0.0) -> Sequence[Message]:
    """So many messages under so many keys, of which a part waits to be tried again in an hour."""
    later = int((time.time() + 3_600) * 1000)  # batchflow: ok
    step = round(1 / retries) if retries else 0
    return [
        Message(
            id=f"m{number:07d}",
            destination="/w0/execute",
            flow=FlowControl(key=f"k{number % keys}"),
            not_before=later if step and number % step == 0 else 0,
        )
        for number in range(count)
    ]


def destinations(workflows: int) -> tuple[str, ...]:
    """Return the destinations of a worker of that many workflows."""
    layers = ("execute", "process", "paginate", "complete")[:LAYERS]
    return tuple(f"/w{number}/{layer}" for number in range(workflows) for layer in layers)


async def claim_us(store: Store, waiting: Sequence[Message], served: Sequence[str], cpu: Callable[[], float]) -> float:
    """CPU of one claim of ten messages, in us."""
    await store.open()
    await store.register("w", 3_600_000)
    for low in range(0, len(waiting), PORTION):
        await store.publish(waiting[low : low + PORTION])
    # What is claimed for the first time costs more, once.
    for _ in range(5):
        await store.claim("w", served, TAKEN)
    begun = cpu()
    for _ in range(ROUNDS):
        claimed = await store.claim("w", served, TAKEN)
        assert len(claimed.claims) == TAKEN
    taken = (cpu() - begun) / ROUNDS * 1e6
    await store.close()
    return taken


async def figures(measure: Callable[[Sequence[Message], Sequence[str]], Awaitable[float]]) -> Figures:
    """Each growth, from small to large."""
    some = (ROUNDS + 10) * TAKEN
    few = destinations(10)
    return {
        "workflows_10_us": await measure(messages(some, 1), few),
        "workflows_5000_us": await measure(messages(some, 1), destinations(5_000)),
        "keys_10_us": await measure(messages(some, 10), few),
        "keys_100000_us": await measure(messages(100_000, 100_000), few),
        "retries_us": await measure(messages(some * 5 // 4 + 10, 1, retries=0.2), few),
    }


async def claims_embedded(folder: Path) -> Figures:
    """On SQLite; CPU of this process."""
    made = 0

    async def measure(waiting: Sequence[Message], served: Sequence[str]) -> float:
        nonlocal made
        made += 1
        store = SqliteStore(str(folder / f"claims-{made}.db"), clock=SystemClock())
        return await claim_us(store, waiting, served, time.process_time)

    return await figures(measure)


async def claims_on_redis(folder: Path) -> Figures:
    """On Redis; CPU of the server."""
    with server(folder) as url, connect(url) as client:

        def cpu() -> float:
            about = client.info("cpu")
            return float(about["used_cpu_user"]) + float(about["used_cpu_sys"])

        async def measure(waiting: Sequence[Message], served: Sequence[str]) -> float:
            client.flushall()
            return await claim_us(RedisStore(url), waiting, served, cpu)

        return await figures(measure)
