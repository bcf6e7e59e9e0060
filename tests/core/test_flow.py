"""Flow control: limits as values, and what the rule of admission promises under a simulated clock."""

import math
import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflow.core.flow import CATCH_UP_MS, Admission, FlowControl, FlowState, admit, predict_ms, release
from batchflow.errors import ConfigurationError

T0 = 1_700_000_000_000
PLENTY = 10**6
RATES = st.integers(1, 5_000)
# Low and high rates as often as those between.
SPREAD_RATES = st.sampled_from([1, 2, 3, 7, 50, 333, 999, 1_000, 1_001, 3_000, 4_999, 5_000]) | RATES


def driven(limits: FlowControl, lateness: Iterator[int], until: int) -> list[tuple[int, int]]:
    """A driver that sleeps until `ready_at` and wakes some ms late: when it started how many."""
    state, now, events = FlowState(), T0, list[tuple[int, int]]()
    while now < until:
        admission = admit(limits, state, now=now, want=PLENTY)
        state = release(admission.state, admission.count)
        events.append((now, admission.count))
        assert admission.ready_at is not None
        now = admission.ready_at + next(lateness)
    return events


def late(seed: int, most: int) -> Iterator[int]:
    chance = random.Random(seed)
    while True:
        yield chance.randint(0, most)


def most_in_a_window(events: list[tuple[int, int]], width: int) -> int:
    """The most starts within any half-open window of this width."""
    most = inside = first = 0
    for time, count in events:
        inside += count
        while events[first][0] <= time - width:
            inside -= events[first][1]
            first += 1
        most = max(most, inside)
    return most


@settings(deadline=None, max_examples=30)
@given(SPREAD_RATES, st.integers(0, 2**32), st.sampled_from([0, 1, 5]))
def test_rate_is_achieved_by_a_driver_that_wakes_late(rate: int, seed: int, most: int) -> None:
    """Woken up to 5 ms after `ready_at`, the rate is kept within 2% in the long run."""
    limits = FlowControl(rate=rate)
    length = max(10_000, math.ceil(60_000 / rate))
    events = driven(limits, late(seed, most), T0 + length)
    started, elapsed = sum(count for _, count in events[1:]), events[-1][0] - T0
    assert started == pytest.approx(rate * elapsed / 1_000, rel=0.02)


@settings(deadline=None, max_examples=30)
@given(
    SPREAD_RATES,
    st.sampled_from(["1s", "1500ms", "3s"]),
    st.integers(0, 2**32),
    st.sampled_from([0, 5, 30, 300, 3_000]),
)
def test_rate_is_never_exceeded_by_more_than_a_hundredth(rate: int, period: str, seed: int, most: int) -> None:
    """Workers may wake at any time: in no window of one period start more than 1.01 times the rate, and one."""
    limits = FlowControl(rate=rate, period=period)
    events = driven(limits, late(seed, most), T0 + 4 * limits.period_ms)
    assert most_in_a_window(events, limits.period_ms) <= rate * 1.01 + 1


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(10, 5_000), st.lists(st.tuples(st.integers(0, 200), st.integers(0, 9))))
def test_starts_in_any_time_are_bounded(rate: int, period_ms: int, turns: list[tuple[int, int]]) -> None:
    """Between any two moments W apart start at most rate * (W + 10 ms) / period + 1."""
    limits = FlowControl(rate=rate, period=f"{period_ms}ms")
    state, now, events = FlowState(), T0, list[tuple[int, int]]()
    for pause, want in turns:
        now += pause
        admission = admit(limits, state, now=now, want=want)
        state = admission.state
        events.append((now, admission.count))
    for first, (begin, _) in enumerate(events):
        started = 0
        for time, count in events[first:]:
            started += count
            assert started <= rate * (time - begin + CATCH_UP_MS) / period_ms + 1.01


@pytest.mark.parametrize("rate", [3, 7, 999, 3_000, 4_999])
def test_rate_of_an_odd_interval_does_not_drift(rate: int) -> None:
    """Thirds of a millisecond add up: the rate is off by less than one in a thousand, where whole ones lose it."""
    events = driven(FlowControl(rate=rate), late(0, 0), T0 + 20_000)
    elapsed = events[-1][0] - T0
    assert sum(count for _, count in events[1:]) == pytest.approx(rate * elapsed / 1_000, rel=0.001, abs=1)


@settings(deadline=None)
@given(
    st.none() | st.integers(1, 20),
    st.none() | st.integers(1, 500),
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 30), st.integers(0, 30)), max_size=60),
)
def test_both_limits_hold_together(
    parallelism: int | None, rate: int | None, turns: list[tuple[int, int, int]]
) -> None:
    """Never more in use than the parallelism; what is admitted takes its starts; what is not takes none."""
    limits = FlowControl(parallelism=parallelism, rate=rate)
    state, now = FlowState(), T0
    for pause, want, ended in turns:
        now += pause
        before = state
        admission = admit(limits, state, now=now, want=want)
        state = admission.state
        assert 0 <= admission.count <= want
        assert state.in_use == before.in_use + admission.count
        assert state.in_use <= (parallelism or math.inf)
        if admission.count == 0 or rate is None:
            assert state.next_start == before.next_start
        if admission.ready_at is not None:
            assert admission.ready_at >= now
            assert admit(limits, state, now=admission.ready_at, want=1).count == 1
        else:
            assert admit(limits, state, now=now + 10**9, want=1).count == 0
        state = release(state, min(ended, state.in_use))


@settings(deadline=None)
@given(SPREAD_RATES, st.floats(0, 10_000), st.integers(0, 50))
def test_ready_at_is_the_first_moment_at_which_one_may_start(rate: int, ahead: float, want: int) -> None:
    limits = FlowControl(rate=rate)
    admission = admit(limits, FlowState(next_start=T0 + ahead), now=T0, want=want)
    assert admission.ready_at is not None
    assert admit(limits, admission.state, now=admission.ready_at, want=1).count == 1
    if admission.ready_at > T0:
        assert admit(limits, admission.state, now=admission.ready_at - 1, want=1).count == 0


def test_unlimited_admits_all_at_once() -> None:
    admission = admit(FlowControl(), FlowState(), now=T0, want=PLENTY)
    assert admission == Admission(count=PLENTY, state=FlowState(in_use=PLENTY), ready_at=T0)


def test_parallelism_waits_for_one_to_end() -> None:
    limits = FlowControl(parallelism=3)
    admission = admit(limits, FlowState(in_use=1), now=T0, want=5)
    assert admission == Admission(count=2, state=FlowState(in_use=3), ready_at=None)
    assert admit(limits, release(admission.state), now=T0, want=5).count == 1


def test_parallelism_that_was_lowered_admits_none_until_enough_have_ended() -> None:
    limits = FlowControl(parallelism=2)
    assert admit(limits, FlowState(in_use=5), now=T0, want=1).count == 0
    assert admit(limits, release(FlowState(in_use=5), 4), now=T0, want=9).count == 1


def test_rate_spreads_starts_evenly_from_the_first_on() -> None:
    """A key that was idle starts what the last 10 ms allowed, not a whole period at once."""
    limits = FlowControl(rate=5)
    first = admit(limits, FlowState(), now=T0, want=9)
    assert (first.count, first.ready_at) == (1, T0 + 190)
    assert admit(FlowControl(rate=1_000), FlowState(), now=T0, want=PLENTY).count == 11


def test_asking_for_none_only_tells_when() -> None:
    state = FlowState(in_use=4, next_start=T0 + 99.5)
    assert admit(FlowControl(rate=5), state, now=T0, want=0) == Admission(count=0, state=state, ready_at=T0 + 100)


def test_parked_key_starts_nothing_until_its_time() -> None:
    state = FlowState(parked_until=T0 + 5_000)
    assert admit(FlowControl(rate=5), state, now=T0, want=3) == Admission(count=0, state=state, ready_at=T0 + 5_000)
    assert admit(FlowControl(), state, now=T0 + 4_999, want=3).count == 0
    assert admit(FlowControl(), state, now=T0 + 5_000, want=3).count == 3


def test_paused_key_starts_nothing_until_it_is_resumed() -> None:
    state = FlowState(paused=True)
    assert admit(FlowControl(), state, now=T0, want=3) == Admission(count=0, state=state, ready_at=None)


def test_limits_hold_at_once_when_they_are_raised() -> None:
    """From one an hour to ten a second: nobody waits for the hour to end."""
    waiting = admit(FlowControl(rate=1, period="1h"), FlowState(), now=T0, want=1).state
    raised = admit(FlowControl(rate=10), waiting, now=T0 + 1_000, want=5)
    assert (raised.count, raised.ready_at) == (1, T0 + 1_100)


def test_clock_that_was_set_back_does_not_stop_a_key() -> None:
    state = admit(FlowControl(rate=10), FlowState(), now=T0 + 3_600_000, want=1).state
    back = admit(FlowControl(rate=10), state, now=T0, want=5)
    assert (back.count, back.ready_at) == (1, T0 + 100)


def test_clocks_that_differ_a_little_give_no_start_twice() -> None:
    """Two workers, one 5 ms behind the other, take turns: together they still keep the rate."""
    limits, state, started = FlowControl(rate=100), FlowState(), 0
    for turn in range(2_000):
        admission = admit(limits, state, now=T0 + turn - 5 * (turn % 2), want=PLENTY)
        state, started = admission.state, started + admission.count
    assert started <= 100 * 2.02 + 1


def test_release_never_leaves_fewer_than_none_in_use() -> None:
    assert release(FlowState(in_use=2), 5).in_use == 0
    assert release(FlowState(in_use=2, next_start=7.5)) == FlowState(in_use=1, next_start=7.5)


def simulated_ms(limits: FlowControl, count: int, mean_ms: int) -> float:
    starts: list[float] = []
    for number in range(count):
        start = starts[-1] + limits.interval_ms if starts else 0.0
        if limits.parallelism and number >= limits.parallelism:
            start = max(start, starts[number - limits.parallelism] + mean_ms)
        starts.append(start)
    return starts[-1] + mean_ms


@given(
    st.none() | st.integers(1, 12),
    st.none() | st.integers(1, 50),
    st.integers(1, 80),
    st.integers(0, 5_000),
)
def test_prediction_is_what_a_simulation_takes(
    parallelism: int | None, rate: int | None, count: int, mean_ms: int
) -> None:
    limits = FlowControl(parallelism=parallelism, rate=rate)
    predicted, _ = predict_ms(limits, count, mean_ms=mean_ms)
    assert predicted == pytest.approx(simulated_ms(limits, count, mean_ms), abs=1.01)


@pytest.mark.parametrize(
    ("limits", "count", "mean_ms", "expected"),
    [
        (FlowControl(), 0, 500, (0, "none")),
        (FlowControl(), 10_000, 500, (500, "none")),
        (FlowControl(parallelism=10), 10, 500, (500, "none")),
        (FlowControl(parallelism=10), 11, 500, (1_000, "parallelism")),
        (FlowControl(rate=5), 1, 500, (500, "none")),
        (FlowControl(rate=5), 100, 500, (20_300, "rate")),
        (FlowControl(parallelism=10, rate=5), 100, 500, (20_300, "rate")),
        (FlowControl(parallelism=10, rate=5), 100, 30_000, (301_800, "parallelism")),
        (FlowControl(rate=1, period="1h"), 3, 0.5, (7_200_001, "rate")),
    ],
)
def test_prediction_names_the_limit_that_binds(
    limits: FlowControl, count: int, mean_ms: float, expected: tuple[int, str]
) -> None:
    assert predict_ms(limits, count, mean_ms=mean_ms) == expected


def test_limits_are_equal_however_the_period_is_written() -> None:
    forms = [FlowControl(rate=9, period=form) for form in ("60s", "1m", 60, timedelta(minutes=1))]
    assert len(set(forms)) == 1
    assert FlowControl(rate=9) != FlowControl(rate=9, key="mail")


@pytest.mark.parametrize("burst", [1, 3])
@pytest.mark.parametrize("period_ms", [1, 1_000, 1_500, 60_000, 3_661_001])
@pytest.mark.parametrize("key", [None, "k"])
def test_limits_from_milliseconds_are_those_that_are_written(key: str | None, period_ms: int, burst: int) -> None:
    """Equal, of one repr and one hash, and to be changed like them."""
    read = FlowControl.of_ms(key, 3, 5, period_ms, burst)
    written = FlowControl(key=key, parallelism=3, rate=5, period=f"{period_ms}ms", burst=burst)
    assert (read, repr(read), hash(read)) == (written, repr(written), hash(written))
    assert (read.period_ms, read.interval_ms) == (written.period_ms, written.interval_ms)
    assert replace(read, rate=7) == replace(written, rate=7)


def test_limits_have_a_repr_to_paste() -> None:
    limits = FlowControl(parallelism=10, rate=5, period="90s", key="mail-api")
    assert repr(limits) == "FlowControl(parallelism=10, rate=5, period='1m30s', key='mail-api')"
    pasted: object = eval(repr(limits), {"FlowControl": FlowControl})
    assert pasted == limits


def test_limits_take_a_key_unless_they_name_one() -> None:
    assert FlowControl(rate=5).with_default_key("welcome.execute") == FlowControl(rate=5, key="welcome.execute")
    assert FlowControl(rate=5, key="mail").with_default_key("welcome.execute") == FlowControl(rate=5, key="mail")
    assert FlowControl(rate=5, period="2s").with_default_key("a").period_ms == 2_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parallelism": 0}, "'parallelism' cannot be 0; write a whole number of 1 or more, or None for no limit"),
        (
            {"parallelism": True},
            "'parallelism' cannot be True; write a whole number of 1 or more, or None for no limit",
        ),
        ({"rate": -5}, "'rate' cannot be -5; write a whole number of 1 or more, or None for no limit"),
        ({"rate": 0.5}, "'rate' cannot be 0.5; write a whole number of 1 or more, or None for no limit"),
        ({"period": 0}, "'period' cannot be 0; write the time that 'rate' counts in, such as '1s'"),
        ({"key": ""}, "'key' cannot be ''; write letters, digits, '-', '_' and '.', such as 'mail-api'"),
        ({"key": "a b"}, "'key' cannot be 'a b'; write letters, digits, '-', '_' and '.', such as 'mail-api'"),
        ({"key": 7}, "'key' cannot be 7; write letters, digits, '-', '_' and '.', such as 'mail-api'"),
    ],
)
def test_limits_that_mean_nothing_are_refused_when_they_are_made(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        FlowControl(**options)
    assert str(refused.value) == message


def test_limits_name_the_period_that_is_wrong() -> None:
    with pytest.raises(ConfigurationError, match=r"^'period' cannot be '1 week', which is not a duration; write "):
        FlowControl(period="1 week")
