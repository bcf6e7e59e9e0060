"""Faults by name: each does what it says, and a slip in a verb's name is told."""

import asyncio
from typing import Any

import pytest

from batchflow.core import settlement
from batchflow.errors import ConfigurationError, StoreUnavailable
from batchflow.stores.sqlite import SqliteStore
from batchflow.testing.clock import ManualClock
from batchflow.testing.faults import FaultyStore
from tests.conformance.scene import message, renewed


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"die_before": "setle"}, "a store has no verb 'setle'; did you mean 'settle'?"),
        (
            {},
            "a FaultyStore has one fault of die_before, die_after, lose_reply, fail; 0 are named",
        ),
        (
            {"fail": "claim", "lose_reply": "claim"},
            "a FaultyStore has one fault of die_before, die_after, lose_reply, fail; 2 are named",
        ),
        ({"fail": "claim", "nth": 0}, "'nth' (0) and 'times' (1) count from 1"),
    ],
)
def test_a_wrong_fault_is_refused_when_it_is_made(options: dict[str, Any], sentence: str) -> None:
    """With what was meant, where that can be guessed."""
    with pytest.raises(ConfigurationError) as caught:
        FaultyStore(SqliteStore(":memory:", clock=ManualClock()), **options)
    assert str(caught.value) == sentence


async def test_fail_does_not_reach_the_store(store: SqliteStore) -> None:
    """From the nth call on, as often as asked for."""
    faulty = FaultyStore(store, fail="publish", nth=2, times=2)
    await faulty.publish([message("a")])
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await faulty.publish([message("b")])
    assert await store.run("b") is None
    assert list(await faulty.publish([message("b")])) == [True]


async def test_repair_ends_the_faults(store: SqliteStore) -> None:
    """However many were to come."""
    faulty = FaultyStore(store, fail="publish", times=1_000)
    faulty.repair()
    assert list(await faulty.publish([message("a")])) == [True]


async def test_lose_reply_has_done_it(store: SqliteStore) -> None:
    """Only the caller does not know."""
    faulty = FaultyStore(store, lose_reply="publish")
    with pytest.raises(StoreUnavailable):
        await faulty.publish([message("a")])
    assert await store.run("a") is not None


@pytest.mark.parametrize(("fault", "left"), [("die_before", "running"), ("die_after", None)])
async def test_die_leaves_the_store_as_it_was_at_that_moment(store: SqliteStore, fault: str, left: str | None) -> None:
    """Before the verb or after it; nothing of the process comes after that."""
    await store.publish([message("a")])
    (claim,) = (await store.claim("w1", ["work"], 1)).claims
    options: dict[str, Any] = {fault: "settle"}
    faulty = FaultyStore(store, **options)
    last = asyncio.ensure_future(faulty.settle(settlement.done(claim, "1")))
    await faulty.died.wait()
    run = await store.run("a")
    assert (run.state if run else None) == left
    late = asyncio.ensure_future(faulty.publish([message("b")]))
    await asyncio.wait([late, last], timeout=0.05)
    assert not late.done()
    assert not last.done()
    late.cancel()
    last.cancel()
    with pytest.raises(StoreUnavailable):
        await renewed(faulty)
    assert await store.run("b") is None
