"""Times for people: in the local zone, which is named."""

import time
from collections.abc import Callable, Iterator

import pytest

from batchflow.cli.output import format_local_time, time_column

BEFORE, AFTER = 1_792_888_200_000, 1_792_891_800_000
"""2026-10-25 02:30 in Berlin, twice: before and after the end of summer time."""


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets the zone of this process."""

    def set_zone(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield set_zone
    monkeypatch.undo()
    time.tzset()


def test_time_has_its_offset(zone: Callable[[str], None]) -> None:
    """Nobody has to guess whose clock it was."""
    zone("CET-1CEST,M3.5.0,M10.5.0/3")
    assert format_local_time(AFTER) == "2026-10-25 02:30:00 +0100"
    assert format_local_time(None) == ""


def test_column_of_times_has_the_offset_in_its_title(zone: Callable[[str], None]) -> None:
    """Once for all rows, unless they differ."""
    zone("CET-1CEST,M3.5.0,M10.5.0/3")
    assert time_column("started", [AFTER, None]) == ("started +0100", ["10-25 02:30", ""])
    assert time_column("started", [BEFORE, AFTER]) == ("started", ["10-25 02:30 +0200", "10-25 02:30 +0100"])
    assert time_column("started", []) == ("started", [])
