"""Exceptions of user code: retries, rate limits, and the stored text."""

import json
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from batchflow.core.batch import Failure
from batchflow.core.frames import own_frame
from batchflow.core.report import MAX_LINE, headline, one_line, traceback_text
from batchflow.core.retry import RetryPolicy
from batchflow.errors import (
    ConfigurationError,
    NonRetryable,
    RateLimited,
    ReplayError,
    RetryAfter,
    StepFailed,
    UnserializableError,
)
from batchflow.serve.callables import as_async, call_with_timeout
from batchflow.serve.failure import (
    MAX_REPORT_BYTES,
    describe_error,
    error_report,
    failure_in,
    failure_of,
    rate_limit,
    rate_limit_delay_ms,
    retry_at,
    user_traceback,
)

POLICY = RetryPolicy(retries=3, first="1s", factor=4)
FINAL = [
    NonRetryable("no"),
    StepFailed("a", "ValueError: b", attempts=4),
    ReplayError("no"),
    UnserializableError("no"),
    ConfigurationError("no"),
]


@pytest.mark.parametrize(("failures", "at"), [(1, 1_100), (2, 4_100), (3, 16_100), (4, None), (5, None)])
def test_ordinary_failures_follow_the_policy(failures: int, at: int | None) -> None:
    """After 1 s, 4 s, 16 s, and then no more."""
    assert retry_at(ValueError("x"), failures, POLICY, now=100, chance=0.5) == at


@pytest.mark.parametrize("error", FINAL, ids=lambda error: type(error).__name__)
def test_some_failures_are_final_at_once(error: Exception) -> None:
    """No attempt is made that cannot help, alone or in a group."""
    assert retry_at(error, 1, POLICY, now=100, chance=0.5) is None
    group = ExceptionGroup("several", [ValueError("x"), ExceptionGroup("inner", [error])])
    assert retry_at(group, 1, POLICY, now=100, chance=0.5) is None


def test_retry_after_is_obeyed_and_counts() -> None:
    """The delay is the one that was asked for, as long as attempts are left; of a group the longest."""
    assert retry_at(RetryAfter(timedelta(minutes=1)), 3, POLICY, now=100, chance=0.5) == 60_100
    assert retry_at(RetryAfter(60), 4, POLICY, now=100, chance=0.5) is None
    group = ExceptionGroup("several", [RetryAfter(1), RetryAfter(9), ValueError("x")])
    assert retry_at(group, 1, POLICY, now=100, chance=0.5) == 9_100


@pytest.mark.parametrize("delay", ["5s", None, "Wed, 21 Oct 2026 07:28:00 GMT"])
def test_a_delay_that_is_none_is_refused_in_a_sentence(delay: Any) -> None:
    """It says what to write."""
    with pytest.raises(ValueError, match=f"^the delay is {delay!r}; write seconds, such as 5, or a timedelta$"):
        RetryAfter(delay)


def test_a_rate_limit_is_found_in_groups() -> None:
    """The longest one, unless something beside it is another failure, which would never be counted."""
    short, long = RateLimited(1), RateLimited(9)
    assert rate_limit(short) is short
    assert rate_limit(ExceptionGroup("several", [short, ExceptionGroup("inner", [long])])) is long
    assert rate_limit(ExceptionGroup("several", [short, ValueError("x")])) is None
    assert rate_limit(ExceptionGroup("several", [short, NonRetryable("no")])) is None
    assert rate_limit(RetryAfter(1)) is None


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("bad"), "ValueError: bad"),
        (ValueError(), "ValueError"),
        (ExceptionGroup("several", [ValueError("a"), KeyError("b")]), "ValueError: a; KeyError: 'b'"),
        (Mute(), "Mute: (its text cannot be read: RuntimeError)"),
    ],
)
def test_a_failure_is_described_by_type_and_message(error: Exception, text: str) -> None:
    """One sentence, whatever the exception."""
    assert describe_error(error) == text


def fail(message: str) -> Exception:
    try:
        raise ValueError(message)
    except ValueError as error:
        return error


def test_a_report_has_the_sentence_and_the_traceback() -> None:
    """`headline` gives the sentence back, `trace` the frames, also for a message of several lines."""
    text = error_report(fail("bad\nworse"))
    assert headline(text) == "ValueError: bad\nworse"
    assert traceback_text(text).startswith("Traceback (most recent call last):\n")
    assert "in fail\n" in traceback_text(text)
    assert (headline("ValueError: bad"), traceback_text("ValueError: bad")) == ("ValueError: bad", "")


@pytest.mark.parametrize("letter", ["x", "ä", "日"])
def test_reports_are_cut(letter: str) -> None:
    """Never more than the limit in bytes, beginning and end kept."""
    text = error_report(fail(letter * 20_000 + "end"))
    assert len(text.encode()) <= MAX_REPORT_BYTES
    assert text.startswith(f"ValueError: {letter}")
    assert "[…]" in text
    assert text.endswith("end")


def test_surrogates_do_not_break_a_report() -> None:
    """Text without a form in UTF-8 is replaced."""
    assert describe_error(ValueError("a\udc80")) == "ValueError: a?"


LONGEST_MS = 36_500 * 86_400_000
DELAYS: list[tuple[Any, int | None]] = [
    (0, 0),
    (-5, 0),
    (-0.001, 0),
    (timedelta(seconds=-3), 0),
    (-(10**400), 0),
    (1e30, LONGEST_MS),
    (10**12, LONGEST_MS),
    (10**400, LONGEST_MS),
    (timedelta.max, LONGEST_MS),
    ("30", 30_000),
    (Decimal("0.5"), 500),
    (float("nan"), None),
    (Decimal("NaN"), None),
    (float("inf"), None),
    (float("-inf"), None),
]


@pytest.mark.parametrize("kind", [RetryAfter, RateLimited])
@pytest.mark.parametrize(("delay", "expected"), DELAYS)
def test_a_delay_is_any_number(kind: type[RetryAfter], delay: Any, expected: int | None) -> None:
    """What has passed is now, the bound of durations holds, and what is no time leaves it to the policy."""
    error = kind(delay, "busy")
    assert (error.delay_ms, str(error)) == (expected, "busy")
    assert kind(delay).args[0].startswith("try again ")
    wait = POLICY.delay_ms(1) if expected is None else expected
    assert retry_at(error, 1, POLICY, now=100, chance=0.5) == 100 + wait
    if isinstance(error, RateLimited):
        assert rate_limit_delay_ms(error, POLICY) == wait


def test_the_longest_known_delay_of_a_group_counts() -> None:
    """Delays that are not a time are ignored."""
    nan = float("nan")
    group = ExceptionGroup("several", [RateLimited(nan), RateLimited(9), RateLimited(nan)])
    assert retry_at(group, 1, POLICY, now=0, chance=0.5) == 9_000
    assert rate_limit(group) is group.exceptions[1]


def parse(text: str) -> object:
    return json.loads(text)


async def call_parse(text: str) -> object:
    return await call_with_timeout(1_000, as_async(parse), (text,), {})


async def caught(text: str) -> ValueError:
    with pytest.raises(ValueError, match="Expecting") as raised:
        await call_parse(text)
    return raised.value


async def test_a_failure_is_placed_at_the_users_own_last_frame() -> None:
    """Not in the library that raised it, nor in batchflow; from the exception as from its stored text."""
    error = await caught("{")
    failure = failure_of(error)
    assert (failure.type, failure.where.partition(":")[0]) == ("JSONDecodeError", "test_failure.py")
    assert failure.where.endswith(" in parse")
    assert failure.message.startswith("JSONDecodeError: Expecting property name")
    assert failure_in(error_report(error)) == failure
    assert failure_of(ValueError("never raised")).where == own_frame("ValueError: no traceback") == ""


def test_a_failure_is_placed_at_the_error_and_not_at_its_cause() -> None:
    """An error raised while another one was handled is the one that counts."""

    def load() -> None:
        try:
            parse("{")
        except ValueError as error:
            raise RuntimeError("no items") from error

    with pytest.raises(RuntimeError) as raised:
        load()
    assert failure_of(raised.value).where == own_frame(error_report(raised.value))
    assert failure_of(raised.value).where.endswith(" in load")


async def test_a_users_traceback_has_no_frame_of_batchflow() -> None:
    """The user's frames and those of libraries stay, in their order."""
    error = await caught("{")
    text = error_report(error)
    assert "call_with_timeout" in traceback_text(text).replace("await call_with_timeout", "")
    cut = user_traceback(text)
    assert "batchflow/serve" not in cut
    assert cut.index("in call_parse") < cut.index("in parse") < cut.index("JSONDecodeError: ")
    assert user_traceback("ValueError: no traceback") == ""


def test_a_long_traceback_keeps_both_ends() -> None:
    """User code is at the beginning, and the line that raised at the end."""

    def descend(depth: int) -> object:
        return parse("{") if depth == 0 else descend(depth - 1)

    with pytest.raises(ValueError, match="Expecting") as raised:
        descend(100)
    text = error_report(raised.value)
    assert "in test_a_long_traceback_keeps_both_ends" in text
    assert own_frame(text).endswith(" in parse")
    assert len(text) < 4_000


def test_a_step_that_failed_finally_is_its_own_error() -> None:
    """The attempts are used up, but the reason is what the step raised."""
    error = StepFailed("reviews:process-item", "ConnectError: refused", attempts=4)
    assert failure_of(error) == Failure("ConnectError", "", "ConnectError: refused")


def test_an_error_in_one_line_has_no_advice_and_an_end() -> None:
    """The text of pydantic has many lines, and one of them is a link."""
    text = "ValidationError: 1 validation error\nscore\n  Field required\n    For further information visit https://x/y"
    assert one_line(text) == "ValidationError: 1 validation error score Field required"
    assert len(one_line("x" * 10_000)) == MAX_LINE
