"""Many workers, one server, and everything that can happen to them, in one batch of 10,000 items."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.plan import COUNTS, plan
from tests.chaos.runs import played

SEED = "BATCHFLOW_CHAOS_SEED"
ITEMS = 10_000
TOLD = "chaos"


async def test_chaos_loses_nothing_and_repeats_only_what_was_in_flight(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Each item succeeds once, what was recorded is never executed again, and nothing is left behind.

    BATCHFLOW_CHAOS_SEED=7 makes another plan of faults.
    """
    outcome = await played(int(os.environ.get(SEED, "1")), ITEMS, tmp_path)
    for line in outcome.lines():
        record_property(TOLD, line)
    assert outcome.problems == []


@pytest.mark.parametrize("seed", [1, 2])
def test_a_plan_is_the_seeds(seed: int) -> None:
    """The same seed makes the same plan, with all kinds of faults in it; another seed makes another one."""
    made = plan(seed, ITEMS, 3)
    assert made == plan(seed, ITEMS, 3) != plan(seed + 1, ITEMS, 3)
    assert {fault.kind for fault in made} == set(COUNTS)
    assert [fault.at for fault in made] == sorted(fault.at for fault in made)
