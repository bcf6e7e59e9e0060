"""Posts on SQLite cost few statements, however many there are."""

import asyncio
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager

import pytest

from batchflow.core.settlement import Log
from batchflow.stores.sqlite import SqliteStore
from batchflow.testing.clock import ManualClock
from tests.conformance.scene import LEASE_MS
from tests.conformance.wire import WireScene, new_post


@pytest.fixture
async def wire() -> AsyncIterator[WireScene]:
    clock = ManualClock()
    store = SqliteStore(":memory:", clock=clock)
    await store.open()
    await store.register("w1", LEASE_MS)
    yield WireScene(store, clock)
    await store.close()


@contextmanager
def statements(wire: WireScene) -> Generator[list[str]]:
    """The statements that the store runs meanwhile."""
    connection = vars(wire.store)["_writer"].connection
    found: list[str] = []
    connection.set_trace_callback(found.append)
    yield found
    connection.set_trace_callback(None)


@pytest.mark.parametrize("queue", [None, "q"])
async def test_hundreds_of_posts_are_a_few_statements(wire: WireScene, queue: str | None) -> None:
    """In one call, or in as many calls at the same moment."""
    with statements(wire) as of_one:
        await wire.post("a", dedup="k", queue=queue)
    with statements(wire) as of_many:
        await wire.wire.post([new_post(f"m{number:03d}", dedup=f"k{number}", queue=queue) for number in range(250)])
    assert len(of_many) <= len(of_one)
    with statements(wire) as of_calls:
        await asyncio.gather(*(wire.post(f"n{number:03d}", dedup=f"n{number}", queue=queue) for number in range(250)))
    assert len(of_calls) <= len(of_one)


async def test_the_log_of_hundreds_of_deliveries_is_one_statement_more(wire: WireScene) -> None:
    """And one for those that end."""
    await wire.post(*(f"m{number:03d}" for number in range(200)))
    half = await wire.claim(100)
    with statements(wire) as without:
        await asyncio.gather(*(wire.done(claim) for claim in half))
    other_half = await wire.claim(100)
    with statements(wire) as logged:
        logs = [Log((wire.entry(claim.id, "DELIVERED"),)) for claim in other_half]
        await asyncio.gather(*(wire.done(claim, log) for claim, log in zip(other_half, logs, strict=True)))
    assert len(logged) == len(without) + 2
