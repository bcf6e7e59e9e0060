"""A store in memory, with a clock that the test moves; an app that pushes posts, on both stores."""

from collections.abc import AsyncIterator

import pytest

from batchflow.stores.sqlite import SqliteStore
from batchflow.testing.clock import ManualClock
from tests.engine.handlers import memory_store
from tests.engine.push_stage import Endpoint, Stage


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(clock: ManualClock) -> AsyncIterator[SqliteStore]:
    opened = await memory_store(clock)
    yield opened
    await opened.close()


@pytest.fixture(params=["sqlite", "fakeredis"])
async def stage(request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    made = Stage(Endpoint(), kind=request.param)
    await made.app.start(worker=False)
    yield made
    await made.app.stop()
