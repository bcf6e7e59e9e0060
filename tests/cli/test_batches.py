"""`batchflow batches`: list, show and cancel, on the store alone."""

import asyncio
import re
from dataclasses import replace
from pathlib import Path

import pytest

from batchflow.cli.batch_reports import print_batches
from batchflow.cli.output import Output
from batchflow.core.batch import Batch, Canary, Counts, ErrorGroup, NewBatch
from batchflow.core.flow import FlowControl
from batchflow.core.message import Message
from batchflow.engine.clock import SystemClock
from batchflow.settings import Settings, open_store
from tests.cli.command_line import CommandLine, column_titles, is_utc

OPEN = "bat_01hv3k8m0q7y2c9d4e"


async def open_a_batch(workflow: str = "greet", canary: Canary | None = None) -> None:
    """A batch whose entry waits for a worker."""
    store = open_store(Settings.load(), SystemClock())
    flow = FlowControl(key="greet.process")
    batch = NewBatch(id=OPEN, workflow=workflow, execute="/greet/execute-user", flow=flow, label="waiting")
    batch = replace(batch, canary=canary)
    message = Message(id=f"{OPEN}.e", destination="/greet/process-users", flow=flow, batch=OPEN)
    await store.open()
    await store.open_batch(batch, [message])
    await store.close()


def test_a_missing_database_is_not_made(command: CommandLine) -> None:
    """A command that only looks leaves nothing behind."""
    for arguments in ((), ("show", OPEN), ("cancel", OPEN), ("--json",)):
        answer = command("batches", *arguments)
        message = "there is no database 'batchflow.db' here; go to its folder, or name it with --url or BATCHFLOW_URL"
        assert (answer.code, answer.out, answer.err) == (2, "", f"error: {message}\n")
    assert not Path("batchflow.db").exists()


def test_memory_holds_nothing_of_others(command: CommandLine) -> None:
    """The memory of another process cannot be listed."""
    message = "error: 'sqlite://' is the memory of one process; name a file with --url or BATCHFLOW_URL\n"
    assert command("batches", "--url", "sqlite://").err == message


def test_list_is_a_table(command: CommandLine) -> None:
    """Newest first, columns aligned; labels only where there are any."""
    command("run", command.target, "--limit", "5", "--json")
    command("run", command.target, "--json")
    lines = command("batches").out.splitlines()
    assert column_titles(lines[0]) == ["batch", "workflow", "state", "done", "failed", "skipped", "started", "took"]
    assert [line.split()[1:6] for line in lines[1:]] == [
        ["greet", "completed", "7/7", "0", "5"],
        ["greet", "completed", "5/5", "0", "0"],
    ]
    assert all(re.search(r"\d\d-\d\d \d\d:\d\d +\d+m?s$", line) for line in lines[1:])


def test_list_can_be_narrowed(command: CommandLine) -> None:
    """By workflow, by being open, by number; `list` may be written or not."""
    command("run", command.target, "--json")
    asyncio.run(open_a_batch("other"))
    assert OPEN in command("batches", "--open").out
    assert OPEN not in command("batches", "--workflow", "greet").out
    newest, more = command("batches", "list", "--limit", "1").out.splitlines()[1:]
    next_page = command("batches", "list", *more.removeprefix("more: ").split()).out.splitlines()[1:]
    assert len({line.split()[0] for line in (newest, *next_page)}) == 1 + len(next_page)
    assert command("batches", "--workflow", "greet", "--open").out == "No batches\n"


def test_list_can_be_narrowed_to_a_label(command: CommandLine) -> None:
    """As to a workflow."""
    for label in ("first", "second"):
        command("run", command.target, "--label", label)
    found = command("batches", "--label", "first", "--json").document["batches"]
    assert [batch["label"] for batch in found] == ["first"]


def test_list_is_one_json_document(command: CommandLine) -> None:
    """`--json` has every field, by its name on the wire."""
    asyncio.run(open_a_batch())
    (batch,) = command("batches", "--json").document["batches"]
    assert is_utc(batch.pop("createdAt"))
    assert batch.pop("elapsedMs") >= 0
    counts = batch.pop("counts")
    assert set(counts.values()) == {0}
    assert batch == {
        "batchId": OPEN,
        "workflow": "greet",
        "state": "pending",
        "pages": 0,
        "chunks": 0,
        "total": 0,
        "isTotalKnown": False,
        "percent": None,
        "itemsPerSecond": 0.0,
        "etaMs": None,
        "isFinal": False,
        "force": False,
        "paused": False,
        "priority": 0,
        "canary": None,
        "needsApproval": False,
        "stopReason": None,
        "failureBudget": None,
        "label": "waiting",
        "error": None,
        "completionError": None,
        "lastErrors": [],
        "counted": None,
        "waitReason": None,
        "notification": None,
        "retryOf": None,
        "startedAt": None,
        "endedAt": None,
    }


def test_show_says_why_a_batch_waits(command: CommandLine) -> None:
    """In a line of its own, and as code and sentence in the document."""
    asyncio.run(open_a_batch())
    reason = command("batches", "show", OPEN, "--json").document["waitReason"]
    assert reason["code"] == "unserved"
    lines = command("batches", "show", OPEN).out.splitlines()
    assert [line.split(None, 1) for line in lines if line.startswith("waits")] == [["waits", reason["sentence"]]]


def test_the_store_can_be_named_by_the_app(command: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """An app with a store of its own is looked into by its target, or by the URL."""
    command.write("from batchflow import Batchflow\nflow = Batchflow('sqlite:///own.db')\n")
    monkeypatch.setenv("BATCHFLOW_URL", "sqlite:///own.db")
    asyncio.run(open_a_batch())
    monkeypatch.delenv("BATCHFLOW_URL")
    assert OPEN in command("batches", command.target).out
    assert OPEN in command("batches", "--url", "sqlite:///own.db").out


def test_a_workflow_that_the_app_does_not_have(command: CommandLine) -> None:
    """With an app, an unknown workflow is an error."""
    asyncio.run(open_a_batch())
    answer = command("batches", "list", command.target, "--workflow", "nope")
    message = f"error: '{command.target}' has no workflow 'nope'; known are 'greet'\n"
    assert (answer.code, answer.out, answer.err) == (2, "", message)
    assert command("batches", "list", "--workflow", "nope").out == "No batches\n"


def test_show_groups_what_went_wrong(command: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts and state; each kind of error with an example and the user's own lines; the other items once."""
    monkeypatch.setenv("FAIL", "user-003,user-007,user-008")
    id = command("run", command.target, "--json").document["batchId"]
    answer = command("batches", "show", id)
    lines = answer.out.splitlines()
    assert (answer.code, lines[0]) == (0, f"batch       {id}")
    assert lines[2:6] == [
        "state       completed",
        'parameters  {"paidOnly":false,"days":7,"tags":[]}',
        "items       9 succeeded, 3 failed",
        "eligible    12 on 2 pages, 3 chunks",
    ]
    place = lines.index("Errors:")
    assert re.fullmatch(r"  3 items failed.*\.py:\d+ in execute\)", lines[place + 1])
    (example,) = re.findall(r"such as item (\S+) ", answer.out)
    assert f"NonRetryable: no greeting for {example}" in answer.out
    assert f'  File "{command.folder}/{command.name}.py", line' in answer.out
    assert "/batchflow/serve/" not in answer.out
    assert "Other failed items (2):" in lines
    assert len(re.findall(r"^  user-00\d  .*NonRetryable: no greeting", answer.out, re.MULTILINE)) == 2
    assert lines[-1].startswith(f"  one in full: batchflow batches item {id} user-00")
    assert command("batches", "show", id, "--json").document["params"] == {"paidOnly": False, "days": 7, "tags": []}


def test_item_is_shown_by_id_and_by_number(command: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its state, its attempts, its whole error, its steps."""
    monkeypatch.setenv("FAIL", "user-003")
    id = command("run", command.target, "--json").document["batchId"]
    answer = command("batches", "item", id, "user-003")
    assert answer.code == 0
    assert re.search(r"^state +failed$", answer.out, re.MULTILINE)
    assert re.search(r"^attempts +1$", answer.out, re.MULTILINE)
    assert "NonRetryable: no greeting for user-003" in answer.out
    assert f'  File "{command.folder}/{command.name}.py", line' in answer.out
    assert "greet:process-item" in answer.out
    assert command("batches", "item", id, "3").out == answer.out
    document = command("batches", "item", id, "user-003", "--json").document
    assert (document["itemId"], document["batchId"], document["run"]["state"]) == ("user-003", id, "failed")
    done = command("batches", "item", id, "user-004").out
    assert re.search(r"^state +succeeded$", done, re.MULTILINE)
    assert command("batches", "item", id, "user-99").is_usage_error("has started no item 'user-99'")


def test_open_batches_have_their_time_and_trouble(capsys: pytest.CaptureFixture[str]) -> None:
    """How long they have run, how fast, how long they still need, and what is wrong with them."""
    counts = Counts(eligible=100, open=60, succeeded=30, failed=10, retrying=7, parked=2)
    group = ErrorGroup("ConnectError", "jobs.py:4 in execute", 12, 10, "ConnectError: refused", "a", 1, 1)
    batch = Batch(id="bat_a", workflow="greet", state="sealed", counts=counts, errors=(group,), created_at=0)
    ended = Batch(id="bat_b", workflow="greet", state="completed", ended_at=5_000, completion_error="KeyError: 'x'")
    print_batches(Output(), [batch, ended], 20_000)
    _, first, second = capsys.readouterr().out.splitlines()
    assert first.endswith(
        " 20s  2.0/s, 30s to go, 7 retrying: 12 × ConnectError: refused (jobs.py:4 in execute), 2 parked"
    )
    assert second.endswith(" 5s  on_complete failed")


def test_show_is_one_json_document(command: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch's fields, and what failed."""
    monkeypatch.setenv("FAIL", "user-003,user-007")
    id = command("run", command.target, "--json").document["batchId"]
    document = command("batches", "show", id, "--json", "--limit", "1").document
    assert (document["batchId"], document["counts"]["failed"]) == (id, 2)
    assert [item["itemId"] for item in document["failedItems"]] == ["user-003"]
    assert [letter["itemId"] for letter in document["deadLetters"]] == ["user-007"]


def test_cancel_ends_a_batch(command: CommandLine) -> None:
    """Waiting items are cancelled at once; a batch that has ended is an exit code of 1."""
    asyncio.run(open_a_batch())
    answer = command("batches", "cancel", OPEN)
    assert (answer.code, answer.out) == (0, f"Batch {OPEN} is cancelled: no items\n")
    answer = command("batches", "cancel", OPEN)
    assert (answer.code, answer.out) == (1, f"Batch {OPEN} had ended before: it is cancelled\n")


def test_cancel_is_one_json_document(command: CommandLine) -> None:
    """As the HTTP endpoint answers."""
    asyncio.run(open_a_batch())
    document = command("batches", "cancel", OPEN, "--json").document
    assert (document["cancelled"], document["batch"]["state"]) == (True, "cancelled")


def test_pause_and_resume_say_what_has_changed(command: CommandLine) -> None:
    """A batch that was not paused, or has ended, is an exit code of 1."""
    asyncio.run(open_a_batch())
    answer = command("batches", "pause", OPEN)
    sentence = f"Batch {OPEN} is paused (no item is open); go on with: batchflow batches resume {OPEN}\n"
    assert (answer.code, answer.out) == (0, sentence)
    assert "paused" in command("batches", "show", OPEN).out
    assert command("batches", "pause", OPEN, "--json").document["batch"]["paused"]
    answer = command("batches", "resume", OPEN)
    assert (answer.code, answer.out) == (0, f"Batch {OPEN} goes on\n")
    answer = command("batches", "resume", OPEN)
    assert (answer.code, answer.out) == (1, f"Batch {OPEN} was not paused: it is pending\n")
    command("batches", "cancel", OPEN)
    answer = command("batches", "pause", OPEN)
    assert (answer.code, answer.out) == (1, f"Batch {OPEN} had ended before: it is cancelled\n")


def test_approve_says_what_has_changed(command: CommandLine) -> None:
    """A batch that needs no approval is an exit code of 1, with the reason."""
    asyncio.run(open_a_batch(canary=Canary(2)))
    document = command("batches", "approve", OPEN, "--json").document
    assert (document["approved"], document["batch"]["canary"], document["batch"]["needsApproval"]) == (True, 2, False)
    answer = command("batches", "approve", OPEN)
    assert (answer.code, answer.out) == (1, f"Batch {OPEN} needs no approval: it is approved already\n")
    assert command("batches", "approve", "bat_x").is_usage_error("there is no batch 'bat_x'")
    command("batches", "cancel", OPEN)
    answer = command("batches", "approve", OPEN)
    assert (answer.code, answer.out) == (1, f"Batch {OPEN} needs no approval: it is cancelled\n")


def test_priority_says_what_has_changed(command: CommandLine) -> None:
    """Lists and `show` have it where it is not 0; a batch that has ended is an exit code of 1."""
    asyncio.run(open_a_batch())
    assert "priority" not in command("batches").out + command("batches", "show", OPEN).out
    answer = command("batches", "priority", OPEN, "5")
    assert (answer.code, answer.out) == (0, f"Batch {OPEN} has the priority 5\n")
    titles, row = command("batches").out.splitlines()
    assert row[: titles.index("priority") + len("priority")].endswith(" 5")
    assert re.search(r"^priority +5$", command("batches", "show", OPEN).out, re.MULTILINE)
    document = command("batches", "priority", OPEN, "0", "--json").document
    assert (document["changed"], document["batch"]["priority"]) == (True, 0)
    for wrong in ("10", "-1", "high"):
        assert command("batches", "priority", OPEN, wrong).code == 2
    assert command("batches", "priority", "bat_x", "1").is_usage_error("there is no batch 'bat_x'")
    command("batches", "cancel", OPEN)
    answer = command("batches", "priority", OPEN, "1")
    assert (answer.code, answer.out) == (1, f"Batch {OPEN} had ended before: it is cancelled\n")


def test_batches_of_a_label_or_workflow_are_changed_together(command: CommandLine) -> None:
    """Cancelling them needs --yes where nobody can be asked."""
    asyncio.run(open_a_batch())
    assert command("batches", "pause", "--label", "waiting").out == "Paused 1 batch\n"
    assert command("batches", "resume", "--workflow", "greet", "--json").document["resumed"] == 1
    assert command("batches", "pause", "--label", "nobody").is_usage_error("no batch with the label 'nobody' here")
    assert command("batches", "cancel", "--workflow", "greet").is_usage_error("add --yes (Cancel 1 batch with 0 open")
    answer = command("batches", "cancel", "--workflow", "greet", "--yes")
    assert (answer.code, answer.out) == (0, "Cancelled 1 batch\n")
    answer = command("batches", "cancel", "--workflow", "greet")
    assert (answer.code, answer.out) == (1, "Cancelled 0 batches\n")
    answer = command("batches", "cancel", "--workflow", "greeting")
    assert answer.is_usage_error("there is no batch of 'greeting'")


@pytest.mark.parametrize("verb", ["pause", "resume", "cancel"])
def test_batches_to_change_are_named(command: CommandLine, verb: str) -> None:
    """By id or by what they share."""
    asyncio.run(open_a_batch())
    assert command("batches", verb).is_usage_error("no batches are named; give their ids, --label TEXT or --workflow")
    assert command("batches", verb, OPEN, "--label", "x").is_usage_error("ids exclude --label and --workflow")


@pytest.mark.parametrize("verb", ["show", "cancel", "pause", "resume"])
def test_an_unknown_batch(command: CommandLine, verb: str) -> None:
    """The error names the command that lists the batches."""
    asyncio.run(open_a_batch())
    answer = command("batches", verb, "bat_x")
    assert answer.is_usage_error("there is no batch 'bat_x' here")


def test_budget_says_what_has_changed(command: CommandLine) -> None:
    """Without options it is shown; a batch that has ended is an exit code of 1."""
    asyncio.run(open_a_batch())
    answer = command("batches", "budget", OPEN)
    assert (answer.code, answer.out) == (0, f"Batch {OPEN} has no failure budget; 0 items have failed\n")
    answer = command("batches", "budget", OPEN, "--max-failures", "10", "--max-failure-rate", "5%")
    assert answer.code == 0
    assert f"Batch {OPEN} has the failure budget at most 10" in answer.out
    assert re.search("^failure budget +at most 10", command("batches", "show", OPEN).out, re.MULTILINE)
    options = ("--max-failure-rate", "0.1", "--min-items", "7", "--failure-action", "cancel")
    document = command("batches", "budget", OPEN, *options, "--json").document
    found = document["batch"]["failureBudget"]
    assert (document["changed"], found["maxRate"], found["minItems"], found["action"]) == (True, 0.1, 7, "cancel")
    assert "has no failure budget" in command("batches", "budget", OPEN, "--remove").out
    command("batches", "cancel", OPEN)
    answer = command("batches", "budget", OPEN, "--max-failures", "1")
    assert (answer.code, answer.out) == (1, f"Batch {OPEN} had ended before: it is cancelled\n")


def test_a_budget_that_cannot_be_is_a_usage_error(command: CommandLine) -> None:
    """The sentence names the option as the command line spells it."""
    asyncio.run(open_a_batch())
    slips: list[tuple[tuple[str, ...], str]] = [
        (("--max-failure-rate", "5"), "--max-failure-rate"),
        (("--max-failure-rate", "many"), "--max-failure-rate"),
        (("--min-items", "5"), "--max-failures"),
        (("--max-failures", "1", "--min-items", "5"), "--min-items"),
        (("--max-failures", "1", "--failure-action", "stop"), "--failure-action"),
        (("--max-failures", "1", "--remove"), "--remove"),
    ]
    for options, named in slips:
        assert command("batches", "budget", OPEN, *options).is_usage_error(named), options
    assert command("batches", "budget", "bat_x").is_usage_error("there is no batch 'bat_x'")
