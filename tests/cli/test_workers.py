"""`batchflow workers`, and what `batchflow worker` takes."""

import asyncio
import re
from collections.abc import Generator
from pathlib import Path

import pytest

from batchflow.core.flow import FlowControl
from batchflow.core.message import Message
from batchflow.engine.clock import SystemClock
from batchflow.settings import Settings, open_store
from tests.cli.command_line import JOBS, CommandLine, column_titles, is_utc, wait_for_exit
from tests.conformance.scene import renewed

FREE = FlowControl(key="free")


@pytest.fixture
def working(command: CommandLine) -> Generator[None]:
    """Two workers in another process, so to say: one holds three messages, the other one's lease has ended."""
    store = open_store(Settings.load(url="sqlite:///batchflow.db"), SystemClock())

    async def work() -> None:
        await store.open()
        await store.register("mail-2", 60_000, 100)
        await store.register("mail-1", 0)
        await store.publish([Message(id=id, destination="/mail", flow=FREE) for id in ("a", "b")])
        await store.publish([Message(id="c", destination="/post", flow=FREE)])
        await store.claim("mail-2", ["/mail", "/post"], 10)

    with asyncio.Runner() as runner:
        runner.run(work())
        yield
        runner.run(store.close())


@pytest.mark.usefixtures("working")
def test_workers_are_listed_with_what_they_hold(command: CommandLine) -> None:
    """By name: since when, how long ago each was heard of, how much of what it holds; who is lost."""
    header, lost, works = command("workers").out.splitlines()
    assert column_titles(header) == ["worker", "since", "heartbeat", "holds"]
    moment = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    assert re.fullmatch(rf"mail-1 +{moment} +lost, \d+s ago +0", lost), lost
    assert re.fullmatch(rf"mail-2 +{moment} +\d+s ago +3 of 100 +/mail 2, /post 1", works), works


@pytest.mark.usefixtures("working")
def test_workers_are_listed_as_json(command: CommandLine) -> None:
    """One document; times are ISO 8601."""
    lost, works = command("workers", "--json").document["workers"]
    assert (lost["name"], lost["state"], lost["concurrency"]) == ("mail-1", "lost", None)
    assert (lost["held"], lost["holds"]) == (0, {})
    assert (works["name"], works["state"], works["concurrency"]) == ("mail-2", "working", 100)
    assert (works["held"], works["holds"]) == (3, {"/mail": 2, "/post": 1})
    for name in ("since", "seenAt", "leaseUntil"):
        assert is_utc(works[name])


@pytest.mark.parametrize(("count", "message"), [(1, "1 thread hangs"), (2, "2 threads hang")])
def test_threads_that_hang_are_shown(command: CommandLine, count: int, message: str) -> None:
    """Beside what the worker holds."""
    store = open_store(Settings.load(url="sqlite:///batchflow.db"), SystemClock())

    async def work() -> None:
        await store.open()
        await store.register("mail", 60_000, 100)
        await renewed(store, "mail", 60_000, (), count)

    with asyncio.Runner() as runner:
        runner.run(work())
        assert command("workers").out.splitlines()[1].endswith(f"0 of 100, {message}")
        assert command("workers", "--json").document["workers"][0]["hanging"] == count
        runner.run(store.close())


def test_a_store_without_workers(command: CommandLine) -> None:
    """The file has to be there."""
    assert command("workers").code == 2
    command("run", command.target, "--limit", "1")
    assert command("workers").out == "No workers\n"
    assert command("workers", "--json").document == {"workers": [], "unserved": []}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--concurrency", "3"), "'{target}' sets its concurrency to 7"),
        (("--processes", "2", "--concurrency", "3"), "'{target}' sets its concurrency to 7"),
        (
            ("--name", "my worker"),
            "(BATCHFLOW_WORKER_NAME) cannot be 'my worker'",
        ),
        (
            ("--processes", "0"),
            "'--processes' cannot be '0'; write a whole number of 1 or more",
        ),
    ],
)
def test_options_that_cannot_be(
    command: CommandLine, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], message: str
) -> None:
    """An option that could do nothing is refused, before there is a process."""
    # What the options set there is put back at the end.
    monkeypatch.setenv("BATCHFLOW_CONCURRENCY", "7")
    monkeypatch.setenv("BATCHFLOW_WORKER_NAME", "x")
    command.write(JOBS.replace("Batchflow()", "Batchflow(concurrency=7)"))
    answer = command("worker", command.target, *options)
    assert answer.is_usage_error(message.format(target=command.target))
    assert answer.out == ""


def test_processes_need_a_store_that_they_share(command: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store in memory cannot be shared."""
    monkeypatch.setenv("BATCHFLOW_URL", "sqlite://")
    answer = command("worker", command.target, "--processes", "2")
    message = "error: 'sqlite://' is the memory of one process; name a file, or leave --processes out\n"
    assert (answer.code, answer.err) == (2, message)


def test_a_store_that_is_wrong_is_told_once(command: CommandLine) -> None:
    """By the process that would start the others."""
    Path("batchflow.db").write_text("this is no database")
    answer = wait_for_exit(command.start("worker", command.target, "--processes", "3"))
    message = "error: 'batchflow.db' is not a SQLite database, or is damaged; name another file\n"
    assert (answer.code, answer.out, answer.err) == (2, "", message)
