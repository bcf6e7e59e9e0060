"""Dead letters that are resumed and restarted while their workers are killed: on a file, and on a real Redis server."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command_line import CommandLine, wait_for_exit
from tests.stores.redis_server import served
from tests.waiting import wait_until_sync

JOBS = """
import os
import threading
from pathlib import Path

from batchflow import Batchflow, BatchSummary, BatchWorkflow, NonRetryable, NoParams, Page, RetryPolicy

HERE = Path(__file__).parent


def note(line: str) -> None:
    with (HERE / "notes.txt").open("a") as notes:
        notes.write(line + "\\n")


class Charges(BatchWorkflow[NoParams, str, str]):
    name = "charges"
    entity = "card"
    retry = RetryPolicy.none()
    entry_flow = paginate_flow = execute_flow = None

    def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page(ids=["c0", "c1", "c2", "c3"])

    def load(self, card_id: str) -> str:
        note(f"load {card_id}")
        return card_id

    def execute(self, card: str) -> str:
        note(f"execute {card}")
        if "BROKEN" in os.environ:
            raise NonRetryable(f"{card} is declined")
        if os.environ.get("HANG") == card:
            note("hangs")
            threading.Event().wait(600)
        return card

    def on_complete(self, summary: BatchSummary) -> None:
        if os.environ.get("HANG") == "on_complete":
            note("hangs")
            threading.Event().wait(600)
        note(f"complete {summary.counts.succeeded}")


flow = Batchflow()
charges = flow.add(Charges())
"""


@pytest.fixture(params=["sqlite", "redis"])
def failed(
    request: pytest.FixtureRequest, command: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[CommandLine]:
    """The command beside a batch whose four items are dead letters."""
    command.write(JOBS)
    folder = tmp_path / "redis"
    folder.mkdir()
    with served(folder) as server:
        if request.param == "redis":
            monkeypatch.setenv("BATCHFLOW_URL", server.url)
        assert wait_for_exit(command.start("run", command.target, BROKEN="1")).code == 1
        (command.folder / "notes.txt").unlink()
        yield command


def notes(command: CommandLine) -> list[str]:
    """The lines that the workers have written."""
    file = command.folder / "notes.txt"
    return file.read_text().splitlines() if file.exists() else []


@pytest.mark.parametrize(("verb", "hang"), [("resume", "c2"), ("restart", "c2"), ("resume", "on_complete")])
def test_a_redriven_batch_completes_although_a_worker_is_killed(
    failed: CommandLine, processes: list["subprocess.Popen[str]"], verb: str, hang: str
) -> None:
    """Every item succeeds once, and the next completion is published once; recorded steps are executed once."""
    assert failed("dlq", verb, "--workflow", "charges").out.endswith("4 dead letters\n")
    processes.append(first := failed.start("worker", failed.target, HANG=hang))
    # Each load is recorded before its item is executed.
    under_way = {"hangs", *(f"execute c{number}" for number in range(4))}
    wait_until_sync(lambda: under_way <= set(notes(failed)), description="a hook hangs", timeout=30)
    first.send_signal(signal.SIGKILL)
    first.wait()
    if verb == "resume" and hang == "c2":
        # Of two operators at this moment, the second finds nothing to do.
        assert failed("dlq", "resume", "--workflow", "charges").code == 1
        assert failed("dlq", "delete", "--all", "--yes").code == 1
    processes.append(failed.start("worker", failed.target))
    wait_until_sync(lambda: "complete 4" in notes(failed), description="the batch is complete", timeout=60)
    (batch,) = failed("batches", "--json").document["batches"]
    assert (batch["state"], batch["counts"]["succeeded"], batch["counts"]["failed"]) == ("completed", 4, 0)
    written = notes(failed)
    assert written.count("complete 4") == 1
    loads = [line for line in written if line.startswith("load")]
    assert sorted(loads) == ([] if verb == "resume" else [f"load c{number}" for number in range(4)])
    assert failed("dlq", "--json").document["deadLetters"] == []
