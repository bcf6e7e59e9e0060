"""The pytest plugin of batchflow. It stands outside of the package, so that pytest's start does not import that."""

from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from batchflow.testing import FlowEnv


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where the state of all tests lives is one option."""
    parser.getgroup("batchflow").addoption(
        "--flow-store",
        metavar="STORE",
        help="where the state of flow_env lives: fakeredis, or a URL such as redis://localhost (default: memory)",
    )


@pytest.fixture
def flow_env(request: pytest.FixtureRequest) -> "Generator[FlowEnv]":
    """Runs an app in memory and in virtual time: `async with flow_env(flow) as env:`."""
    from batchflow.testing import FlowEnv

    made = FlowEnv(request.config.getoption("--flow-store"))
    yield made
    made.close()
