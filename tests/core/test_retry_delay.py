"""Retry delays as expressions: what they come to, and what is refused before it can go wrong."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflow.core import retry_delay
from batchflow.errors import ConfigurationError

WORDS = "there are numbers, + - * /, parentheses, retried and functions"
FORM = "is not well-formed; write one such as 'pow(2, retried) * 1000'"
DIGITS = "write a number of milliseconds in digits, such as 1500 or 0.5"
FUNCTIONS = "there are abs, ceil, exp, floor, max, min, pow, round, sqrt"
PLAIN: dict[str, Any] = {
    "abs": abs,
    "ceil": math.ceil,
    "exp": math.exp,
    "floor": math.floor,
    "max": max,
    "min": min,
    "pow": math.pow,
    "sqrt": math.sqrt,
    "__builtins__": {},
}

numbers = st.one_of(
    st.integers(0, 10**6).map(str), st.decimals(0, 1_000, places=3).map(lambda number: format(number, "f"))
)
leaves = st.one_of(st.just("retried"), numbers)


def _grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.builds("({} {} {})".format, inner, st.sampled_from("+-*/"), inner),
        st.builds("{} {} {}".format, inner, st.sampled_from("+-*/"), inner),
        st.builds("-{}".format, inner),
        st.builds("{}({})".format, st.sampled_from(["abs", "ceil", "exp", "floor", "sqrt"]), inner),
        st.builds("{}({}, {})".format, st.sampled_from(["max", "min", "pow"]), inner, inner),
        st.builds("{}({}, {}, {})".format, st.sampled_from(["max", "min"]), inner, inner, inner),
    )


expressions = st.recursive(leaves, _grown, max_leaves=12).filter(lambda text: len(text) <= retry_delay.MAX_LENGTH)


def refusal(text: str, retries: int = 3) -> str:
    with pytest.raises(ConfigurationError) as refused:
        retry_delay.check(text, retries)
    return str(refused.value)


@given(expressions, st.integers(0, 50))
def test_expression_comes_to_what_python_makes_of_it(text: str, retried: int) -> None:
    """Wherever Python has a number for it."""
    try:
        plain = float(eval(text, PLAIN, {"retried": float(retried)}))
    except (ArithmeticError, ValueError):
        return
    got = retry_delay.evaluate(text, retried)
    assert got == plain or (math.isnan(got) and math.isnan(plain))


@given(expressions, st.integers(0, 200))
def test_expression_that_was_checked_gives_a_wait(text: str, retries: int) -> None:
    """For each of the retries that were tried out: a number of 0 or more."""
    try:
        retry_delay.check(text, retries)
    except ConfigurationError:
        return
    for retried in (*range(min(retries, 100)), retries):
        assert 0 <= retry_delay.evaluate(text, retried) < math.inf


@given(st.text(st.sampled_from("retid pow,maxn()+-*/%.0123456789e_#:=[]'\n"), max_size=30))
def test_expression_of_any_text_is_read_or_refused_in_one_sentence(text: str) -> None:
    """Nothing else comes out."""
    try:
        read = retry_delay.check(text, 3)
    except ConfigurationError as error:
        read = str(error)[:16]
    assert read in (" ".join(text.split()), "the retry delay ")


@pytest.mark.parametrize(
    ("text", "waits"),
    [
        ("1000", [1_000, 1_000, 1_000]),
        ("1000 * (1 + retried)", [1_000, 2_000, 3_000]),
        ("pow(2, retried) * 1000", [1_000, 2_000, 4_000]),
        ("max(1000, pow(2, retried) * 100)", [1_000, 1_000, 1_000]),
        ("min(5, 4, retried)", [0, 1, 2]),
        ("2 + 3 * 4 - 6 / 4", [12.5, 12.5, 12.5]),
        ("-(retried - 2) * .5", [1, 0.5, 0]),
        ("floor(exp(retried)) + ceil(0.2)", [2, 3, 8]),
        ("round(retried / 2)", [0, 1, 1]),
        ("abs(round(-2.5)) + round(0.49999999999999994)", [3, 3, 3]),
        ("sqrt(retried * 4)", [0, 2, math.sqrt(8)]),
    ],
)
def test_expression_is_counted_in_milliseconds_from_retried_0(text: str, waits: list[float]) -> None:
    """Halves are rounded away from 0."""
    retry_delay.check(text, 2)
    assert [retry_delay.evaluate(text, retried) for retried in range(3)] == waits


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("pow(9, 9999)", math.inf),
        ("pow(0 - 9, 9999)", -math.inf),
        ("pow(0, 0 - 1)", math.inf),
        ("pow(9, pow(9, pow(9, 9)))", math.inf),
        ("exp(9999)", math.inf),
        ("1 / exp(9999)", 0),
        ("floor(exp(9999)) + ceil(exp(9999)) + round(exp(9999))", math.inf),
        ("min(60000, pow(9, 9999))", 60_000),
        ("9" * 200, 1e200),
    ],
)
def test_expression_that_grows_without_bound_is_infinite_at_once(text: str, value: float) -> None:
    """It takes no time, and what bounds it holds."""
    assert retry_delay.evaluate(text, 0) == pytest.approx(value)


@pytest.mark.parametrize(
    "text",
    [
        "1 / retried",
        "sqrt(0 - 1)",
        "pow(0 - 1, 0.5)",
        "exp(9999) - exp(9999)",
        "min(1, sqrt(0 - 1))",
        "max(sqrt(0 - 1), 1)",
        "round(sqrt(0 - 1))",
    ],
)
def test_expression_without_a_value_is_no_number(text: str) -> None:
    """Wherever in it the value is missing."""
    assert math.isnan(retry_delay.evaluate(text, 0))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", FORM),
        ("1 +", FORM),
        ("(1", FORM),
        ("1, 2", FORM),
        ("()", FORM),
        ("...", FORM),
        ("True", FORM),
        ("+1", FORM),
        ("not retried", FORM),
        ("1 if retried else 2", FORM),
        ("retried.real", FORM),
        ("retried retried", FORM),
        ("max(*retried, 1)", FORM),
        ("pow(2, 3, **retried)", FORM),
        ("2 (3)", FORM),
        ("007", FORM),
        ("(" * 199, FORM),
        ("retries * 2", "has the unknown name 'retries'; the only one is 'retried'"),
        ("Retried", "has the unknown name 'Retried'; the only one is 'retried'"),
        ("pow * 2", "names the function 'pow' without calling it"),
        ("log(retried)", f"has the unknown function 'log'; {FUNCTIONS}"),
        ("retried(2)", f"has the unknown function 'retried'; {FUNCTIONS}"),
        ("__import__(1)", f"has the unknown function '__import__'; {FUNCTIONS}"),
        ("pow(2)", "calls 'pow' with 1; it takes 2 arguments"),
        ("pow(1, 2, 3)", "calls 'pow' with 3; it takes 2 arguments"),
        ("sqrt()", "calls 'sqrt' with 0; it takes 1 argument"),
        ("max(1)", "calls 'max' with 1; it takes 2 arguments or more"),
        ("2 ** retried", "has '**' in it; write pow(…, …)"),
        ("9 // 2", "has '//' in it; write floor(… / …)"),
        ("5 % 3", f"has '%' in it; {WORDS}"),
        ("lambda: 1", f"has ':' in it; {WORDS}"),
        ("pow(2, b=3)", f"has '=' in it; {WORDS}"),
        ("1000 # often", f"has '#' in it; {WORDS}"),
        ("ｒetried", f"has 'ｒ' in it; {WORDS}"),  # noqa: RUF001 - Python would read it as 'retried'
        ("1\x00", f"has '\\x00' in it; {WORDS}"),
        ("5s", f"has '5s' in it; {DIGITS}"),
        ("1e3 * 2", f"has '1e3' in it; {DIGITS}"),
        ("0x10", f"has '0x10' in it; {DIGITS}"),
        ("1_000", f"has '1_000' in it; {DIGITS}"),
        ("2j", f"has '2j' in it; {DIGITS}"),
        ("1if retried else 2", f"has '1if' in it; {DIGITS}"),
        ("1 / 0", "divides by zero for retried = 0"),
        ("1 / (2 - retried)", "divides by zero for retried = 2"),
        ("sqrt(1 - retried)", "is not a number for retried = 2"),
        ("2 - retried", "is negative for retried = 3; put max(0, …) around it"),
        ("-exp(9999)", "is negative for retried = 0; put max(0, …) around it"),
        ("pow(9, pow(9, retried))", "is infinite for retried = 3; put min(…, …) around what grows"),
    ],
)
def test_expression_that_is_wrong_is_refused_with_what_is_wrong(text: str, fault: str) -> None:
    """When it is written down, not when it is needed."""
    assert refusal(text) == f"the retry delay {text!r} {fault}"


def test_expression_that_is_too_long_is_refused_without_being_shown() -> None:
    """However long it is; spaces that say nothing do not count."""
    assert refusal("1 + " * 50 + "1") == "the retry delay is 201 characters long; at most 200 are read"
    assert refusal("(" * 10**6) == "the retry delay is 1000000 characters long; at most 200 are read"
    assert retry_delay.check("1" + " " * 500 + "+ 1", 0) == "1 + 1"


def test_expression_may_nest_as_deep_as_its_length_allows() -> None:
    """Neither reading nor counting runs out of stack."""
    retry_delay.check("-" * 198 + "1", 0)
    retry_delay.check("(" * 99 + "1" + ")" * 99, 0)
    assert retry_delay.evaluate("abs(" * 39 + "0-7" + ")" * 39, 0) == 7


def test_expression_for_a_billion_retries_is_tried_out_for_a_few() -> None:
    """The first hundred and the last."""
    retry_delay.check("retried", 10**400)
    assert refusal("1000 - retried", 10**9).endswith("is negative for retried = 1000000000; put max(0, …) around it")
