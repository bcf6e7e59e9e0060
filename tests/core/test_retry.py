"""Retry policies: their waits, their equality, their forms, and what they refuse."""

import copy
import pickle
import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflow.core import retry_delay
from batchflow.core.duration import Duration
from batchflow.core.retry import RetryPolicy
from batchflow.errors import ConfigurationError

MS = st.integers(0, 10**9)


@st.composite
def policies(draw: st.DrawFn) -> RetryPolicy:
    first, cap = sorted((draw(MS), draw(MS)))
    return RetryPolicy(
        retries=draw(st.integers(0, 100)),
        first=f"{first}ms",
        factor=draw(st.floats(1, 100)),
        cap=f"{cap}ms",
        jitter=draw(st.floats(0, 1)),
        delay=draw(st.sampled_from([None, None, "250", "pow(2, retried) * 100", "min(9, retried) / 3"])),
    )


def by_backoff() -> st.SearchStrategy[RetryPolicy]:
    return policies().filter(lambda policy: policy.delay is None)


def by_expression(policy: RetryPolicy, retried: int) -> float:
    """The result of QStash for the expression."""
    match = re.fullmatch(r"min\((\d+), (\d+) \* pow\(([0-9.]+), retried\)\)", policy.expression())
    assert match is not None
    return min(int(match[1]), int(match[2]) * float(match[3]) ** retried)


def test_policy_waits_1_4_and_16_seconds_by_default() -> None:
    policy = RetryPolicy()
    assert policy.attempts == 4
    assert [policy.delay_ms(failures) for failures in (1, 2, 3)] == [1_000, 4_000, 16_000]


def test_policy_of_one_attempt_has_no_retries() -> None:
    assert RetryPolicy.none().attempts == 1
    assert RetryPolicy.none() == RetryPolicy(retries=0)


def test_wait_never_exceeds_the_cap_however_often_it_failed() -> None:
    policy = RetryPolicy(first="1s", factor=4, cap="1h")
    assert [policy.delay_ms(failures) for failures in (6, 7, 1_000, 10**9, 10**400)] == [1_024_000] + [3_600_000] * 4
    assert RetryPolicy(factor=1).delay_ms(10**400) == 1_000
    assert RetryPolicy(factor=1e300).delay_ms(3) == 3_600_000
    assert RetryPolicy(first=0, factor=1e300).delay_ms(10**400) == 0


def test_jitter_moves_the_capped_wait_by_its_share_either_way() -> None:
    policy = RetryPolicy(first="10s", cap="10s", jitter=0.2)
    assert [policy.delay_ms(1, chance=chance) for chance in (0.0, 0.25, 0.5, 0.75)] == [8_000, 9_000, 10_000, 11_000]
    assert RetryPolicy(first="10s").delay_ms(1, chance=0.9) == 10_000


def test_wait_before_the_first_failure_is_a_mistake() -> None:
    with pytest.raises(ValueError, match=r"^the wait after failure 0 was asked for; the first failure is 1$"):
        RetryPolicy().delay_ms(0)


@given(policies(), st.integers(1, 10**6), st.floats(0, 1, exclude_max=True))
def test_wait_stays_within_its_jitter(policy: RetryPolicy, failures: int, chance: float) -> None:
    wait, middle = policy.delay_ms(failures, chance=chance), policy.delay_ms(failures)
    assert wait >= 0
    assert middle <= policy.cap_ms
    assert abs(wait - middle) <= middle * policy.jitter + 1


@given(policies(), st.integers(1, 1_000))
def test_waits_never_shrink_from_one_failure_to_the_next(policy: RetryPolicy, failures: int) -> None:
    assert policy.delay_ms(failures) <= policy.delay_ms(failures + 1)


@given(by_backoff(), st.integers(0, 20))
def test_expression_gives_the_same_waits_to_qstash(policy: RetryPolicy, retried: int) -> None:
    assert policy.delay_ms(retried + 1) == pytest.approx(by_expression(policy, retried), abs=1)


@pytest.mark.parametrize(
    ("policy", "expression"),
    [
        (RetryPolicy(), "min(3600000, 1000 * pow(4, retried))"),
        (RetryPolicy(first="500ms", factor=1.5, cap="1m"), "min(60000, 500 * pow(1.5, retried))"),
        (RetryPolicy(factor=100), "min(3600000, 1000 * pow(100, retried))"),
        (RetryPolicy(factor=1e20), f"min(3600000, 1000 * pow(1{'0' * 20}, retried))"),
        (RetryPolicy(jitter=0.5), "min(3600000, 1000 * pow(4, retried))"),
    ],
)
def test_expression_is_written_without_exponents_and_jitter(policy: RetryPolicy, expression: str) -> None:
    assert policy.expression() == expression


def test_policies_are_equal_however_their_durations_are_written() -> None:
    forms = [RetryPolicy(first=form) for form in ("60s", "1m", 60, 60.0, timedelta(minutes=1))]
    assert len(set(forms)) == 1
    assert RetryPolicy(factor=4) == RetryPolicy(factor=4.0)
    assert RetryPolicy() != RetryPolicy(retries=4)


@given(policies())
def test_policy_survives_its_repr_and_its_wire_form(policy: RetryPolicy) -> None:
    pasted: object = eval(repr(policy), {"RetryPolicy": RetryPolicy})
    assert pasted == policy
    assert RetryPolicy.from_wire(policy.as_wire()) == policy


def test_policy_has_a_repr_to_paste_and_five_numbers_on_the_wire() -> None:
    assert repr(RetryPolicy()) == "RetryPolicy(retries=3, first='1s', factor=4.0, cap='1h', jitter=0.0, delay=None)"
    assert RetryPolicy().as_wire() == [3, 1_000, 4.0, 3_600_000, 0.0]


def test_wire_form_ends_in_the_expression_where_there_is_one() -> None:
    policy = RetryPolicy(delay="500 * retried")
    assert policy.as_wire() == [3, 1_000, 4.0, 3_600_000, 0.0, "500 * retried"]
    assert RetryPolicy.from_wire(policy.as_wire()) == policy


def test_wire_form_of_another_shape_is_refused() -> None:
    with pytest.raises(ConfigurationError) as refused:
        RetryPolicy.from_wire([1, 2])
    assert str(refused.value) == "a retry policy is stored as 5 numbers, and an expression or none, not as [1, 2]"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retries": -1}, "'retries' cannot be -1; write a whole number of 0 or more, such as 3"),
        ({"retries": True}, "'retries' cannot be True; write a whole number of 0 or more, such as 3"),
        ({"retries": 1.5}, "'retries' cannot be 1.5; write a whole number of 0 or more, such as 3"),
        ({"factor": 0.5}, "'factor' cannot be 0.5; write 1 or more, such as 2"),
        ({"factor": float("inf")}, "'factor' cannot be inf; write 1 or more, such as 2"),
        ({"factor": float("nan")}, "'factor' cannot be nan; write 1 or more, such as 2"),
        ({"factor": True}, "'factor' cannot be True; write 1 or more, such as 2"),
        ({"factor": "2"}, "'factor' cannot be '2'; write 1 or more, such as 2"),
        ({"jitter": 1.1}, "'jitter' cannot be 1.1; write a share from 0 to 1, such as 0.1"),
        ({"jitter": -0.1}, "'jitter' cannot be -0.1; write a share from 0 to 1, such as 0.1"),
        ({"first": "2h"}, "'cap' (1h) is shorter than 'first' (2h); write cap='2h' or more"),
    ],
)
def test_policy_that_cannot_be_kept_is_refused_when_it_is_made(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        RetryPolicy(**options)
    assert str(refused.value) == message


@pytest.mark.parametrize("option", ["first", "cap"])
def test_policy_names_the_duration_that_is_wrong(option: str) -> None:
    wrong: dict[str, Any] = {option: -1}
    with pytest.raises(ConfigurationError, match=rf"^'{option}' cannot be -1, which is negative; write "):
        RetryPolicy(**wrong)


# Expressions


def waits(policy: RetryPolicy, count: int = 4) -> list[int]:
    return [policy.delay_ms(failures) for failures in range(1, count + 1)]


def test_delay_takes_the_place_of_first_and_factor() -> None:
    assert waits(RetryPolicy(delay="pow(2, retried) * 1000", first="9s", factor=9)) == [1_000, 2_000, 4_000, 8_000]
    assert waits(RetryPolicy(delay="100", first="2s", cap="1s")) == [100] * 4


def test_delay_is_bounded_by_the_cap_and_moved_by_the_jitter() -> None:
    policy = RetryPolicy(delay="pow(10, retried)", cap="50ms", jitter=0.2)
    assert waits(policy) == [1, 10, 50, 50]
    assert [policy.delay_ms(9, chance=chance) for chance in (0.0, 0.25, 0.5)] == [40, 45, 50]


def test_delay_past_the_last_retry_is_none_below_0_and_the_cap_where_it_is_no_number() -> None:
    assert waits(RetryPolicy(retries=1, delay="100 - 100 * retried")) == [100, 0, 0, 0]
    assert waits(RetryPolicy(retries=1, delay="sqrt(1 - retried)")) == [1, 0, 3_600_000, 3_600_000]
    assert waits(RetryPolicy(retries=1, delay="100 / (2 - retried)")) == [50, 100, 3_600_000, 0]
    endless = RetryPolicy(retries=1, delay="pow(9, pow(9, retried))")
    assert [endless.delay_ms(failures) for failures in (1, 2, 5, 10**9, 10**400)] == [9] + [3_600_000] * 4


def test_delay_is_tried_out_for_the_retries_of_the_policy() -> None:
    RetryPolicy(retries=2, delay="100 / (3 - retried)")
    with pytest.raises(ConfigurationError, match=r"^the retry delay '.*' divides by zero for retried = 3$"):
        RetryPolicy(retries=3, delay="100 / (3 - retried)")
    assert RetryPolicy(retries=10**400, delay="retried").attempts == 10**400 + 1


@pytest.mark.parametrize("wrong", [5, True, b"1", ["1"]])
def test_delay_that_is_no_text_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError) as refused:
        RetryPolicy(delay=wrong)
    assert str(refused.value) == (f"'delay' cannot be {wrong!r}; write an expression such as 'pow(2, retried) * 1000'")


def test_delays_are_equal_however_they_are_spaced() -> None:
    assert RetryPolicy(delay=" 2 *\n retried ") == RetryPolicy(delay="2 * retried")
    assert hash(RetryPolicy(delay=" 2 *\n retried ")) == hash(RetryPolicy(delay="2 * retried"))
    assert RetryPolicy(delay="2 * retried") != RetryPolicy(delay="3 * retried") != RetryPolicy()


def test_delay_goes_to_qstash_within_its_cap() -> None:
    assert RetryPolicy(delay="1000 * retried", cap="1m").expression() == "min(60000, 1000 * retried)"


@given(policies(), st.integers(0, 20))
def test_expression_is_read_back_by_ourselves_to_the_same_waits(policy: RetryPolicy, retried: int) -> None:
    assert policy.delay_ms(retried + 1) == pytest.approx(retry_delay.evaluate(policy.expression(), retried), abs=1)


def test_policy_with_a_delay_survives_pickling_and_copying() -> None:
    policy = RetryPolicy(delay="2 * retried")
    assert pickle.loads(pickle.dumps(policy)) == copy.deepcopy(policy) == policy


# Options


OURS = RetryPolicy(retries=7, first="2s", factor=3, cap="1m", jitter=0.1)


def test_options_left_open_are_those_of_the_default() -> None:
    assert RetryPolicy.of() == RetryPolicy()
    assert RetryPolicy.of(default=OURS) == OURS
    assert RetryPolicy.of(retries=0, default=OURS) == replace(OURS, retries=0)


def test_option_that_is_a_policy_gives_all_of_it_but_the_retries_that_are_named() -> None:
    theirs = RetryPolicy(retries=1, delay="5 * retried", cap="9s")
    assert RetryPolicy.of(delay=theirs, default=OURS) == theirs
    assert RetryPolicy.of(retries=2, delay=theirs, default=OURS) == replace(theirs, retries=2)


@pytest.mark.parametrize("text", ["1000 * (1 + retried)", "1000", "1.5", " 7 ", "retried"])
def test_option_that_is_text_is_an_expression(text: str) -> None:
    asked = RetryPolicy.of(retries=2, delay=text, default=OURS)
    assert asked == replace(OURS, retries=2, delay=text)


@pytest.mark.parametrize("delay", ["5s", "5000ms", " 5s ", 5, 5.0, timedelta(seconds=5)])
def test_option_that_is_a_duration_is_the_same_wait_every_time(delay: Duration) -> None:
    asked = RetryPolicy.of(delay=delay, default=replace(OURS, delay="1"))
    assert asked == RetryPolicy(retries=7, first="5s", factor=1, cap="1m", jitter=0.1)
    assert waits(asked) == [5_000] * 4


def test_option_that_is_longer_than_the_cap_lifts_it() -> None:
    assert waits(RetryPolicy.of(delay="2h", default=RetryPolicy())) == [7_200_000] * 4
    assert waits(RetryPolicy.of(delay=0, default=RetryPolicy())) == [0] * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retries": -1}, "'retries' cannot be -1; write a whole number of 0 or more, such as 3"),
        ({"delay": True}, "'retry_delay' cannot be True, which is not a duration; write "),
        ({"delay": -5}, "'retry_delay' cannot be -5, which is negative; write "),
        ({"delay": "5 sec"}, "'retry_delay' cannot be '5 sec', which is not a duration; write "),
        ({"delay": "40000d"}, "'retry_delay' cannot be '40000d', which is longer than 36500d; write "),
        ({"delay": "soon"}, "the retry delay 'soon' has the unknown name 'soon'; the only one is 'retried'"),
    ],
)
def test_option_that_is_wrong_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        RetryPolicy.of(**options)
    assert str(refused.value).startswith(message)
