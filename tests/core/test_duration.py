"""Durations: what is read, what is refused, and how they are shown."""

import math
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflow.core.duration import MAX_DURATION_MS, Duration, format_duration, humanize_duration, to_ms
from batchflow.errors import ConfigurationError

HOW = "write seconds such as 10, text such as '500ms', '10s', '2h30m' or '7d', or a timedelta"


@pytest.mark.parametrize(
    ("written", "ms"),
    [
        ("500ms", 500),
        ("10s", 10_000),
        ("1m", 60_000),
        ("2h30m", 9_000_000),
        ("7d", 604_800_000),
        ("1d 12h", 129_600_000),
        (" 1.5h ", 5_400_000),
        ("0.1s", 100),
        ("1d2h3m4s5ms", 93_784_005),
        ("0s", 0),
        (10, 10_000),
        (0, 0),
        (0.1, 100),
        (1.001, 1_001),
        (2.5, 2_500),
        (timedelta(minutes=2, milliseconds=3), 120_003),
        (timedelta(microseconds=1_500), 2),
        (timedelta(microseconds=1), 1),
        (0.0001, 1),
        ("36500d", MAX_DURATION_MS),
    ],
)
def test_duration_is_read_in_every_form(written: Duration, ms: int) -> None:
    assert to_ms(written, option="first") == ms


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        (-5, "cannot be -5, which is negative"),
        (-0.5, "cannot be -0.5, which is negative"),
        (timedelta(seconds=-1), "cannot be datetime.timedelta(days=-1, seconds=86399), which is negative"),
        (math.nan, "cannot be nan, which is not finite"),
        (math.inf, "cannot be inf, which is not finite"),
        (-math.inf, "cannot be -inf, which is not finite"),
        (True, "cannot be True, which is not a duration"),
        (None, "cannot be None, which is not a duration"),
        (b"1s", "cannot be b'1s', which is not a duration"),
        ("", "cannot be '', which is not a duration"),
        ("soon", "cannot be 'soon', which is not a duration"),
        ("-1s", "cannot be '-1s', which is not a duration"),
        ("1s1s", "cannot be '1s1s', which is not a duration"),
        ("5m2h", "cannot be '5m2h', which is not a duration"),
        ("1M", "cannot be '1M', which is not a duration"),
        ("1 s", "cannot be '1 s', which is not a duration"),
        ("²s", "cannot be '²s', which is not a duration"),
        ("10", "cannot be '10', which has no unit"),
        ("1.5", "cannot be '1.5', which has no unit"),
        ("36501d", "cannot be '36501d', which is longer than 36500d"),
        (1e300, "cannot be 1e+300, which is longer than 36500d"),
        (timedelta.max, f"cannot be {timedelta.max!r}, which is longer than 36500d"),
    ],
)
def test_duration_that_is_none_is_refused_with_what_to_write(written: Any, fault: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        to_ms(written, option="first")
    assert str(refused.value) == f"'first' {fault}; {HOW}"


@given(st.integers(0, MAX_DURATION_MS))
def test_spelling_is_read_back_to_the_same_number(ms: int) -> None:
    assert to_ms(format_duration(ms), option="x") == ms
    assert to_ms(timedelta(milliseconds=ms), option="x") == ms


@given(st.integers(0, MAX_DURATION_MS // 1_000))
def test_whole_seconds_are_exact_however_they_are_written(seconds: int) -> None:
    assert {to_ms(form, option="x") for form in (seconds, float(seconds), f"{seconds}s")} == {seconds * 1_000}


@pytest.mark.parametrize(
    ("ms", "text"),
    [(0, "0s"), (1_500, "1s500ms"), (60_000, "1m"), (90_000, "1m30s"), (3_900_000, "1h5m"), (604_800_000, "7d")],
)
def test_spelling_is_the_shortest_exact_text(ms: int, text: str) -> None:
    assert format_duration(ms) == text


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (-5, "0s"),
        (0, "0s"),
        (850, "850ms"),
        (1_000, "1s"),
        (1_540, "1.5s"),
        (9_949, "9.9s"),
        (9_950, "10s"),
        (12_000, "12s"),
        (59_499, "59s"),
        (59_500, "1m"),
        (61_000, "1m 1s"),
        (3_599_600, "1h"),
        (3_900_000, "1h 5m"),
        (86_399_999, "1d"),
        (90_000_000, "1d 1h"),
        (8_640_000_000, "100d"),
    ],
)
def test_duration_is_shown_to_people_in_two_units_at_most(ms: int, text: str) -> None:
    assert humanize_duration(ms) == text


@given(st.integers(1, MAX_DURATION_MS))
def test_what_is_shown_is_within_a_twentieth_of_the_duration(ms: int) -> None:
    shown = humanize_duration(ms)
    assert shown.count(" ") <= 1
    assert to_ms(shown, option="x") == pytest.approx(ms, rel=0.05)
