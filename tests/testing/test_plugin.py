"""The pytest plugin, in pytest runs of its own: found by its entry point, for every kind of test, light to load."""

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

APP = """
from batchflow import Batchflow, WorkflowContext

flow = Batchflow("sqlite:///never-made.db")


async def greet(name: str) -> str:
    return f"hello {name}"


@flow.serve("/patient")
async def patient(ctx: WorkflowContext[str]) -> str:
    await ctx.sleep("years", "3650d")
    return await ctx.run("greet", greet, ctx.payload)
"""

RUNNERS = """
import asyncio

import pytest
from app import flow, patient


def test_plain(flow_env):
    async def test():
        async with flow_env(flow) as env:
            run = await env.run(patient, "asyncio")
        assert run.result == "hello asyncio"

    asyncio.run(test())


@pytest.mark.asyncio
async def test_pytest_asyncio(flow_env):
    async with flow_env(flow) as env:
        run = await env.run(patient, "pytest-asyncio")
    assert run.result == "hello pytest-asyncio"


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_anyio(flow_env):
    async with flow_env(flow) as env:
        run = await env.run(patient, "anyio")
    assert run.result == "hello anyio"
"""

FAILING = """
from app import flow, patient


async def test_leaves_it_open(flow_env):
    env = await flow_env(flow).__aenter__()
    await env.run(patient, "you")
    await flow.engine.store.store.close()


async def test_is_wrong(flow_env):
    async with flow_env(flow) as env:
        await env.run(patient, "you")
        env.assert_ran("great")
"""


def run(pytester: pytest.Pytester, test: str, *options: str) -> pytest.RunResult:
    pytester.makepyfile(app=APP, test_app=test)
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error")
    options = ("-p", "no:randomly", "-p", "no:cacheprovider", *options)
    return pytester.runpytest_subprocess(*options, timeout=120)


def test_the_plugin_is_found_by_its_entry_point() -> None:
    """Under the name that switches it off: `-p no:batchflow`."""
    found = [point for point in entry_points(group="pytest11") if point.name == "batchflow"]
    assert [point.value for point in found] == ["pytest_batchflow"]


def test_every_kind_of_test_can_use_it(pytester: pytest.Pytester) -> None:
    """Plain asyncio, pytest-asyncio and anyio, with one app, one after the other."""
    result = run(pytester, RUNNERS)
    result.assert_outcomes(passed=3)
    assert not (pytester.path / "never-made.db").exists()


def test_failures_are_printed(pytester: pytest.Pytester) -> None:
    """What happened, and a test environment that was not left; the next test has the app as it was."""
    result = run(pytester, FAILING, "-o", "asyncio_mode=auto")
    result.assert_outcomes(passed=1, failed=1, errors=1)
    result.stdout.fnmatch_lines(
        [
            "*AssertionError: a test environment was entered and not left; write 'async with flow_env(flow) as env:'",
            "*AssertionError: step 'great' ran 0 times; did you mean 'greet'?",
            "*1 run, at 2033-11-11 22:13:20 UTC (+3650d)",
            '*/patient run_* completed +3650d: "hello you"',
            "*years *sleep *done *+3650d",
        ]
    )


def test_a_start_of_pytest_does_not_import_batchflow(tmp_path: Path) -> None:
    """Projects that have it installed and do not use it pay nothing."""
    (tmp_path / "test_modules.py").write_text(
        "import sys\n\n\ndef test_modules() -> None:\n"
        "    assert 'pytest_batchflow' in sys.modules\n"
        "    assert [it for it in sys.modules if it.split('.')[0] in ('batchflow', 'pydantic', 'fastapi')] == []\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stdout
