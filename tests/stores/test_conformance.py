"""The suite itself: no verb of the protocol is without a case, no case without a promise."""

import inspect

from batchflow.core.store import Store
from batchflow.core.wire_store import WireStore
from tests.conformance import SharedStoreConformance, SharedWireConformance

VERBS = [name for protocol in (Store, WireStore) for name in dir(protocol) if not name.startswith("_")]
CASES = {
    name: case
    for suite in (SharedStoreConformance, SharedWireConformance)
    for name, case in inspect.getmembers(suite)
    if name.startswith("test_")
}


def verb_of(case: str) -> str | None:
    """The verb that a case is for: the longest its name begins with."""
    name = case.removeprefix("test_")
    found = [verb for verb in VERBS if name.startswith(f"{verb}_")]
    return max(found, key=len, default=None)


def test_every_verb_has_cases() -> None:
    """A verb without a case is a promise that nobody keeps."""
    assert sorted(set(VERBS) - {verb_of(case) for case in CASES}) == []


def test_every_case_is_for_a_verb_and_says_what_it_promises() -> None:
    """`test_<verb>_<promise>`, with the promise as a sentence."""
    assert [case for case in CASES if verb_of(case) is None] == []
    assert [name for name, case in CASES.items() if not (case.__doc__ or "").strip().endswith(".")] == []


def test_no_case_is_skipped() -> None:
    """A case that is skipped looks like one that passes."""
    marks = [mark.name for case in CASES.values() for mark in getattr(case, "pytestmark", [])]
    assert set(marks) <= {"parametrize"}
