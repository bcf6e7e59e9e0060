"""Fingerprints and statuses of errors, and the filter of dead letters."""

import pytest

from batchflow.core.dead_letters import DeadLetterGroup, DeadLetterQuery, fingerprint_of, merge_groups, status_of
from batchflow.errors import StepFailed
from batchflow.serve.failure import error_report


def charge(customer: str) -> None:
    """Raise an error that quotes what it was given."""
    raise ValueError(f"card of {customer} declined")


def refund(customer: str) -> None:
    """Raise the same in another function."""
    raise ValueError(f"card of {customer} declined")


def report_of(function: object, *arguments: object) -> str:
    """The stored text of what a function raises."""
    with pytest.raises(Exception) as raised:
        function(*arguments)  # type: ignore[operator]
    return error_report(raised.value)


def test_a_fingerprint_is_the_same_for_each_occurrence_of_a_bug() -> None:
    """Whatever the message quotes; another function is another bug."""
    one, other = report_of(charge, "ada"), report_of(charge, "grace")
    assert one != other
    assert fingerprint_of(one) == fingerprint_of(other)
    assert fingerprint_of(one) != fingerprint_of(report_of(refund, "ada"))


def test_a_fingerprint_outlives_a_redeploy() -> None:
    """Lines move, and files are in another folder."""
    text = report_of(charge, "ada")
    moved = text.replace(__file__, "/srv/releases/42/tests/core/test_dead_letters.py").replace("line 1", "line 31")
    assert moved != text
    assert fingerprint_of(moved) == fingerprint_of(text)


def test_a_fingerprint_tells_the_lines_of_a_function_apart_by_their_code() -> None:
    """Two errors of one type that different statements raise are two bugs."""
    text = report_of(charge, "ada")
    changed = text.replace('raise ValueError(f"card of {customer} declined")', 'raise ValueError("no customer")')
    assert changed != text
    assert fingerprint_of(changed) != fingerprint_of(text)


def test_a_fingerprint_without_frames_goes_by_the_message_without_ids_and_numbers() -> None:
    """An error that no code of the user raised."""
    texts = [f"Timeout: no answer of '{host}' in {n} ms for order-{n}" for host, n in (("a", 12), ("b", 7))]
    assert len({fingerprint_of(text) for text in texts}) == 1
    assert fingerprint_of("Timeout: no answer") != fingerprint_of("Timeout: refused")


def test_a_fingerprint_of_a_step_is_that_of_its_error() -> None:
    """The number of attempts and the name of the step do not matter."""
    failed = [f"StepFailed: {StepFailed(name, 'KeyError: 7', attempts=n)}" for name, n in (("one", 4), ("two", 1))]
    assert {fingerprint_of(text) for text in failed} == {fingerprint_of("KeyError: 7")}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ("ValueError: no", 500),
        ("TimeoutError: the attempt took longer than 5 s", 504),
        ("TimedOut: the time is over", 504),
        ("WorkerLost: 10 workers in a row died or hung while they ran it", 503),
        ("NonRetryable: no such user", 489),
        ("InputError: 'n' is missing", 400),
        ("StepFailed: step 'process-item' (execute) failed after 4 attempts: TimeoutError: no", 504),
        ("no answer of https://a.example", 500),
        ("", 500),
    ],
)
def test_a_status_says_what_kind_of_failure_it_was(error: str, status: int) -> None:
    """In the terms of HTTP."""
    assert status_of(error) == status


def test_groups_of_slices_are_merged() -> None:
    """Sizes are added; the example is the latest."""
    parts = [
        DeadLetterGroup("a", 2, 5, 9, "m9", "Boom: late"),
        DeadLetterGroup("b", 4, 1, 8, "m8", "Other: x"),
        DeadLetterGroup("a", 3, 1, 4, "m4", "Boom: early"),
    ]
    assert merge_groups(parts) == [DeadLetterGroup("a", 5, 1, 9, "m9", "Boom: late"), parts[1]]


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        ("/w/execute", True),
        ("https://a.example/api/w/execute?x#y", True),
        ("/api/w/execute", False),
        ("execute", False),
    ],
)
def test_a_destination_is_a_route_or_a_url(wanted: str, fits: bool) -> None:
    """The path of a URL may begin with the prefix of the router."""
    assert DeadLetterQuery(destination=wanted).matches("/w/execute") is fits
