"""The wait that a response asks for."""

import pytest

from batchflow.wire.retry_after import asked_wait_ms

NOW = 1_700_000_000_000


@pytest.mark.parametrize(
    ("text", "wait"),
    [
        ("30", 30_000),
        ("0", 0),
        ("1.5", 1_500),
        ("6m5s", 365_000),
        ("1h", 3_600_000),
        ("250ms", 250),
        ("1m0.5s", 60_500),
        ("900µs", 0),
        ("Tue, 14 Nov 2023 22:15:20 GMT", 120_000),
        ("Tue, 14 Nov 2023 22:00:00 GMT", 0),
        ("86400", 86_400_000),
        ("86401", None),
        ("24h1s", None),
        ("1700000100", None),
        ("9" * 400, None),
        ("5 minutes", None),
        ("-5s", None),
        ("m5", None),
        ("", None),
    ],
)
def test_each_header_is_seconds_a_date_or_a_duration_of_go_up_to_a_day(text: str, wait: int | None) -> None:
    """Anything else leaves the wait to the policy."""
    for name in ("Retry-After", "x-ratelimit-reset", "X-RateLimit-Reset-Requests", "x-ratelimit-reset-tokens"):
        assert asked_wait_ms([(name, text)], NOW) == wait


def test_retry_after_wins_and_the_longest_of_the_resets_counts() -> None:
    """One that is not valid is passed over."""
    resets = [("x-ratelimit-reset-requests", "8ms"), ("x-ratelimit-reset-tokens", "6m0s"), ("x-ratelimit-reset", "99d")]
    assert asked_wait_ms(resets, NOW) == 360_000
    assert asked_wait_ms([*resets, ("retry-after", "2")], NOW) == 2_000
    assert asked_wait_ms([*resets, ("retry-after", "soon")], NOW) == 360_000
    assert asked_wait_ms([], NOW) is None


def test_a_date_counts_from_that_of_the_response() -> None:
    """The clock of the server may be wrong, but it is the same in both."""
    headers = [("Retry-After", "Tue, 14 Nov 2023 22:15:20 GMT"), ("Date", "Tue, 14 Nov 2023 22:14:20 GMT")]
    assert asked_wait_ms(headers, NOW) == 60_000
