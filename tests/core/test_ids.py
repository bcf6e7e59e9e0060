"""Ids: sorted by time, derived from the batch, and told apart."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflow.core.ids import (
    BATCH_ENTROPY,
    RUN_ENTROPY,
    batch_id,
    chunk_id,
    complete_id,
    completes,
    entry_id,
    item_run_id,
    page_id,
    parse_item_run_id,
    run_id,
)

TIMES = st.integers(0, 2**50 - 1)
BATCHES = st.builds(batch_id, TIMES, st.binary(min_size=BATCH_ENTROPY, max_size=BATCH_ENTROPY))
NUMBERS = st.integers(0, 10**9 - 1)
ZERO = bytes(BATCH_ENTROPY)


def test_batch_id_is_ten_characters_of_time_and_eight_of_chance() -> None:
    assert batch_id(0, ZERO) == "bat_000000000000000000"
    assert batch_id(2**50 - 1, b"\xff" * 5) == "bat_zzzzzzzzzzzzzzzzzz"
    assert batch_id(1, b"\x00\x00\x00\x00\x01") == "bat_000000000100000001"


def test_run_id_has_more_chance_in_it() -> None:
    assert run_id(32, bytes(RUN_ENTROPY)) == "run_0000000010" + "0" * 16


@given(st.tuples(TIMES, TIMES), st.binary(min_size=5, max_size=5), st.binary(min_size=5, max_size=5))
def test_batch_ids_sort_by_time_whatever_their_chance(times: tuple[int, int], one: bytes, other: bytes) -> None:
    earlier, later = sorted(times)
    if earlier < later:
        assert batch_id(earlier, one) < batch_id(later, other)


@given(TIMES, st.binary(min_size=10, max_size=10), st.binary(min_size=10, max_size=10))
def test_ids_of_different_chance_are_different(now: int, one: bytes, other: bytes) -> None:
    assert (run_id(now, one) == run_id(now, other)) == (one == other)


@pytest.mark.parametrize("make", [batch_id, run_id])
def test_id_needs_a_time_and_whole_characters_of_chance(make: type) -> None:
    with pytest.raises(ValueError, match=r"^an id needs a time from 0 to 1125899906842623 ms after the epoch, not -1$"):
        make(-1, ZERO)
    with pytest.raises(ValueError, match=r"^an id needs 5, 10, 15, … random bytes, not 4$"):
        make(0, b"1234")
    with pytest.raises(ValueError, match=r"^an id needs 5, 10, 15, … random bytes, not 0$"):
        make(0, b"")


def test_children_of_a_batch_sort_in_the_order_they_are_made() -> None:
    batch = batch_id(1_700_000_000_000, ZERO)
    made = [
        entry_id(batch),
        page_id(batch, 1),
        chunk_id(batch, 1, 1),
        chunk_id(batch, 1, 2),
        chunk_id(batch, 1, 10),
        page_id(batch, 2),
        page_id(batch, 10),
        item_run_id(batch, 0),
        item_run_id(batch, 9),
        item_run_id(batch, 10),
        item_run_id(batch, 999_999_999),
        complete_id(batch),
    ]
    assert sorted(made) == made
    assert len(set(made)) == len(made)
    assert item_run_id(batch, 123) == f"{batch}.r000000123"


@given(BATCHES, NUMBERS, NUMBERS)
def test_items_sort_by_their_number(batch: str, one: int, other: int) -> None:
    assert (item_run_id(batch, one) < item_run_id(batch, other)) == (one < other)


@given(BATCHES, NUMBERS, st.integers(0, 10**6 - 1))
def test_ids_are_safe_in_urls_and_headers(batch: str, number: int, chunk: int) -> None:
    for id in (page_id(batch, number), chunk_id(batch, number, chunk), item_run_id(batch, number)):
        assert re.fullmatch(r"[a-z0-9._-]+", id)


@given(BATCHES, NUMBERS)
def test_item_run_id_is_read_back(batch: str, number: int) -> None:
    assert parse_item_run_id(item_run_id(batch, number)) == (batch, number)


@given(BATCHES)
def test_only_ids_of_items_are_read_as_such(batch: str) -> None:
    others = [entry_id(batch), page_id(batch, 1), chunk_id(batch, 1, 2), complete_id(batch), batch]
    more = [f"{batch}.r1", f"{batch}.r0000000001", "order.r000000001", f"{batch}.r000000001\n", f"{batch}.r00000000٣"]
    assert [parse_item_run_id(id) for id in others + more] == [None] * 10


@pytest.mark.parametrize("number", [-1, 10**9])
def test_number_that_would_sort_wrongly_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match=rf"^an id holds a number from 0 to 999999999, not {number}$"):
        item_run_id("bat_0", number)


def test_what_completes_a_batch_is_known_by_its_id() -> None:
    """In whatever generation; nothing else of the batch, and nothing of another."""
    assert all(completes(complete_id("bat_0", generation), "bat_0") for generation in (1, 2, 10))
    others = [entry_id("bat_0"), page_id("bat_0", 1), item_run_id("bat_0", 1), complete_id("bat_1")]
    assert not any(completes(id, "bat_0") for id in others)
