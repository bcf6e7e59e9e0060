"""Text from outside: in a terminal it stays text, and a JSON document stays one document."""

import json
import sys

import pytest

from batchflow.cli.output import Output, print_pairs, print_table
from batchflow.logs import CONTROLS, escape_controls
from tests.cli.command_line import CommandLine, wait_for_exit

EVIL = "u1\n2030-01-01 00:00:00 [info     ] forged line\x1b[2J\x1b]0;pwned\x07\x9b31m\u202e[red]"

JOBS = """
from batchflow import Batchflow, RetryPolicy, WorkflowContext

flow = Batchflow()
EVIL = {evil!r}


@flow.batch(ids=[EVIL], flow=None, retry=RetryPolicy.none())
async def mail(user: str) -> str:
    raise ValueError(f"no user {{user}}")


@flow.serve("/f", retries=0)
async def f(ctx: WorkflowContext[str]) -> str:
    await ctx.run(f"look for {{EVIL}}", str, "x")
    raise ValueError("no " + ctx.payload)
"""

NOISY = """
import atexit
import ctypes
import os
import subprocess
import sys

from batchflow import Batchflow, WorkflowContext

print("loaded")
flow = Batchflow()


def shout() -> None:
    print("print")
    sys.stdout.write("write\\n")
    os.write(1, b"descriptor\\n")
    subprocess.run(["echo", "child"])
    ctypes.CDLL(None).puts(b"library")


@flow.batch(ids=["a"])
def job(item: str) -> str:
    shout()
    return item


@flow.serve("/f")
async def f(ctx: WorkflowContext[None]) -> str:
    return await ctx.run("shout", str, shout() or "done")


atexit.register(shout)
"""

SHOUTS = {"loaded", "print", "write", "descriptor", "child", "library"}


def is_clean(text: str) -> bool:
    """True if a terminal shows the text as it is, line by line."""
    return not CONTROLS.search(text.replace("\n", "")) and not any(line.startswith("2030") for line in text.split("\n"))


def test_control_characters_of_a_batch_reach_no_terminal(command: CommandLine) -> None:
    """Ids, labels and errors in lists, in details and in the summary: escaped, and markup is not rendered."""
    command.write(JOBS.format(evil=EVIL))
    ended = command("run", command.target, "--label", "lab\x1b[31mel\x07")
    assert is_clean(ended.out)
    id = ended.out.splitlines()[1].split()[1]
    for words in (("batches",), ("batches", "show", id), ("runs",), ("runs", "show", f"{id}.r000000000")):
        shown = command(*words)
        assert (shown.code, is_clean(shown.out + shown.err)) == (0, True), words
    assert r"u1\n2030-01-01 00:00:00" in ended.out
    assert r"\x1b[2J" in ended.out
    assert "[red]" in ended.out


def test_control_characters_of_a_run_reach_no_terminal(command: CommandLine) -> None:
    """Payload, error, step and event."""
    command.write(JOBS.format(evil=EVIL))
    failed = command("runs", "trigger", command.target, "--payload", json.dumps(EVIL), "--run-id", "run_a", "--wait")
    assert (failed.code, is_clean(failed.out)) == (1, True)
    assert is_clean(failed.err.splitlines()[-1])
    shown = command("runs", "show", "run_a")
    assert (shown.code, is_clean(shown.out)) == (0, True)
    waiters = command("waiters", "x\x1b[31m")
    assert is_clean(waiters.out + waiters.err)


def test_control_characters_of_a_document_are_json_escapes(command: CommandLine) -> None:
    """A document in a terminal is as harmless as a table, and reads back to the same text."""
    command.write(JOBS.format(evil=EVIL))
    id = command("run", command.target, "--json").document["batchId"]
    shown = command("batches", "show", id, "--json")
    assert is_clean(shown.out)
    assert shown.document["failedItems"][0]["itemId"] == EVIL


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("Grüße, 世界 👩‍💻", "Grüße, 世界 👩‍💻"),
        ("a\tb\r\n", r"a\tb\r\n"),
        ("\x1b[31m\x9b", r"\x1b[31m\x9b"),
        ("\u202eabc\u2028\ud800", r"\u202eabc\u2028\ud800"),
    ],
)
def test_escape_touches_controls_alone(text: str, escaped: str) -> None:
    """Letters of all scripts stay."""
    assert escape_controls(text) == escaped


def test_tables_stay_straight_with_wide_letters(capsys: pytest.CaptureFixture[str]) -> None:
    """A letter of two columns counts for two."""
    print_table(Output(), ["id", "n"], [["世界", "1"], ["a", "2"]], ["", ""])
    print_pairs(Output(), {"世界": "1", "a": "2"})
    assert capsys.readouterr().out.splitlines() == ["id    n", "世界  1", "a     2", "世界  1", "a     2"]


@pytest.mark.parametrize("words", [("run", "--json"), ("runs", "trigger", "--wait")], ids=" ".join)
def test_document_is_alone_on_stdout(command: CommandLine, words: tuple[str, ...]) -> None:
    """Whatever hooks, libraries in C, children of the process and its exit print goes to stderr."""
    command.write(NOISY)
    *verb, option = words
    answer = wait_for_exit(command.start(*verb, command.target, option))
    assert answer.code == 0
    assert answer.document == "done" if option == "--wait" else answer.document["success"]
    assert set(answer.err.split()) >= SHOUTS


def test_document_goes_to_the_stream_that_the_caller_has_set(command: CommandLine) -> None:
    """Commands that a program calls leave its stdout as it was."""
    command.write(JOBS.format(evil="u1") + "\nprint('loaded')\n")
    answer = command("run", command.target, "--json")
    assert (answer.document["success"], "loaded" in answer.err) == (False, True)
    sys.stdout.write("afterwards\n")
    assert command.capture.readouterr().out == "afterwards\n"
