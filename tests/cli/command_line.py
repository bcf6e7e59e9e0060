"""The command as tests call it: in this process, or as a process of its own."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from batchflow.cli import invoke
from tests.house.sources import ROOT

JOBS = """
import os
import threading
import time
from pathlib import Path

from pydantic import BaseModel

from batchflow import Batchflow, BatchWorkflow, FlowControl, NonRetryable, Page, RetryPolicy

HERE = Path(__file__).parent
COUNT = int(os.environ.get("COUNT", "12"))
RATE = int(os.environ.get("RATE", "0"))
LOCK = threading.Lock()
HOLD = threading.Event()


class Params(BaseModel):
    paid_only: bool = False
    days: int = 7
    tags: list[str] = []


class Greet(BatchWorkflow[Params]):
    entity = "user"
    page_size, chunk_size = 10, 4
    entry_flow = paginate_flow = None
    execute_flow = FlowControl(parallelism=4, rate=RATE) if RATE else None
    retry = RetryPolicy(retries=0)
    walk_first = True

    def fetch(self, params: Params, cursor: str | None, limit: int) -> Page:
        if params.days == 0:
            raise NonRetryable("no days, no users")
        if params.days == 1:
            (HERE / "hanging").touch()
            HOLD.wait(600)
        start, end = int(cursor or 0), COUNT // 2 if params.paid_only else COUNT
        ids = [f"user-{n:03}" for n in range(start, min(end, start + limit))]
        return Page(ids=ids, next_cursor=str(start + limit) if start + limit < end else None)

    def execute(self, user_id: str) -> None:
        if user_id in os.environ.get("FAIL", "").split(","):
            raise NonRetryable(f"no greeting for {user_id}")
        if user_id == os.environ.get("HANG"):
            (HERE / "hanging").touch()
            HOLD.wait(600)
        with LOCK, (HERE / "done.txt").open("a") as done:
            done.write(f"{user_id}\\n")


flow = Batchflow()
greet = flow.add(Greet())
"""

TWO = (
    JOBS
    + """

@flow.batch
async def ping(user_id: str) -> str:
    return user_id
"""
)


def is_utc(text: str) -> bool:
    """True for a time in UTC as JSON documents have it."""
    return text.endswith("Z") and datetime.fromisoformat(text).tzinfo is not None


def column_titles(header: str) -> list[str]:
    """The titles of a table, without the offset of its times."""
    return re.sub(r" [+-]\d{4}\b", "", header).split()


@dataclass(frozen=True, slots=True)
class CommandResult:
    """The exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    def is_usage_error(self, phrase: str) -> bool:
        """True for exit code 2 and an error of one line with this phrase."""
        return self.code == 2 and re.fullmatch(rf"error: .*{re.escape(phrase)}.*\n", self.err) is not None


@dataclass(frozen=True, slots=True)
class CommandLine:
    """Calls the command in a folder of its own; `name` is the module of jobs there."""

    folder: Path
    capture: pytest.CaptureFixture[str]
    name: str

    @property
    def target(self) -> str:
        return f"{self.name}:flow"

    def __call__(self, *arguments: str) -> CommandResult:
        """In this process."""
        self.capture.readouterr()
        code = invoke(arguments)
        written = self.capture.readouterr()
        return CommandResult(code, written.out, written.err)

    def write(self, text: str) -> None:
        """The module of jobs."""
        (self.folder / f"{self.name}.py").write_text(text)

    def start(self, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        """As a process of its own."""
        return self._process(["-m", "batchflow.cli", *arguments], environment)

    def start_python(self, script: str) -> "subprocess.Popen[str]":
        """A Python program in the same folder."""
        return self._process(["-c", script], {})

    def _process(self, arguments: list[str], environment: dict[str, str]) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self.environment(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def environment(self, added: dict[str, str]) -> dict[str, str]:
        """The environment of this process with additions."""
        return os.environ | {"PYTHONPATH": str(ROOT)} | added

    def done(self) -> list[str]:
        """The ids of the items that have been executed, as often as they were."""
        file = self.folder / "done.txt"
        return file.read_text().split() if file.exists() else []


def wait_for_exit(process: "subprocess.Popen[str]", *, within: float = 60) -> CommandResult:
    """Wait for a process; one that goes on is killed, and fails the test."""
    try:
        out, err = process.communicate(timeout=within)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return CommandResult(process.returncode, out, err)
