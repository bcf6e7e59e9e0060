"""What the tests of batches share."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from structlog.testing import capture_logs

from tests.batch.model import Model


@pytest.fixture
def model() -> Iterator[Model]:
    with ThreadPoolExecutor(2) as threads:
        yield Model(threads)


@pytest.fixture
def logs() -> Iterator[list[dict[str, object]]]:
    """What is logged, line by line."""
    with capture_logs() as lines:
        yield lines  # pyright: ignore[reportReturnType]: its mappings are plain dictionaries
