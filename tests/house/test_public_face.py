"""What `import batchflow` gives, and what it leaves alone."""

import subprocess
import sys
from collections.abc import Iterable
from types import ModuleType

import pytest

import batchflow
from tests.house.sources import ROOT

AT_MOST = 25
NOT_IMPORTED = (
    *("batchflow.cli", "batchflow.testing", "fastapi", "httpx", "pydantic_settings", "redis", "rich", "sqlite3"),
    *("structlog", "typer", "uvicorn", "uvloop"),
    # Of the standard library and others, what only some calls need: together a tenth of the import.
    *("email", "http.client", "http.cookiejar", "json", "more_itertools", "tempfile", "urllib.request"),
)


def public(names: Iterable[str]) -> set[str]:
    return {name for name in names if not name.startswith("_")}


def test_all_is_sorted() -> None:
    """The list is in the order in which one looks a name up."""
    assert list(batchflow.__all__) == sorted(batchflow.__all__)


def test_all_lists_every_public_name() -> None:
    """What can be reached is what is promised; modules are reached by importing them."""
    names = [name for name, value in vars(batchflow).items() if not isinstance(value, ModuleType)]
    assert public(names) == public(batchflow.__all__)


def test_the_face_is_small() -> None:
    """A newcomer can read the whole list."""
    assert len(batchflow.__all__) <= AT_MOST


@pytest.fixture(scope="module")
def imported() -> frozenset[str]:
    script = "import sys, batchflow; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    return frozenset(run.stdout.split())


@pytest.mark.parametrize("module", NOT_IMPORTED)
def test_importing_batchflow_leaves_alone(module: str, imported: frozenset[str]) -> None:
    """Whoever does not use a server, an engine or the command does not pay for it at import."""
    assert module not in imported
