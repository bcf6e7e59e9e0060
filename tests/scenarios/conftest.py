"""What every scenario is played on, and how: see `WAYS`."""

import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest

from tests.qstash.stage import APP_URL, WireStage
from tests.scenarios.places import Place, placed
from tests.scenarios.qstash_scene import QStashScene
from tests.scenarios.scenario_app import Scene
from tests.stores.kinds import Kind
from tests.stores.redis_server import Server, served


class Way(NamedTuple):
    """On which engine, suspended after every step or not, with sync or async steps."""

    engine: Literal[Kind, "qstash"]
    always_replay: bool = False
    sync: bool = False

    def __str__(self) -> str:
        if self.engine == "qstash":
            return "qstash-sync" if self.sync else "qstash"
        mode = "always_replay" if self.always_replay else "direct"
        return f"{self.engine}-{mode}{'-sync' if self.sync else ''}"


WAYS = [Way(store, always_replay) for store in ("sqlite", "fakeredis", "redis") for always_replay in (False, True)]
WAYS.append(Way("qstash", always_replay=True))

_CHILDREN = "QStash cancels a run, and not the runs that it has invoked."

NOT_ON_QSTASH: Mapping[str, str] = {
    "test_cancelled_while_it_waits_a_run_ends_at_once_with_its_children[child]": _CHILDREN,
    "test_cancelled_while_it_waits_a_run_ends_at_once_with_its_children[several]": _CHILDREN,
    "test_cancelled_while_it_works_a_run_ends_at_its_next_step": _CHILDREN,
    "test_children_go_a_hundred_deep_and_no_deeper": "QStash starts no run that is invoked a hundred deep.",
    "test_order_with_a_compensation_that_fails_is_a_failed_run": "QStash does not show which step of a run has failed.",
    "test_order_paid_around_the_last_moment_is_either_paid_or_not[before]": "The times of QStash are whole seconds.",
    "test_webhook_of_a_run_that_has_ended_is_gone": "QStash answers each request to a webhook with 200.",
}
"""The scenarios that do not hold on QStash, and why."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A scenario that takes `both` is played with plain functions as well: on one store, as no store knows of them."""
    if "scene" in metafunc.fixturenames:
        plain = [way._replace(sync=True) for way in WAYS if way.engine == "sqlite"]
        ways = [*WAYS, *plain] if "both" in metafunc.fixturenames else WAYS
        metafunc.parametrize("scene", ways, indirect=True, ids=str)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Scenarios that do not hold on QStash are played there all the same: one that does is taken out of the table."""
    for item in items:
        reason = NOT_ON_QSTASH.get(re.sub(r"qstash(-sync)?-?", "", item.name).replace("[]", ""))
        if reason is not None and "[qstash" in item.name:
            item.add_marker(pytest.mark.xfail(reason=reason))


@pytest.fixture(scope="session")
def scenario_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture(params=["sqlite", "redis", "qstash-sqlite", "qstash-redis"])
def place(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """Where the processes of a scenario run that kills some of them; the test itself is in its environment."""
    with placed(request.param, tmp_path) as place:
        for name, value in place.environment.items():
            monkeypatch.setenv(name, value)
        yield place


@pytest.fixture
async def scene(request: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    """An app in virtual time; at the end of the test nothing may be left in its store."""
    way: Way = request.param
    monkeypatch.setenv("BATCHFLOW_ALWAYS_REPLAY", str(way.always_replay))
    async with AsyncExitStack() as stack:
        if way.engine == "qstash":
            monkeypatch.setenv("APP_URL", f"{APP_URL}/")
            scene = QStashScene(await stack.enter_async_context(WireStage(batches=True)), sync=way.sync)
        else:
            url = request.getfixturevalue("scenario_server").url if way.engine == "redis" else None
            scene = Scene(way.engine, url, always_replay=way.always_replay, sync=way.sync)
            stack.push_async_callback(scene.flow.stop)
        yield scene
        assert await scene.left() == {}


@pytest.fixture
def both(scene: Scene) -> Scene:
    """The same, its steps being plain functions as well."""
    return scene
