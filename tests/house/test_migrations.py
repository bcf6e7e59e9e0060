"""Migrations are numbered without gaps, and no two have the same number: one of them would never run."""

import pytest

from batchflow.stores.redis.keys import FIRST_SCHEMA, SCHEMA
from tests.house.sources import ROOT

STORES = {"sqlite/migrations/*.sql": FIRST_SCHEMA, "redis/lua/migrations/*.lua": FIRST_SCHEMA + 1}


def numbers(pattern: str) -> list[int]:
    """The numbers of the migrations of a store."""
    return sorted(int(path.name[:4]) for path in (ROOT / "batchflow" / "stores").glob(pattern))


@pytest.mark.parametrize("pattern", STORES)
def test_migrations_have_one_number_each(pattern: str) -> None:
    """From that of the first schema on."""
    found = numbers(pattern)
    assert found == list(range(STORES[pattern], STORES[pattern] + len(found)))


def test_the_latest_migration_of_redis_leads_to_its_schema() -> None:
    """A namespace of an older schema gets there."""
    assert numbers("redis/lua/migrations/*.lua")[-1] == SCHEMA


def test_the_changelog_names_the_schemas() -> None:
    """Those of both stores, as operators read them."""
    sqlite, redis = (numbers(pattern)[-1] for pattern in STORES)
    assert f"schema {sqlite} of SQLite, {redis} of Redis" in (ROOT / "CHANGELOG.md").read_text()
