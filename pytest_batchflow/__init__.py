"""The pytest plugin of batchflow. It stands outside of the package, so that pytest's start does not import that."""

from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from batchflow.testing import FlowEnv


@pytest.fixture
def flow_env() -> "Generator[FlowEnv]":
    """Runs an app in memory and in virtual time: `async with flow_env(flow) as env:`."""
    from batchflow.testing import FlowEnv

    made = FlowEnv()
    yield made
    made.close()
