"""What every test has: a fresh structlog, and assertions of the conformance suite that explain themselves."""

import gc
import sys
from collections.abc import Iterator

import hypothesis
import pytest
import structlog

from tests.stores import redis_keys

# A run of the tests says something about the code, so it tries the same examples each time. To look for new ones:
# pytest --hypothesis-profile=default
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile("repeatable")

pytest.register_assert_rewrite("tests.conformance")


redis_keys.watch()


def pytest_collection_finish() -> None:
    """Thousands of collected tests make full collections rare, and what tests leave in cycles would pile up."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_kept_apps() -> Iterator[None]:
    """FastAPI remembers thousands of endpoints, and with those the apps of as many tests: gigabytes."""
    yield
    if (models := sys.modules.get("fastapi.dependencies.models")) is not None:
        for remembered in vars(models).values():
            getattr(remembered, "cache_clear", int)()


@pytest.fixture(autouse=True)
def no_redis_key_leaks() -> Iterator[None]:
    """Whatever a test does on Redis: when it closes a store, each key is a known one and belongs to something."""
    yield
    assert redis_keys.leaked() == []


@pytest.fixture(autouse=True)
def fresh_structlog() -> Iterator[None]:
    """Capturing log lines leaves structlog configured, and a configured structlog is left alone by the command."""
    yield
    structlog.reset_defaults()
