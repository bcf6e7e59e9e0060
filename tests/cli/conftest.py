"""A folder with a module of jobs, and the command called in it."""

import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command_line import JOBS, CommandLine
from tests.cli.functions import FUNCTIONS

# A module that was imported once is not imported again, so every test has one of its own.
NUMBERS = itertools.count(1)


def find_command(name: str) -> str:
    """Every command is in the PATH."""
    return f"/bin/{name}"


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[CommandLine]:
    """The command in an empty folder that holds one module of jobs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr("shutil.which", find_command)
    monkeypatch.delenv("COLUMNS", raising=False)
    for name in ("BATCHFLOW_URL", "BATCHFLOW_LOG_LEVEL", "BATCHFLOW_CONCURRENCY", "BATCHFLOW_WORKER_NAME"):
        # Set first, so that the end of the test also removes what the command sets.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    line = CommandLine(tmp_path, capsys, f"jobs_{next(NUMBERS)}")
    line.write(JOBS)
    yield line
    sys.modules.pop(line.name, None)


@pytest.fixture
def processes(command: CommandLine) -> Iterator[list["subprocess.Popen[str]"]]:
    """The processes of a test, killed at its end."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def shop(command: CommandLine) -> CommandLine:
    """The command beside a module of functions."""
    command.write(FUNCTIONS)
    return command
