"""The SQLite store keeps what every store has to keep, in a file and in memory."""

from pathlib import Path

import pytest

from batchflow.core.ports import Clock
from batchflow.core.store import Store
from batchflow.stores.sqlite import SqliteStore
from tests.conformance import (
    SharedStoreConformance,
    SharedWireConformance,
    StoreConformance,
    WireConformance,
)
from tests.conformance.scene import Cases


class FileCases(Cases):
    """A file, which several processes open."""

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.path = tmp_path / "batchflow.db"

    def make_store(self, clock: Clock) -> Store:
        # What a machine that goes down may lose is no matter of the suite.
        return SqliteStore(str(self.path), clock=clock, synchronous="NORMAL")


class MemoryCases(Cases):
    """Memory, which is gone when the store is closed."""

    def make_store(self, clock: Clock) -> Store:
        return SqliteStore(":memory:", clock=clock)


class TestSqliteFile(FileCases, SharedStoreConformance):
    """What every store keeps."""


class TestPostsOnSqliteFile(FileCases, SharedWireConformance):
    """What a store of posts keeps."""


class TestSqliteMemory(MemoryCases, StoreConformance):
    """What every store keeps."""


class TestPostsOnSqliteMemory(MemoryCases, WireConformance):
    """What a store of posts keeps."""
