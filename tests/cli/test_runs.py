"""`batchflow runs list`, `show`, `watch` and `cancel`, on the store alone."""

import re
import sys
from pathlib import Path

import pytest

from batchflow.settings import Settings
from tests.cli.command_line import CommandLine, column_titles, is_utc
from tests.cli.functions import FUNCTIONS, trigger_run, work_until


def test_a_missing_database_is_not_made(command: CommandLine) -> None:
    """A command that only looks leaves nothing behind."""
    message = "there is no database 'batchflow.db' here; go to its folder, or name it with --url or BATCHFLOW_URL"
    commands = [("runs",), ("runs", "show", "run_x"), ("runs", "cancel", "run_x"), ("notify", "e"), ("waiters", "e")]
    for arguments in commands:
        answer = command(*arguments)
        assert (answer.code, answer.out, answer.err) == (2, "", f"error: {message}\n")
    assert not Path("batchflow.db").exists()


def test_runs_are_a_table(shop: CommandLine) -> None:
    """The latest first; the next page is said."""
    shop("runs", "trigger", shop.target, "/count", "--payload", "[]", "--wait")
    trigger_run(shop, "a7")
    lines = shop("runs").out.splitlines()
    assert column_titles(lines[0]) == ["run", "function", "state", "created", "took", "label"]
    assert [line.split()[1:3] for line in lines[1:]] == [["/orders/ship", "waiting"], ["/count", "completed"]]
    first, more = shop("runs", "--limit", "1").out.splitlines()[1:]
    assert (first.split(), more.startswith("more: --cursor ")) == (lines[1].split(), True)
    assert shop("runs", "list", "--cursor", more.split()[-1]).out.splitlines()[1].split()[1] == "/count"
    assert "label" not in shop("runs", "--function", "count").out.splitlines()[0]


def test_runs_can_be_narrowed(shop: CommandLine) -> None:
    """By state, function and label; an app names its store."""
    trigger_run(shop, "a7", "--label", "urgent")
    for found in (("--state", "waiting"), ("--function", "/orders/ship"), ("--label", "urgent"), (shop.target,)):
        assert len(shop("runs", "list", *found).out.splitlines()) == 2
    for none in (("--state", "failed"), ("--function", "/count"), ("--label", "shipping")):
        assert shop("runs", *none).out == "No runs\n"


def test_a_function_that_the_app_does_not_serve(shop: CommandLine) -> None:
    """With an app, an unknown function is an error, unless the store has runs of it."""
    trigger_run(shop, "a7")
    for options in ((), ("--json",)):
        answer = shop("runs", "list", shop.target, "--function", "/nope", *options)
        message = f"error: '{shop.target}' serves nothing at '/nope'; known are '/count', '/orders/ship'\n"
        assert (answer.code, answer.out, answer.err) == (2, "", message)
    assert shop("runs", "list", shop.target, "--function", "/count").out == "No runs\n"
    assert shop("runs", "list", "--function", "/nope").out == "No runs\n"
    shop.write("from batchflow import Batchflow\nflow = Batchflow()\n")
    sys.modules.pop(shop.name)
    assert len(shop("runs", "list", shop.target, "--function", "/orders/ship").out.splitlines()) == 2
    answer = shop("runs", "list", shop.target, "--function", "/count")
    assert answer.err == f"error: '{shop.target}' serves nothing at '/count'; it serves no function\n"


def test_runs_are_one_json_document(shop: CommandLine) -> None:
    """`--json` has every field, by its name on the wire."""
    id = trigger_run(shop, "a7")
    document = shop("runs", "--json").document
    (run,) = document.pop("runs")
    assert document == {"nextCursor": None}
    assert is_utc(run.pop("createdAt"))
    assert run == {
        "workflowRunId": id,
        "route": "/orders/ship",
        "state": "waiting",
        "error": None,
        "failures": 0,
        "label": "shipping",
        "parent": None,
        "batchId": None,
        "startedAt": None,
        "endedAt": None,
    }


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--state", "done"), "'state' cannot be 'done'; write one of waiting, running, completed, failed, cancelled"),
        (("--cursor", "x"), "'cursor' cannot be 'x'; write the nextCursor of the page before"),
        (("--cursor", f"{'9' * 30}.x"), f"'cursor' cannot be '{'9' * 30}.x'; write the nextCursor of the page before"),
    ],
)
def test_a_list_that_cannot_be(shop: CommandLine, option: tuple[str, ...], message: str) -> None:
    """One sentence, exit code 2."""
    trigger_run(shop, "a7")
    answer = shop("runs", *option)
    assert answer.is_usage_error(message)


def test_show_has_the_steps(shop: CommandLine) -> None:
    """With their states and times, and how the run ended."""
    id = trigger_run(shop, "held")
    work_until("waiting", id)
    lines = shop("runs", "show", id).out.splitlines()
    assert lines[:4] == [
        f"run       {id} (shipping)",
        "function  /orders/ship",
        "state     waiting",
        'payload   {"id":"held","item_count":1,"tags":[]}',
    ]
    steps = lines[lines.index("Steps:") + 1 :]
    assert steps[0].split() == ["step", "kind", "state", "attempts", "recorded", "after"]
    assert re.fullmatch(r"pack +run +done +1 +\d\d:\d\d:\d\d +(0s|\d+m?s)", steps[1])
    assert steps[2].split() == ["release", "wait", "pending"]
    document = shop("runs", "show", id, "--json").document
    assert [(it["name"], it["attempts"], it["result"]) for it in document["steps"]] == [
        ("pack", 1, "HELD"),
        ("release", None, None),
    ]


def test_show_tells_why_a_run_failed(shop: CommandLine) -> None:
    """In full, from the user's own code on; without steps it says so."""
    shop("runs", "trigger", shop.target, "/orders/ship", "-p", "id=lost", "--run-id", "order-8", "--wait")
    lines = shop("runs", "show", "order-8").out.splitlines()
    place = lines.index("Error:")
    assert lines[place + 1].startswith(f'    File "{shop.folder}/{shop.name}.py", line ')
    assert lines[-2].endswith("NonRetryable: order 'lost' is nowhere")
    assert lines[-1] == "No steps"
    answer = shop("runs", "show", "run_x")
    assert answer.is_usage_error("there is no run 'run_x' here")


def test_watch_tells_the_steps_of_a_run_and_its_end(shop: CommandLine) -> None:
    """With their times; a failed run is an exit code of 1, and its error is told in full."""
    id = trigger_run(shop, "a7")
    work_until("completed", id)
    answer = shop("runs", "watch", id)
    first, pack, end = answer.out.splitlines()
    assert (answer.code, first) == (0, f"Run {id} of /orders/ship (shipping): completed")
    assert re.fullmatch(r"\d\d:\d\d:\d\d  pack: done", pack)
    assert re.fullmatch(r"\d\d:\d\d:\d\d  completed after (0s|\d+m?s)", end)
    assert shop("runs", "watch", id, "--json").document == shop("runs", "show", id, "--json").document
    shop("runs", "trigger", shop.target, "/orders/ship", "-p", "id=lost", "--run-id", "order-8", "--wait")
    answer = shop("runs", "watch", "order-8")
    assert answer.code == 1
    assert answer.out.splitlines()[-1].endswith("NonRetryable: order 'lost' is nowhere")
    assert shop("runs", "watch", "run_x").is_usage_error("there is no run 'run_x'")


def test_watch_follows_a_run_while_it_works(shop: CommandLine) -> None:
    """It says that nobody serves the run, until somebody does."""
    id = trigger_run(shop, "a7")
    with shop.start("runs", "watch", id) as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline() == f"Run {id} of /orders/ship (shipping): waiting\n"
        assert "it waits: nobody serves '/orders/ship'" in watching.stdout.readline()
        work_until("completed", id)
        *_, end = watching.stdout.read().splitlines()
    assert "completed after" in end
    assert watching.returncode == 0


def test_show_cuts_what_is_long(shop: CommandLine) -> None:
    """`--json` has all of it."""
    id = trigger_run(shop, "x" * 1_000)
    assert max(map(len, shop("runs", "show", id).out.splitlines())) < 600
    assert shop("runs", "show", id, "--json").document["payload"]["id"] == "x" * 1_000


def test_cancel_ends_a_run(shop: CommandLine) -> None:
    """A waiting run ends at once; a run that has ended is an exit code of 1."""
    id = trigger_run(shop, "a7")
    answer = shop("runs", "cancel", id)
    assert (answer.code, answer.out) == (0, f"Run {id} is cancelled\n")
    answer = shop("runs", "cancel", id)
    assert (answer.code, answer.out) == (1, f"Run {id} had ended before: it is cancelled\n")
    document = shop("runs", "cancel", id, "--json").document
    assert (document["cancelled"], document["runs"][0]["state"]) == (0, "cancelled")


def test_cancel_ends_many_runs(shop: CommandLine) -> None:
    """By ids, by label, by function; the exit code says whether there were any."""
    ids = [trigger_run(shop, "a7", "--label", label) for label in ("a", "a", "b", "c")]
    shop("runs", "cancel", ids[0])
    assert shop("runs", "cancel", *ids[:2]).out == "Cancelled 1 run; 1 had ended before\n"
    assert shop("runs", "cancel", "--label", "b", "--json").document == {"success": True, "cancelled": 1}
    assert shop("runs", "cancel", "--function", "/orders/ship").out == "Cancelled 1 run\n"
    for none, what in ((("--label", "b"), "of that label, runs and batches"), (("--function", "/orders/ship"), "runs")):
        answer = shop("runs", "cancel", *none)
        assert (answer.code, answer.out) == (1, f"Cancelled 0 {what}\n")
    answer = shop("runs", "cancel", "--function", "nope")
    assert (answer.code, answer.out) == (1, "Cancelled 0 runs: this store has no run of '/nope'\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no runs to cancel"),
        (("run_x", "--label", "a"), "ids exclude --label and --function"),
        (("{id}", "run_x"), "there is no run 'run_x' here"),
    ],
)
def test_cancel_has_to_be_said_rightly(shop: CommandLine, arguments: tuple[str, ...], message: str) -> None:
    """Nothing is cancelled then."""
    id = trigger_run(shop, "a7")
    answer = shop("runs", "cancel", *(it.format(id=id) for it in arguments))
    assert answer.is_usage_error(message)
    assert shop("runs", "show", id, "--json").document["state"] == "waiting"


def test_the_store_can_be_named(shop: CommandLine) -> None:
    """By its URL, with every command that needs no module; the trigger says so."""
    shop.write(FUNCTIONS.replace("Batchflow()", "Batchflow('sqlite:///own.db')"))
    said = shop("runs", "trigger", shop.target, "/orders/ship", "-p", "id=a7").out
    assert said.endswith(" --url sqlite:///own.db\n")
    id = said.split()[1]
    where = ("--url", "sqlite:///own.db")
    assert id in shop("runs", *where).out
    assert id in shop("runs", "list", shop.target).out
    assert shop("waiters", "e", *where).code == 0
    assert shop("notify", "e", "--run", id, *where).code == 0
    assert shop("runs", "cancel", id, *where).code == 0
    assert Settings.load().url == "sqlite:///batchflow.db"
