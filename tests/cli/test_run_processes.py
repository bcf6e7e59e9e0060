"""Runs over several processes: one works, others trigger, look and notify."""

import json
import re
import signal
import subprocess
from typing import Any

from tests.cli.command_line import CommandLine, wait_for_exit
from tests.cli.functions import FUNCTIONS
from tests.waiting import wait_until_sync

EVENT = "release:held/1"


def waits(command: CommandLine) -> None:
    """Once a run waits for the event."""

    def found() -> bool:
        return bool(command("waiters", EVENT, "--json").document["waiters"])

    wait_until_sync(found, description="a run waits for the event")


def test_a_run_goes_through_four_processes(command: CommandLine, processes: list["subprocess.Popen[str]"]) -> None:
    """A worker does it, and the others come and go."""
    command.write(FUNCTIONS)

    def asked(*arguments: str) -> Any:
        processes.append(process := command.start(*arguments, "--json"))
        answer = wait_for_exit(process)
        assert (answer.code, answer.err) == (0, "")
        return answer.document

    processes.append(worker := command.start("worker", command.target))
    assert worker.stdout is not None
    assert worker.stdout.readline() == (
        f"Working for /count, /orders/ship at {command.folder}/batchflow.db (new); Ctrl-C stops it\n"
    )
    id = asked("runs", "trigger", command.target, "/orders/ship", "-p", "id=held")["workflowRunId"]
    waits(command)
    assert asked("notify", EVENT, '"Ada"')["runIds"] == [id]
    wait_until_sync(lambda: asked("runs", "show", id)["state"] == "completed", description="the run has ended")
    assert asked("runs", "show", id)["result"] == {"released": "Ada"}
    worker.send_signal(signal.SIGTERM)
    assert wait_for_exit(worker).code == 0


def test_ctrl_c_leaves_a_run_to_the_next_worker(command: CommandLine, processes: list["subprocess.Popen[str]"]) -> None:
    """The waiting command stops in good order; the same command continues the run."""
    command.write(FUNCTIONS)
    words = ("runs", "trigger", command.target, "/orders/ship", "-p", "id=held", "--run-id", "order-7", "--wait")
    processes.append(first := command.start(*words))
    wait_until_sync((command.folder / "batchflow.db").exists, description="there is a database")
    waits(command)
    first.send_signal(signal.SIGINT)
    answer = wait_for_exit(first)
    assert (answer.code, answer.out) == (130, "")
    assert re.fullmatch(
        r"Run order-7 of /orders/ship\nStopped\. Run order-7 continues with the next worker\.\n", answer.err
    )
    assert command("notify", EVENT, "1").code == 0
    processes.append(second := command.start(*words))
    assert json.loads(wait_for_exit(second).out) == {"released": 1}
