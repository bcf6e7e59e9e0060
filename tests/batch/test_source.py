"""Cursors that come round again are found in constant space; those that do not are never suspected."""

from hypothesis import given, settings
from hypothesis import strategies as st

from batchflow.batch.source import CycleDetector


def steps_until_found(way: int, length: int) -> int:
    """Walk `way` cursors and then round a cycle of `length`; how many cursors it takes to find out."""
    probe, seen = CycleDetector(), 0
    while True:
        cursor = seen if seen < way else way + (seen - way) % length
        further = probe.advance(str(cursor))
        if further is None:
            return seen + 1
        probe, seen = further, seen + 1


@settings(deadline=None)
@given(way=st.integers(0, 300), length=st.integers(1, 300))
def test_every_cycle_is_found_soon(way: int, length: int) -> None:
    """After three times the way and the cycle, and never before the cycle closes."""
    assert way + length < steps_until_found(way, length) <= 3 * (way + length) + 3


@settings(deadline=None)
@given(st.sets(st.text(min_size=1), max_size=200))
def test_different_cursors_are_never_suspected(cursors: set[str]) -> None:
    """A walk without repetition goes on to its end."""
    probe = CycleDetector()
    for cursor in cursors:
        further = probe.advance(cursor)
        assert further is not None
        probe = further
