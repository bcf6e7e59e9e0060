"""What every test has: a fresh structlog, and assertions of the conformance suite that explain themselves."""

from collections.abc import Iterator

import pytest
import structlog

pytest.register_assert_rewrite("batchflow.testing.conformance")


@pytest.fixture(autouse=True)
def fresh_structlog() -> Iterator[None]:
    """Capturing log lines leaves structlog configured, and a configured structlog is left alone by the command."""
    yield
    structlog.reset_defaults()
