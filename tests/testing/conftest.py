"""Every test begins with an empty outbox, and is played on each engine that it asks for."""

import pytest

from tests.testing import onboarding
from tests.testing.onboarding import ON_QSTASH, OWN, Programs


@pytest.fixture(autouse=True)
def _empty_outbox() -> None:  # pyright: ignore[reportUnusedFunction]: pytest calls it
    onboarding.OUTBOX.clear()


@pytest.fixture(params=["own", "qstash"])
def programs(request: pytest.FixtureRequest) -> Programs:
    """The same app on its own engine, and on QStash."""
    return OWN if request.param == "own" else ON_QSTASH
