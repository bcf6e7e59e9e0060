"""The cost of a claim does not grow with messages that it does not lease: counted in steps of SQLite's own machine."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from batchflow.core.flow import FlowControl
from batchflow.core.message import Message
from batchflow.stores.sqlite import SqliteStore
from batchflow.testing.clock import ManualClock
from tests.conformance.item_keys import start_items
from tests.conformance.scene import Scene
from tests.engine.test_costs import in_writer

FEW = tuple(f"/served-{number}" for number in range(10))
STEPS = 100
HOUR_MS = 3_600_000


def message(number: int, key: str, *, rate: int | None = None, not_before: int = 0) -> Message:
    return Message(
        id=f"m{number:06d}",
        destination=FEW[0],
        flow=FlowControl(key=key, rate=rate, period="1h"),
        not_before=not_before,
    )


async def cost(path: Path, messages: Sequence[Message], destinations: Sequence[str]) -> int:
    """The hundreds of steps of the third claim of eight messages, once its list of destinations is known."""
    store, steps = SqliteStore(str(path), clock=ManualClock()), 0
    await store.open()
    await store.register("w", HOUR_MS)
    await store.publish(messages)
    for _ in range(2):
        await store.claim("w", destinations, 8)

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    await in_writer(store, lambda tx: tx.connection.set_progress_handler(step, STEPS))
    await store.claim("w", destinations, 8)
    await store.close()
    return steps


@pytest.mark.parametrize(
    "kind",
    ["ready", "sleeping", "held back by their rate"],
)
async def test_claim_cost_does_not_grow_with_flow_keys(tmp_path: Path, kind: str) -> None:
    """The same for messages that are due, due later, or delayed by a rate."""

    def messages(keys: int) -> list[Message]:
        later = 10**15 if kind == "sleeping" else 0
        rate = 1 if kind == "held back by their rate" else None
        # Some that can be claimed, too.
        few = [message(number, f"a{number % 10}") for number in range(100)]
        return few + [message(100 + number, f"k{number % keys}", rate=rate, not_before=later) for number in range(keys)]

    few = await cost(tmp_path / "few.db", messages(100), FEW)
    many = await cost(tmp_path / "many.db", messages(5_000), FEW)
    assert many <= few * 1.5 + 5


async def test_claim_cost_does_not_grow_with_what_a_worker_serves(tmp_path: Path) -> None:
    """Destinations are looked up, not gone through."""
    messages = [message(number, "one") for number in range(100)]
    few = await cost(tmp_path / "few.db", messages, FEW)
    many = await cost(tmp_path / "many.db", messages, (*FEW, *(f"/more-{number}" for number in range(20_000))))
    assert many <= few * 1.2 + 2


async def test_claim_cost_does_not_grow_with_the_backlog(tmp_path: Path) -> None:
    """Neither with what waits in a lane, nor with what waits there to be tried again."""
    few = await cost(tmp_path / "few.db", [message(number, "one") for number in range(100)], FEW)
    waiting = [message(number, "one") for number in range(5_000)]
    later = [message(5_000 + number, "one", not_before=10**15) for number in range(1_000)]
    many = await cost(tmp_path / "many.db", waiting + later, FEW)
    assert many <= few * 1.2 + 2


async def nested_cost(path: Path, keys: int, *, own_full: bool) -> int:
    """The hundreds of steps of a claim while so many keys of items wait, under a full key or full themselves."""
    store, steps = SqliteStore(str(path), clock=ManualClock()), 0
    await store.open()
    await store.register("w", HOUR_MS)
    scene = Scene(store, ManualClock(), "w")
    layer = FlowControl(key="layer", parallelism=None if own_full else 8)
    await start_items(scene, keys, layer, twice=own_full)
    while (await store.claim("w", ("execute",), 500)).claims:
        pass
    await store.publish([message(number, "other") for number in range(100)])
    await store.claim("w", ("execute", FEW[0]), 8)

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    await in_writer(store, lambda tx: tx.connection.set_progress_handler(step, STEPS))
    assert len((await store.claim("w", ("execute", FEW[0]), 8)).claims) == 8
    await store.close()
    return steps


@pytest.mark.parametrize("own_full", [False, True])
async def test_claim_cost_does_not_grow_with_keys_of_items_that_wait(tmp_path: Path, own_full: bool) -> None:
    """Neither under a key that is full, nor if they are full themselves: nothing of them is looked at."""
    few = await nested_cost(tmp_path / "few.db", 100, own_full=own_full)
    many = await nested_cost(tmp_path / "many.db", 5_000, own_full=own_full)
    assert many <= few * 1.2 + 2
