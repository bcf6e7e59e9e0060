"""The settlement of a claim, as a value."""

from batchflow.core.message import Claim
from batchflow.core.settlement import Publish, Settlement, done, with_duration


def test_a_settlement_that_is_timed_is_the_same_in_all_else() -> None:
    """With any content."""
    full = Settlement("a", 1, "done", "1", "no", 5, (), (Publish(()),), 1.0)
    assert with_duration(full, 2.5) == full._replace(took_ms=2.5)
    settlement = done(Claim(id="a", fence=1, destination="work", body=""), "{}")
    assert type(with_duration(settlement, 0.5)) is Settlement
    assert with_duration(settlement, 0.5).took_ms == 0.5
