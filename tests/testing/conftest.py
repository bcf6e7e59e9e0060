"""Every test begins with an empty outbox."""

import pytest

from tests.testing import onboarding


@pytest.fixture(autouse=True)
def _empty_outbox() -> None:  # pyright: ignore[reportUnusedFunction]: pytest calls it
    onboarding.OUTBOX.clear()
