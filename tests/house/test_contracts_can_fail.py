"""Every import contract fails when it is broken: a wrong import in a copy of the package is found."""

import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from tests.house.sources import ROOT


@dataclass(frozen=True, slots=True, kw_only=True)
class Offence:
    """A module that imports what the contract forbids; names inside the package begin with a dot."""

    contract: str
    module: str
    imports: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.contract}-{self.module}"

    def forbidden(self) -> list[str]:
        return [f"batchflow{name}" if name.startswith(".") else name for name in self.imports]


OFFENCES = [
    Offence(contract="layers", module="errors", imports=(".core",)),
    Offence(contract="layers", module="core", imports=(".stores", ".wire")),
    Offence(contract="layers", module="stores", imports=(".serve", ".engine", ".wire")),
    Offence(contract="layers", module="wire", imports=(".serve", ".engine", ".stores")),
    Offence(contract="layers", module="serve", imports=(".batch", ".engine")),
    Offence(contract="layers", module="engine", imports=(".batch", ".serve")),
    Offence(contract="layers", module="batch", imports=(".http",)),
    Offence(contract="layers", module="http", imports=(".app", ".settings")),
    Offence(contract="layers", module="settings", imports=(".cli", ".testing")),
    Offence(contract="layers", module="app", imports=(".cli", ".testing")),
    Offence(contract="layers", module="cli", imports=(".testing",)),
    Offence(contract="layers", module="testing", imports=(".cli",)),
    Offence(contract="ports", module="batch", imports=(".engine", ".stores")),
    Offence(contract="ports", module="serve", imports=(".engine", ".stores")),
    Offence(contract="stores", module="stores.redis", imports=(".stores.sqlite",)),
    Offence(contract="stores", module="stores.sqlite", imports=(".stores.redis",)),
    Offence(contract="stores", module="stores.sql", imports=(".stores.redis", ".stores.sqlite")),
    Offence(contract="stores", module="stores.base", imports=(".stores.redis", ".stores.sqlite", ".stores.sql")),
    Offence(contract="dialects", module="stores.sql", imports=("redis", "sqlite3")),
    Offence(contract="redis", module="stores.redis", imports=(".stores.sql", "sqlite3")),
    Offence(
        contract="core",
        module="core",
        imports=("asyncio", "fastapi", "httpx", "logging", "random", "redis", "sqlite3", "structlog", "time"),
    ),
]


def contracts() -> dict[str, str]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = cast(list[dict[str, str]], settings["tool"]["importlinter"]["contracts"])
    return {contract["id"]: contract["name"] for contract in listed}


def copy_of_the_package(folder: Path) -> Path:
    shutil.copy(ROOT / "pyproject.toml", folder)
    shutil.copytree(ROOT / "batchflow", folder / "batchflow", ignore=shutil.ignore_patterns("__pycache__"))
    return folder / "batchflow"


def file_of(module: str, package: Path) -> Path:
    place = package.joinpath(*module.split("."))
    return place / "wrong.py" if place.is_dir() else place.with_suffix(".py")


def commit(offence: Offence, package: Path) -> None:
    for name in offence.imports:
        if name.startswith("."):
            # What is yet to be written stands in as an empty module.
            file_of(name[1:], package).touch()
    lines = "".join(f"import {name}\n" for name in offence.forbidden())
    with file_of(offence.module, package).open("a", encoding="utf-8") as file:
        file.write(f"\n{lines}")


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    script = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    # -P is not given: the copy in the working directory has to win over the installed package.
    return subprocess.run(
        [sys.executable, "-c", script, "--no-cache", "--no-logo"],
        cwd=folder,
        env={"COLUMNS": "200", "NO_COLOR": "1", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_package_keeps_its_contracts(tmp_path: Path) -> None:
    """Without an offence the same run is clean, so that a failure below means what it says."""
    copy_of_the_package(tmp_path)
    run = lint(tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("offence", OFFENCES, ids=str)
def test_an_offence_breaks_its_contract(offence: Offence, tmp_path: Path) -> None:
    """The contract is reported as broken, and each forbidden import is named."""
    commit(offence, copy_of_the_package(tmp_path))
    run = lint(tmp_path)
    assert run.returncode == 1, run.stdout + run.stderr
    assert f"{contracts()[offence.contract]} BROKEN" in run.stdout
    refused = [name for name in offence.forbidden() if f"is not allowed to import {name}:" in run.stdout]
    assert refused == offence.forbidden(), run.stdout


def test_the_package_itself_is_no_way_around(tmp_path: Path) -> None:
    """Importing the public names from below reaches everything above."""
    package = copy_of_the_package(tmp_path)
    file_of("core", package).write_text("from batchflow import Batchflow\n", encoding="utf-8")
    assert f"{contracts()['layers']} BROKEN" in lint(tmp_path).stdout


def test_every_module_has_its_layer(tmp_path: Path) -> None:
    """A new module at the top has to be placed before it can be used."""
    file_of("nowhere", copy_of_the_package(tmp_path)).touch()
    assert f"{contracts()['layers']} BROKEN" in lint(tmp_path).stdout


def test_every_contract_has_an_offence() -> None:
    """A contract that nothing can break is not a contract."""
    assert {offence.contract for offence in OFFENCES} == set(contracts())
