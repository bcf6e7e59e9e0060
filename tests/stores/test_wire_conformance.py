"""Our stores keep posts as every store has to that keeps them."""

from pathlib import Path

import pytest

from batchflow.core.ports import Clock
from batchflow.core.store import Store
from batchflow.stores.sqlite import SqliteStore
from tests.conformance import WireConformance


class TestSqliteFile(WireConformance):
    """A file."""

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.path = tmp_path / "batchflow.db"

    def make_store(self, clock: Clock) -> Store:
        # What a machine that goes down may lose is no matter of the suite.
        return SqliteStore(str(self.path), clock=clock, synchronous="NORMAL")


class TestSqliteMemory(WireConformance):
    """Memory, which is gone when the store is closed."""

    def make_store(self, clock: Clock) -> Store:
        return SqliteStore(":memory:", clock=clock)
