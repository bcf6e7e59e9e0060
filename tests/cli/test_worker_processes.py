"""`batchflow worker` as processes: several of them, kept at work and stopped together; on Redis and on a file."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from batchflow.core.flow import FlowControl
from batchflow.core.message import Claim
from batchflow.engine.clock import SystemClock
from batchflow.settings import Settings, open_store
from tests.cli.command_line import JOBS, CommandLine, wait_for_exit
from tests.stores.redis_server import Server, served
from tests.waiting import wait_until_sync

SLOW = {"COUNT": "200", "RATE": "20", "BATCHFLOW_LOG_LEVEL": "WARNING"}
TRIGGER = "await flow.start(worker=False); await greet.trigger(); await flow.stop()"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Server]:
    """A server of the test's own, which BATCHFLOW_URL names."""
    folder = tmp_path / "redis"
    folder.mkdir()
    with served(folder) as started:
        monkeypatch.setenv("BATCHFLOW_URL", started.url)
        yield started


def trigger(command: CommandLine, **environment: str) -> None:
    script = f"import asyncio\nfrom {command.name} import flow, greet\nasync def main(): {TRIGGER}\nasyncio.run(main())"
    subprocess.run(
        [sys.executable, "-c", script], cwd=command.folder, env=command.environment(environment), check=True, timeout=60
    )


def workers(command: CommandLine) -> list[Any]:
    return command("workers", "--json").document["workers"]


def pids(command: CommandLine) -> list[int]:
    """The processes of the workers there are, which their names tell."""
    return [int(it["name"].split("-")[-2]) for it in workers(command)]


def until_work(command: CommandLine, count: int) -> list[int]:
    """The processes of so many workers, once they are there."""
    found: list[int] = []

    def there() -> bool:
        found[:] = pids(command)
        return len(found) == count

    wait_until_sync(there, description=f"{count} workers are known", timeout=30)
    return found


def until_one_is_left(command: CommandLine) -> None:
    """Of four items, in the hands of the one worker."""

    def so() -> bool:
        states = [(it["state"], it["held"]) for it in workers(command)]
        return len(command.done()) == 3 and states == [("working", 1)]

    wait_until_sync(so, description="all others are done", timeout=30)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def left(url: str) -> list[Claim]:
    """The remaining work of the items."""

    async def claim() -> list[Claim]:
        store = open_store(Settings.load(url=url), SystemClock())
        await store.open()
        await store.register("next", 60_000)
        # A limit on the rate would give out one at a time.
        await store.pin(FlowControl(key="greet.execute", rate=1_000_000))
        claimed = await store.claim("next", ["/greet/execute-user"], 1_000)
        await store.deregister("next")
        await store.close()
        return list(claimed.claims)

    return asyncio.run(claim())


def expect_line(process: "subprocess.Popen[str]", text: str) -> None:
    """Read the output of a process up to this line."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line == text, line


def test_processes_share_the_work_and_one_that_is_killed_is_replaced(
    command: CommandLine, processes: list["subprocess.Popen[str]"], server: Server
) -> None:
    """Workers have different names. At SIGTERM all stop in good order and release their claims."""
    trigger(command, **SLOW)
    options = ("--processes", "2", "--concurrency", "5", "--name", "mail")
    processes.append(supervisor := command.start("worker", command.target, *options, **SLOW))
    place = f"{server.url}/0, namespace 'batchflow'"
    expect_line(supervisor, f"Working for greet at {place} with 2 processes; Ctrl-C stops them\n")
    first, second = until_work(command, 2)
    assert {(it["name"].split("-")[0], it["concurrency"]) for it in workers(command)} == {("mail", 5)}
    wait_until_sync(lambda: len(command.done()) > 5, description="items are done")
    os.kill(first, signal.SIGKILL)
    # The killed one is known until its lease ends: whoever holds claims is not forgotten before.
    others = set(until_work(command, 3)) - {first, second}
    assert len(others) == 1
    supervisor.send_signal(signal.SIGTERM)
    answer = wait_for_exit(supervisor)
    assert (answer.code, answer.out) == (0, "Stopping: running work has 10s to end\nStopped\n")
    assert f"A worker process ended; another one takes its place process={first} how=SIGKILL " in answer.err
    assert all(gone(pid) for pid in (first, second, *others))
    assert set(pids(command)) <= {first}


def test_a_worker_that_stops_gives_its_claims_back_without_an_attempt(
    command: CommandLine, processes: list["subprocess.Popen[str]"], server: Server
) -> None:
    """Within the grace and a little more, though a hook hangs: whoever comes next finds them as they were."""
    hanging = {"COUNT": "4", "HANG": "user-002", "BATCHFLOW_GRACE": "300ms"}
    trigger(command, **hanging)
    processes.append(worker := command.start("worker", command.target, **hanging))
    until_one_is_left(command)
    worker.send_signal(signal.SIGTERM)
    assert wait_for_exit(worker, within=15).code == 0
    assert workers(command) == []
    assert [(claim.item, claim.failures, claim.losses, claim.fence) for claim in left(server.url)] == [
        ("user-002", 0, 0, 2)
    ]


def test_a_killed_worker_is_lost_until_its_claims_are_taken_back(
    command: CommandLine, processes: list["subprocess.Popen[str]"]
) -> None:
    """On a file its lock tells at once; the next worker takes them back when it starts, and it is no longer listed."""
    hanging = {"COUNT": "4", "HANG": "user-002"}
    trigger(command, **hanging)
    processes.append(worker := command.start("worker", command.target, **hanging))
    until_one_is_left(command)
    worker.kill()
    worker.wait()
    assert [(it["state"], it["held"]) for it in workers(command)] == [("lost", 1)]
    processes.append(another := command.start("worker", command.target, COUNT="4"))
    wait_until_sync(lambda: len(command.done()) == 4, description="the item is done by another one")
    assert pids(command) == [another.pid]


def test_processes_end_with_their_supervisor(command: CommandLine, processes: list["subprocess.Popen[str]"]) -> None:
    """However that ends; they stop in good order."""
    trigger(command)
    processes.append(supervisor := command.start("worker", command.target, "--processes", "2"))
    found = until_work(command, 2)
    supervisor.kill()
    supervisor.wait()
    wait_until_sync(lambda: all(gone(pid) for pid in found), description="the processes are gone")
    assert workers(command) == []


def test_a_second_signal_ends_all_processes_at_once(
    command: CommandLine, processes: list["subprocess.Popen[str]"]
) -> None:
    """Even while one of them waits for a hook that hangs; the exit code is the signal's."""
    trigger(command, HANG="user-002")
    processes.append(supervisor := command.start("worker", command.target, "--processes", "2", HANG="user-002"))
    wait_until_sync((command.folder / "hanging").exists, description="an item hangs")
    found = pids(command)
    supervisor.send_signal(signal.SIGINT)
    place = command.folder / "batchflow.db"
    expect_line(supervisor, f"Working for greet at {place} with 2 processes; Ctrl-C stops them\n")
    expect_line(supervisor, "Stopping: running work has 10s to end\n")
    supervisor.send_signal(signal.SIGINT)
    assert wait_for_exit(supervisor).code == 130
    wait_until_sync(lambda: all(gone(pid) for pid in found), description="the processes are gone")


def test_processes_that_cannot_work_end_all(command: CommandLine) -> None:
    """They are not restarted; the exit code and the error are theirs."""
    broken = "import sys\nif 'batchflow.cli.worker_process' in sys.orig_argv: raise ValueError('not here')\n"
    command.write(broken + JOBS)
    answer = wait_for_exit(command.start("worker", command.target, "--processes", "2"))
    assert answer.code == 2
    message = f"error: importing '{command.name}' failed: ValueError: not here ({command.name}.py, line 2)\n"
    assert set(answer.err.splitlines(keepends=True)) == {message}


def test_processes_that_die_are_started_again_more_and_more_seldom(
    command: CommandLine, processes: list["subprocess.Popen[str]"]
) -> None:
    """After half a second, a second, and so on; a stop does not wait for that."""
    dying = "import os, sys\nif 'batchflow.cli.worker_process' in sys.orig_argv: os._exit(7)\n"
    command.write(dying + JOBS)
    processes.append(supervisor := command.start("worker", command.target, "--processes", "2"))
    assert supervisor.stderr is not None
    lines = [supervisor.stderr.readline() for _ in range(6)]
    waits = sorted(line.partition("starts_in=")[2].strip() for line in lines)
    assert waits == ["1s", "1s", "2s", "2s", "500ms", "500ms"]
    assert all("how='exit code 7'" in line for line in lines)
    supervisor.send_signal(signal.SIGTERM)
    assert wait_for_exit(supervisor).code == 0
