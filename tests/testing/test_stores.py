"""Where the state of a test lives: one option of an environment, or of the whole run of pytest."""

from collections.abc import Iterator
from typing import Any

import pytest

from batchflow import Batchflow
from batchflow.errors import ConfigurationError
from batchflow.testing import Environment, FlowEnv
from tests.stores.redis_server import Server, served
from tests.testing.onboarding import NewUser, approval, flow, greet, onboarding
from tests.testing.test_plugin import APP

pytest_plugins = ["pytester"]

TEST = """
from app import flow, patient


async def test_patient(flow_env):
    async with flow_env(flow) as env:
        run = await env.run(patient, "you")
        assert type(flow.engine.store.store).__name__ == "RedisStore"
    assert run.result == "hello you"
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture(params=["fakeredis", "redis"])
def place(request: Any) -> str:
    return "fakeredis" if request.param == "fakeredis" else request.getfixturevalue("server").url


async def test_an_app_runs_on_redis_in_virtual_time(flow_env: FlowEnv, place: str) -> None:
    """With all there is to arrange; each environment begins empty."""
    for _ in range(2):
        async with flow_env(flow, store=place, always_replay=True) as env:
            assert env.runs == []
            env.answer_call("ask", body={"active": True})
            env.fail("send-reminder", ConnectionError("away"))
            env.crash_after("send-welcome")
            env.deliver_twice(3)
            run = await env.run(onboarding, NewUser(email="a@b.c"))
            assert run.result == "welcomed"
            env.assert_ran("send-welcome", times=1)
            late = await env.run(approval, "x")
            assert late.result == "too late"
            batch = await env.run(greet, ids=["u1", "u2"])
            assert batch.results == {"u1": "U1", "u2": "U2"}


async def test_environments_on_one_server_do_not_meet(server: Server) -> None:
    """As those of test runs that go on at the same time: each has a namespace of its own, which goes with it."""
    one, other = Batchflow("sqlite://"), Batchflow("sqlite://")
    async with Environment(one, store=server.url), Environment(other, store=server.url):
        assert len({key.partition("}")[0] for key in server.all_keys()}) == 2
        await one.notify("unheard")
    assert server.all_keys() == []


async def test_fakeredis_that_is_not_installed_is_told(flow_env: FlowEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to write."""

    def find_spec(name: str) -> object:
        return None if name == "lupa" else name

    monkeypatch.setattr("batchflow.testing.stores.find_spec", find_spec)
    with pytest.raises(ConfigurationError) as caught:
        async with flow_env(flow, store="fakeredis"):
            pass
    assert "write: pip install 'fakeredis[lua]'" in str(caught.value)


def test_the_store_of_all_tests_is_one_option(pytester: pytest.Pytester) -> None:
    """On the command line, or in `addopts`."""
    pytester.makepyfile(app=APP, test_app=TEST)
    pytester.makeini(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\naddopts = --flow-store=fakeredis"
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)
