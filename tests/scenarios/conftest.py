"""What every scenario is played with: in direct mode and suspended after every step, with sync and async functions."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.scenarios.scene import Scene


@pytest.fixture(params=["direct", "always_replay"])
async def scene(request: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    """An app in virtual time; at the end of the test nothing may be left in its store."""
    always_replay = request.param == "always_replay"
    monkeypatch.setenv("BATCHFLOW_ALWAYS_REPLAY", str(always_replay))
    scene = Scene(always_replay=always_replay)
    yield scene
    try:
        assert scene.left() == {}
    finally:
        await scene.flow.stop()


@pytest.fixture(params=["async", "sync"])
def both(request: Any, scene: Scene) -> Scene:
    """The same, its steps being plain functions as well."""
    scene.sync = request.param == "sync"
    return scene
