"""A store in memory, with a clock that the test moves."""

from collections.abc import AsyncIterator

import pytest

from batchflow.stores.sqlite import SqliteStore
from batchflow.testing.clock import ManualClock
from tests.engine.handlers import memory_store


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(clock: ManualClock) -> AsyncIterator[SqliteStore]:
    opened = await memory_store(clock)
    yield opened
    await opened.close()
