"""The pytest plugin of batchflow. It is a package of its own, so that the start of pytest does not import batchflow."""

from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from batchflow.testing import FlowEnv


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option for the store of all tests."""
    parser.getgroup("batchflow").addoption(
        "--flow-store",
        metavar="STORE",
        help="the store of flow_env: fakeredis, or a URL such as redis://localhost (default: memory)",
    )


@pytest.fixture
def flow_env(request: pytest.FixtureRequest) -> "Generator[FlowEnv]":
    """Run an app in memory and in virtual time: `async with flow_env(flow) as env:`."""
    from batchflow.testing import FlowEnv

    factory = FlowEnv(request.config.getoption("--flow-store"))
    yield factory
    factory.close()
