"""What every test has: a fresh structlog, and assertions of the conformance suite that explain themselves."""

from collections.abc import Iterator

import hypothesis
import pytest
import structlog

# A run of the tests says something about the code, so it tries the same examples each time. To look for new ones:
# pytest --hypothesis-profile=default
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile("repeatable")

pytest.register_assert_rewrite("batchflow.testing.conformance")


@pytest.fixture(autouse=True)
def fresh_structlog() -> Iterator[None]:
    """Capturing log lines leaves structlog configured, and a configured structlog is left alone by the command."""
    yield
    structlog.reset_defaults()
