"""The command as a process: Ctrl-C, SIGTERM, kill -9, several at once."""

import asyncio
import re
import signal
import subprocess
from collections import Counter
from pathlib import Path

from batchflow.core.batch import Batch
from batchflow.engine.clock import SystemClock
from batchflow.settings import Settings, open_store
from tests.cli.command_line import CommandLine, wait_for_exit
from tests.stores.redis_server import served
from tests.waiting import wait_until_sync

ALL = [f"user-{n:03}" for n in range(40)]
MANY = {"COUNT": "40", "RATE": "25", "BATCHFLOW_LOG_LEVEL": "WARNING"}
"""Enough items, slowly enough, to be interrupted in the middle."""


def until_done(command: CommandLine, count: int) -> None:
    wait_until_sync(lambda: len(command.done()) >= count, description=f"{count} items are done")


def the_batch() -> Batch:
    async def read() -> Batch:
        store = open_store(Settings.load(url="sqlite:///batchflow.db"), SystemClock())
        await store.open()
        try:
            (found,) = await store.batches()
            return found
        finally:
            await store.close()

    return asyncio.run(read())


def test_ctrl_c_says_that_a_batch_in_memory_is_gone(
    command: CommandLine, processes: list["subprocess.Popen[str]"]
) -> None:
    """There is nothing to go on with."""
    processes.append(run := command.start("run", command.target, **MANY, BATCHFLOW_URL="sqlite://"))
    until_done(command, 5)
    run.send_signal(signal.SIGINT)
    answer = wait_for_exit(run)
    assert (answer.code, answer.err) == (130, "")
    message = answer.out.splitlines()[-1]
    assert re.fullmatch(r"Stopped\. \d+ of 40 items were done; the state was in memory and is lost\.", message)


def test_ctrl_c_and_the_same_command_again_do_every_item_once(
    command: CommandLine, processes: list["subprocess.Popen[str]"]
) -> None:
    """The first stops in good order and says how to go on; the second finishes the batch. Nothing is done twice."""
    processes.append(first := command.start("run", command.target, "-p", "days=3", **MANY))
    until_done(command, 5)
    first.send_signal(signal.SIGINT)
    answer = wait_for_exit(first)
    assert (answer.code, answer.err) == (130, "")
    _, opened, stopping, stopped, again, cancel = answer.out.splitlines()
    assert (id := opened.split()[1]).startswith("bat_")
    assert stopping.startswith("Stopping: running items have 10s to end")
    assert re.fullmatch(r"Stopped\. \d+ of 40 items are done; the rest is released\.", stopped)
    assert re.fullmatch(rf"  resume: \S*batchflow run {command.target} greet -p days=3", again)
    assert re.fullmatch(rf"  cancel: \S*batchflow batches cancel {id}", cancel)
    done = len(command.done())
    assert 5 <= done < 40
    processes.append(second := command.start("run", command.target, "-p", "days=3", **MANY))
    answer = wait_for_exit(second)
    assert answer.code == 0
    assert answer.out.splitlines()[1] == f"Resuming batch {id} of greet: {done} items done so far"
    assert sorted(command.done()) == ALL


def test_kill_and_the_same_command_again_finish_the_batch(
    command: CommandLine, processes: list["subprocess.Popen[str]"]
) -> None:
    """A process that dies loses nothing; at most what was in its hands is executed again."""
    processes.append(first := command.start("run", command.target, **MANY))
    until_done(command, 5)
    first.kill()
    first.wait()
    processes.append(second := command.start("run", command.target, "--json", **MANY))
    document = wait_for_exit(second).document
    assert (document["resumed"], document["state"], document["counts"]["succeeded"]) == (True, "completed", 40)
    times = Counter(command.done())
    assert sorted(times) == ALL
    assert sum(times.values()) <= 40 + 4


def test_other_parameters_are_another_batch(command: CommandLine, processes: list["subprocess.Popen[str]"]) -> None:
    """Only the same request is resumed; the other one's items are left to it."""
    processes.append(first := command.start("run", command.target, **MANY))
    until_done(command, 5)
    first.kill()
    first.wait()
    id = the_batch().id
    answer = command("run", command.target, "-p", "days=3", "--limit", "1")
    assert f"Batch {id} is also open, with other parameters" in answer.out
    for other in (("--limit", "3"), ("--ids", "user-001"), ("--force",)):
        assert "Resuming" not in command("run", command.target, *other).out


def test_sigterm_stops_a_run_with_one_json_document(
    command: CommandLine, processes: list["subprocess.Popen[str]"]
) -> None:
    """A supervisor's signal ends it like Ctrl-C; the exit code is the signal's."""
    processes.append(process := command.start("run", command.target, "--json", **MANY))
    until_done(command, 5)
    process.send_signal(signal.SIGTERM)
    answer = wait_for_exit(process)
    assert answer.code == 143
    assert answer.document["state"] in {"open", "sealed"}
    assert answer.document["message"].startswith("Interrupted after ")


def test_a_second_ctrl_c_leaves_at_once(command: CommandLine, processes: list["subprocess.Popen[str]"]) -> None:
    """Even while a sync hook hangs that the first one waits for."""
    processes.append(process := command.start("run", command.target, HANG="user-002"))
    wait_until_sync((command.folder / "hanging").exists, description="an item hangs")
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    while not process.stdout.readline().startswith("Stopping"):
        pass
    process.send_signal(signal.SIGINT)
    assert wait_for_exit(process).code == 130


def test_stopping_is_bounded(command: CommandLine, processes: list["subprocess.Popen[str]"]) -> None:
    """A hook that never ends does not hold the command for longer than the grace and a little more."""
    processes.append(process := command.start("run", command.target, HANG="user-002", BATCHFLOW_GRACE="200ms"))
    wait_until_sync((command.folder / "hanging").exists, description="an item hangs")
    until_done(command, 11)
    process.send_signal(signal.SIGINT)
    answer = wait_for_exit(process)
    assert answer.code == 130
    assert "Stopped. 11 of 12 items are done" in answer.out


def test_ctrl_c_ends_a_dry_run(command: CommandLine, processes: list["subprocess.Popen[str]"]) -> None:
    """There is nothing to give back, so it simply ends: no traceback, and no waiting for a source that hangs."""
    processes.append(process := command.start("run", command.target, "--dry-run", "-p", "days=1"))
    wait_until_sync((command.folder / "hanging").exists, description="the source hangs")
    process.send_signal(signal.SIGINT)
    answer = wait_for_exit(process)
    assert (answer.code, answer.out, answer.err) == (130, "", "")


def test_a_reader_that_leaves_ends_the_command(command: CommandLine, processes: list["subprocess.Popen[str]"]) -> None:
    """As in `batchflow batches --json | head`: it ends as a process ends by SIGPIPE, and prints no traceback."""
    assert command("run", command.target).code == 0
    processes.append(process := command.start("batches", "--json"))
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(timeout=60) == 128 + signal.SIGPIPE
    assert process.stderr is not None
    assert process.stderr.read() == ""


def test_a_worker_does_what_another_process_has_triggered(
    command: CommandLine, processes: list["subprocess.Popen[str]"]
) -> None:
    """The worker finds the work by itself, and ends in good order."""
    processes.append(worker := command.start("worker", command.target, "--concurrency", "3"))
    assert worker.stdout is not None
    assert worker.stdout.readline() == f"Working for greet at {command.folder}/batchflow.db (new); Ctrl-C stops it\n"
    script = f"import asyncio\nfrom {command.name} import flow, greet\n"
    script += (
        "async def main():\n    await flow.start(worker=False)\n    await greet.trigger()\n    await flow.stop()\n"
    )
    processes.append(trigger := command.start_python(script + "asyncio.run(main())\n"))
    assert wait_for_exit(trigger).code == 0
    wait_until_sync(lambda: the_batch().state == "completed", description="the batch is complete")
    worker.send_signal(signal.SIGTERM)
    answer = wait_for_exit(worker)
    assert answer.code == 0
    assert answer.out == "Stopping: running work has 10s to end\nStopped\n"
    assert sorted(command.done()) == ALL[:12]


def test_cancel_does_not_wait_for_a_dead_worker(command: CommandLine, processes: list["subprocess.Popen[str]"]) -> None:
    """The claims of a killed process are cancelled with the rest."""
    processes.append(process := command.start("run", command.target, HANG="user-002", **MANY))
    wait_until_sync((command.folder / "hanging").exists, description="an item hangs")
    process.kill()
    process.wait()
    answer = command("batches", "cancel", the_batch().id)
    assert (answer.code, the_batch().state) == (0, "cancelled")


def test_looking_on_does_not_disturb(command: CommandLine, processes: list["subprocess.Popen[str]"]) -> None:
    """A batch can be listed while it runs, and cancelled from elsewhere: the run then ends with 1."""
    processes.append(process := command.start("run", command.target, **MANY))
    until_done(command, 3)
    id = the_batch().id
    assert id in command("batches", "--open").out
    assert command("batches", "cancel", id).code == 0
    answer = wait_for_exit(process)
    assert (answer.code, answer.out.splitlines()[2]) == (1, "The batch was cancelled")
    assert len(command.done()) < 40


def test_a_concurrency_that_the_app_sets_itself(command: CommandLine) -> None:
    """An option that could do nothing is refused."""
    file = Path(f"{command.name}.py")
    file.write_text(file.read_text().replace("Batchflow()", "Batchflow(concurrency=7)"))
    answer = command("worker", command.target, "--concurrency", "3")
    assert answer.is_usage_error("sets its concurrency to 7 in code")


def test_lines_tell_of_a_store_that_is_away(
    command: CommandLine, processes: list["subprocess.Popen[str]"], tmp_path: Path
) -> None:
    """While the server is gone; when it is back the batch goes on."""
    with served(tmp_path, "--appendonly", "yes") as server:
        slow = MANY | {"COUNT": "100", "BATCHFLOW_URL": server.url, "BATCHFLOW_LOG_LEVEL": "ERROR"}
        processes.append(run := command.start("run", command.target, **slow))
        until_done(command, 5)
        server.stop()
        assert run.stdout is not None
        line = next(it for it in run.stdout if "; the store is away: redis://" in it)
        assert line.endswith(", trying again\n")
        server.start()
        assert wait_for_exit(run).code == 0
