"""Fixtures of the tests of batches."""

from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from batchflow.engine.threads import ThreadPool
from tests.batch.model import Model


@pytest.fixture
def model() -> Iterator[Model]:
    threads = ThreadPool(2, lambda given_up: None)
    yield Model(threads)
    threads.close()


@pytest.fixture
def logs() -> Iterator[list[dict[str, object]]]:
    """The log lines."""
    with capture_logs() as lines:
        yield lines  # pyright: ignore[reportReturnType]: its mappings are plain dictionaries
