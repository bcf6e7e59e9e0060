"""A store that is not ours keeps what every store has to keep, written on the protocol alone."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from batchflow import Batchflow
from batchflow.core.ports import Clock
from batchflow.core.store import Store
from batchflow.testing import FixedEntropy, ManualClock, drive
from tests.conformance import SharedStoreConformance, StoreConformance
from tests.stores import memory
from tests.stores.memory import MemoryStore, Place
from tests.stores.test_state_machine import StoreMachine


class TestSharedMemory(SharedStoreConformance):
    """A place that several stores open, as several processes do a server."""

    @pytest.fixture(autouse=True)
    def _place(self) -> Iterator[None]:
        self.place = Place()
        yield
        # pytest keeps the instances of a class until all tests have run.
        del self.place

    def make_store(self, clock: Clock) -> Store:
        return MemoryStore(self.place, clock=clock)


class TestMemory(StoreConformance):
    """Memory of its own, which is gone when the store is closed."""

    def make_store(self, clock: Clock) -> Store:
        return MemoryStore(clock=clock)


def test_its_author_needed_the_core_alone() -> None:
    """Neither what our stores share, nor anything of one of them."""
    tree = ast.parse(Path(memory.__file__).read_text(encoding="utf-8"))
    imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    ours = {name for name in imported if name.startswith("batchflow")}
    assert {name for name in ours if not name.startswith("batchflow.core")} == {"batchflow.errors"}


class MemoryMachine(StoreMachine):
    """In dicts."""

    async def _open(self) -> Store:
        self.place = Place()
        store = MemoryStore(self.place, clock=self.clock)
        await store.open()
        return store

    def _rows(self) -> list[int]:
        rows = self.place.rows.values()
        return [sum(len(it.arrivals) for it in rows), len(self.place.listeners), sum(len(it.kept) for it in rows)]


class TestMemoryAgainstTheModel(MemoryMachine.TestCase):
    """The same operations as the model does, crashes included."""

    settings = settings(
        max_examples=40,
        stateful_step_count=30,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
    )


async def test_an_app_works_on_it() -> None:
    """As on ours: a batch, one item of which fails at first."""
    clock = ManualClock()
    flow = Batchflow(MemoryStore(Place(), clock=clock), clock=clock, entropy=FixedEntropy(), worker=False)
    failed: list[str] = []

    @flow.batch
    async def shout(word: str) -> str:
        if word == "b" and not failed:
            failed.append(word)
            raise ValueError("not yet")
        return word.upper()

    async with flow:
        batch = await shout.trigger(ids=["a", "b", "c"])
        await drive(flow, clock)
        assert (await batch.status()).counts.succeeded == 3
        assert await shout.processed(["a", "b", "x"]) == {"a", "b"}
    assert failed == ["b"]
