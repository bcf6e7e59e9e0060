"""Migrations of a store have numbers of their own: of two with one number, one would never be carried out."""

from collections import Counter
from pathlib import Path

import pytest

import batchflow

STORES = Path(batchflow.__file__).parent / "stores"


@pytest.mark.parametrize("folder", ["sqlite/migrations", "redis/lua/migrations"])
def test_migrations_have_numbers_of_their_own(folder: str) -> None:
    """And each follows the one before it."""
    numbers = [int(path.name[:4]) for path in (STORES / folder).iterdir() if path.suffix in (".sql", ".lua")]
    assert Counter(numbers).most_common(1)[0][1] == 1
    assert sorted(numbers) == list(range(min(numbers), min(numbers) + len(numbers)))
