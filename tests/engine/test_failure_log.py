"""The log of failures: the first of a kind at once, the others summed, and one line for what failed for good."""

from collections.abc import Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from batchflow.core.batch import Failure
from batchflow.core.call import CALL_DESTINATION
from batchflow.core.message import Claim
from batchflow.core.ports import FailedAttempt, LogNames
from batchflow.core.retry import RetryPolicy
from batchflow.core.settlement import Settlement, dead, done, failed, retry, suspended
from batchflow.engine.failure_log import MAX_KINDS, QUIET_MS, SUM_MS, FailureLog, wait_text

NAMES = {
    "/execute": LogNames("reviews:execute"),
    "/complete": LogNames("reviews:process", "on_complete failed for good"),
}


class Scene:
    """A log of failures at a time that the test sets."""

    def __init__(self) -> None:
        self.now = 0
        self.log = FailureLog(NAMES, lambda: self.now)

    def fail(
        self,
        kind: str = "ConnectError",
        *,
        wait: int | None = 1_000,
        number: int = 1,
        times: int = 1,
        parked: bool = False,
        where: str = "reviews.py:41 in execute",
    ) -> None:
        for _ in range(times):
            failure = Failure(kind, where, f"{kind}: down")
            attempt = FailedAttempt(ValueError(kind), "step", failure, number, 4, wait, parked)
            self.log.add(claim(), attempt)

    def settle(self, settlement: Settlement) -> None:
        self.log.settle(claim(), settlement)


def claim(destination: str = "/execute") -> Claim:
    return Claim(id="bat_1.r0", fence=1, destination=destination, body="", batch="bat_1", number=0, item="u1")


def events(lines: Sequence[Any]) -> list[str]:
    return [line["event"] for line in lines]


def test_the_first_of_a_kind_is_logged_at_once() -> None:
    """With attempt, wait and reason; a kind is layer, type and place."""
    scene = Scene()
    with capture_logs() as lines:
        scene.fail()
        scene.fail("ReadTimeout", number=2, wait=16_000)
        scene.fail(where="reviews.py:50 in load", wait=0)
        scene.fail()
    assert events(lines) == [
        "[reviews:execute] Attempt 1 of 4 failed, again in 1 s: ConnectError: down",
        "[reviews:execute] Attempt 2 of 4 failed, again in 16 s: ReadTimeout: down",
        "[reviews:execute] Attempt 1 of 4 failed, again in 0 ms: ConnectError: down",
    ]
    assert lines[0] == {
        "event": events(lines)[0],
        "log_level": "warning",
        "item_id": "u1",
        "batch": "bat_1",
        "where": "reviews.py:41 in execute",
    }


def test_further_ones_are_summed() -> None:
    """Ten seconds long; a sum of one is that one."""
    scene = Scene()
    with capture_logs() as lines:
        scene.fail()
        scene.fail("ReadTimeout", wait=4_000)
        scene.fail(times=700)
        scene.fail("ReadTimeout", times=16, wait=4_000)
        scene.log.write_due()
        lines.clear()
        scene.now += SUM_MS
        scene.log.write_due()
        scene.log.write_due()
        scene.fail(number=3)
        scene.log.write()
    assert events(lines) == [
        "[reviews:execute] 716 attempts failed in 10 s, again in 1 s to 4 s: 700 × ConnectError, 16 × ReadTimeout",
        "[reviews:execute] Attempt 3 of 4 failed, again in 1 s: ConnectError: down",
    ]


def test_rate_limits_are_summed_beside_them() -> None:
    """They say for how long the key is parked."""
    scene = Scene()
    with capture_logs() as lines:
        scene.fail("RateLimited", parked=True, wait=2_000, times=13)
        scene.log.write()
    assert events(lines) == [
        "[reviews:execute] Rate limit, parked for 2 s: RateLimited: down",
        "[reviews:execute] 12 attempts met a rate limit in 1 s, parked for up to 2 s: 12 × RateLimited",
    ]


def test_a_kind_that_was_quiet_is_logged_at_once_again() -> None:
    """The reader of the log may not have seen it."""
    scene = Scene()
    with capture_logs() as lines:
        scene.fail()
        scene.now += QUIET_MS
        scene.fail()
    assert len(lines) == 2


def test_kinds_are_bounded() -> None:
    """Further ones are only summed, and a sum names the most frequent."""
    scene = Scene()
    with capture_logs() as lines:
        for number in range(MAX_KINDS + 50):
            scene.fail(f"Error{number}")
        scene.log.write()
    assert len(lines) == MAX_KINDS + 1
    assert events(lines)[-1].startswith("[reviews:execute] 50 attempts failed in 1 s, again in 1 s: 30 × others, ")


def test_an_item_that_failed_for_good_is_one_line() -> None:
    """The step and the function that it fails, and the dead letter, are the same failure."""
    scene = Scene()
    with capture_logs() as lines:
        scene.fail(wait=None, number=4)
        scene.fail(wait=None, number=4)
        scene.settle(dead(claim(), "StepFailed: step 'x' failed after 4 attempts: ConnectError: down"))
        scene.log.write()
    assert lines == [
        {
            "event": "[reviews:execute:error] Failed: ConnectError: down",
            "log_level": "error",
            "item_id": "u1",
            "batch": "bat_1",
            "attempts": 4,
            "where": "reviews.py:41 in execute",
        }
    ]


@pytest.mark.parametrize("settlement", [done(claim(), "1"), suspended(claim(), 0, ())])
def test_a_failure_that_was_handled_is_a_warning(settlement: Settlement) -> None:
    """The function goes on, so nothing has failed for good."""
    scene = Scene()
    with capture_logs() as lines:
        scene.fail(wait=None, number=4)
        scene.settle(settlement)
    assert events(lines) == ["[reviews:execute] Attempt 4 of 4 failed, not tried again: ConnectError: down"]


def test_what_failed_without_an_attempt_has_its_stored_error() -> None:
    """A payload that does not fit, an item that is gone, the completion of a batch."""
    log = FailureLog(NAMES, lambda: 0)
    with capture_logs() as lines:
        log.settle(claim(), failed(claim(), "Item not found", "{}"))
        log.settle(claim(), dead(claim(), "InputError: a\nb\nTraceback (most recent call last):\n  x"))
        log.settle(claim("/complete"), dead(claim(), "ValueError: no"))
    assert events(lines) == [
        "[reviews:execute:error] Item not found",
        "[reviews:execute:error] Failed: InputError: a b",
        "[reviews:process:error] on_complete failed for good: ValueError: no",
    ]


def test_a_call_is_a_step() -> None:
    """Its failures are warnings: the run that made it has an error if it cannot go on."""
    call = claim(CALL_DESTINATION)._replace(retry=RetryPolicy(retries=1), batch=None, item="")
    log = FailureLog(NAMES, lambda: 5_000)
    with capture_logs() as lines:
        log.settle(call, retry(call, 6_000, "answered 503"))
        last = call._replace(failures=1)
        log.settle(last, dead(last, "no answer of http://x.test: ConnectError: refused"))
        log.settle(call, done(call, "{}"))
    assert [line["log_level"] for line in lines] == ["warning", "warning"]
    assert events(lines) == [
        "[batchflow] Attempt 1 of 2 failed, again in 1 s: answered 503",
        "[batchflow] Attempt 2 of 2 failed, not tried again: no answer of http://x.test: ConnectError: refused",
    ]


def test_a_claim_that_is_lost_is_forgotten() -> None:
    """Another worker has it."""
    scene = Scene()
    with capture_logs() as lines:
        scene.fail(wait=None)
        scene.log.forget(claim())
        scene.settle(done(claim(), "1"))
    assert lines == []


def test_waits_are_for_people() -> None:
    """Jitter is not shown."""
    texts = [wait_text(ms) for ms in (None, 0, 249, 1_040, 1_500, 16_300, 90_000, 3_600_000)]
    assert texts == ["0 ms", "0 ms", "250 ms", "1 s", "1.5 s", "16 s", "90 s", "60 min"]
