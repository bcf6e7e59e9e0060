"""Who can read the files of the SQLite store."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from batchflow.stores.sqlite import SqliteStore
from batchflow.testing.clock import ManualClock
from tests.conformance.scene import LEASE_MS


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "batchflow.db")


@asynccontextmanager
async def opened(path: str) -> AsyncGenerator[SqliteStore]:
    store = SqliteStore(path, clock=ManualClock())
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def modes(path: str) -> dict[str, str]:
    """The mode of the file, and of the files beside it."""
    found = Path(path).parent.glob(f"{Path(path).name}*")
    return {it.name.removeprefix(Path(path).name)[:7]: oct(it.stat().st_mode & 0o777) for it in found}


async def test_files_that_are_created_are_for_their_owner_alone(path: str) -> None:
    """The database, what SQLite writes beside it and the locks of workers, whatever the umask; the folder stays."""
    before, folder = os.umask(0), Path(path).parent.stat().st_mode
    try:
        async with opened(path) as store:
            await store.register("w", LEASE_MS)
            assert modes(path) == dict.fromkeys(("", "-wal", "-shm", "-worker"), "0o600")
    finally:
        os.umask(before)
    assert Path(path).parent.stat().st_mode == folder


async def test_a_file_that_exists_keeps_its_mode(path: str) -> None:
    """Somebody has chosen it, as for the members of a group; what is written beside it has the same."""
    async with opened(path):
        pass
    Path(path).chmod(0o640)
    async with opened(path):
        assert modes(path) == dict.fromkeys(("", "-wal", "-shm"), "0o640")
