"""Retry policies: their waits, their equality, their forms, and what they refuse."""

import re
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    )


def by_expression(policy: RetryPolicy, retried: int) -> float:
    """What QStash makes of the expression."""
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


@given(policies(), st.integers(0, 20))
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
    assert repr(RetryPolicy()) == "RetryPolicy(retries=3, first='1s', factor=4.0, cap='1h', jitter=0.0)"
    assert RetryPolicy().as_wire() == [3, 1_000, 4.0, 3_600_000, 0.0]


def test_wire_form_of_another_shape_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"^a retry policy is stored as 5 numbers, not as \[1, 2\]$"):
        RetryPolicy.from_wire([1, 2])


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
