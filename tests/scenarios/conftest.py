"""What every scenario is played on, and how: see `WAYS`."""

from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

import pytest

from tests.scenarios.scenario_app import Scene
from tests.stores.kinds import Kind
from tests.stores.redis_server import Server, served


class Way(NamedTuple):
    """On which store, suspended after every step or not, with sync or async steps."""

    store: Kind
    always_replay: bool = False
    sync: bool = False

    def __str__(self) -> str:
        mode = "always_replay" if self.always_replay else "direct"
        return f"{self.store}-{mode}{'-sync' if self.sync else ''}"


WAYS = [Way(store, always_replay) for store in ("sqlite", "fakeredis", "redis") for always_replay in (False, True)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A scenario that takes `both` is played with plain functions as well: on one store, as no store knows of them."""
    if "scene" in metafunc.fixturenames:
        plain = [way._replace(sync=True) for way in WAYS if way.store == "sqlite"]
        ways = [*WAYS, *plain] if "both" in metafunc.fixturenames else WAYS
        metafunc.parametrize("scene", ways, indirect=True, ids=str)


@pytest.fixture(scope="session")
def scenario_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture
async def scene(request: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    """An app in virtual time; at the end of the test nothing may be left in its store."""
    way: Way = request.param
    monkeypatch.setenv("BATCHFLOW_ALWAYS_REPLAY", str(way.always_replay))
    url = request.getfixturevalue("scenario_server").url if way.store == "redis" else None
    scene = Scene(way.store, url, always_replay=way.always_replay, sync=way.sync)
    yield scene
    try:
        assert await scene.left() == {}
    finally:
        await scene.flow.stop()


@pytest.fixture
def both(scene: Scene) -> Scene:
    """The same, its steps being plain functions as well."""
    return scene
