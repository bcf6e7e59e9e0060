"""What is told to somebody who has written something else than what works: one sentence, exit code 2, no traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.command_line import JOBS, TWO, CommandLine
from tests.house.sources import ROOT

TARGETS = {
    "nowhere:flow": "there is no module 'nowhere' here; run the command in the folder that holds it",
    "nowhere.jobs:flow": "there is no module 'nowhere' here; run the command in the folder that holds it",
    "{name}": "'{name}' names a module and no attribute; write {name}:flow",
    "{name}:flw": "the module '{name}' has no 'flw'; did you mean 'flow'?",
    "{name}:greet": "'{name}:greet' is no Batchflow but a Workflow; write {name}:flow",
    "{name}.py:flow": "'{name}.py:flow' names no module; write MODULE:ATTR with dots, such as app.jobs:flow",
    "./{name}:flow": "'./{name}:flow' names no module; write MODULE:ATTR with dots, such as app.jobs:flow",
    ":flow": "':flow' names no module; write MODULE:ATTR with dots, such as app.jobs:flow",
}

ARGUMENTS = {
    ("greeet",): "'{target}' has no workflow 'greeet'; there is 'greet'",
    ("-p", "paidonly=true"): "unknown parameter 'paidonly' of 'greet'; did you mean 'paidOnly'?",
    ("-p", "zzz=1"): "unknown parameter 'zzz' of 'greet'; known are 'days', 'paidOnly', 'tags'",
    ("-p", "limit=3"): "'limit' is no parameter of 'greet' but an option: --limit",
    ("-p", "days"): "'-p days' is no parameter; write -p name=value",
    ("-p", "days=1", "-p", "days=2"): "the parameter 'days' is given twice; give it once, a list as JSON: "
    "-p days='[…]'",
    ("-p", "days=soon"): "'days' does not fit: Input should be a valid integer, unable to parse string as an integer",
    ("-p", "paid_only=perhaps"): "'paidOnly' does not fit: Input should be a valid boolean, unable to interpret input",
    ("-p", "tags=a"): "'tags' does not fit: Input should be a valid array",
    ("-p", 'tags={"a": 1}'): "'tags' does not fit: Input should be a valid array",
    ("--params", "[1]"): "--params is a JSON object such as '{{\"paidOnly\": true}}', not [1]",
    ("--params", '{"dayz": 1}'): "unknown parameter 'dayz' of 'greet'; did you mean 'days'?",
    ("--params", "days=1"): "--params is no JSON: expected value at line 1 column 1",
    ("--ids", ","): "--ids names nothing; write --ids a,b",
    ("--ids", "a,b,a"): "'ids' names 'a' twice; an item runs once per batch",
    ("--ids", "a", "--limit", "1"): "--ids and --limit exclude each other; name fewer ids",
    ("--dry-run", "--ids", "a"): "--dry-run counts what the workflow's source names; leave --ids out",
    ("--dry-run", "--limit", "1"): "--dry-run counts everything; leave --limit out",
    ("--dryrun",): "no such option: --dryrun (Possible options: --dry-run); see 'batchflow run --help'",
    ("--limit", "0"): "invalid value for '--limit': Input should be greater than or equal to 1; "
    "see 'batchflow run --help'",
}

BROKEN = {
    "def f(:\n": "SyntaxError: invalid syntax ({name}.py, line 1)",
    "import json\n\njson.loads('')\n": "JSONDecodeError: Expecting value: line 1 column 1 (char 0) ({name}.py, line 3)",
    "a = 1\nb = a / 0\n": "ZeroDivisionError: division by zero ({name}.py, line 2)",
    "import nothing_of_this_name\n": "ModuleNotFoundError: No module named 'nothing_of_this_name' ({name}.py, line 1)",
    "raise SystemExit\n": "SystemExit ({name}.py, line 1)",
}


def sentence(text: str, command: CommandLine) -> str:
    return f"error: {text.format(name=command.name, target=command.target)}\n"


@pytest.mark.parametrize(("target", "told"), TARGETS.items(), ids=TARGETS)
def test_a_target_that_is_none(command: CommandLine, target: str, told: str) -> None:
    """The sentence says what to write."""
    answer = command("run", target.format(name=command.name), "greet")
    assert (answer.code, answer.out, answer.err) == (2, "", sentence(told, command))


@pytest.mark.parametrize(("arguments", "told"), ARGUMENTS.items(), ids=map(" ".join, ARGUMENTS))
def test_arguments_that_do_not_fit(command: CommandLine, arguments: tuple[str, ...], told: str) -> None:
    """The sentence names the argument; nothing is started."""
    answer = command("run", command.target, *arguments)
    assert (answer.code, answer.out, answer.err) == (2, "", sentence(told, command))
    assert command.done() == []


@pytest.mark.parametrize(("text", "told"), BROKEN.items(), ids=BROKEN)
def test_a_module_that_cannot_be_imported(command: CommandLine, text: str, told: str) -> None:
    """What it raised, and where."""
    command.write(text)
    answer = command("run", command.target)
    assert (answer.code, answer.err) == (2, sentence(f"importing '{{name}}' failed: {told}", command))


def test_a_workflow_that_is_wrong_is_told_as_it_is(command: CommandLine) -> None:
    """What batchflow itself says on import needs no more words."""
    command.write("from batchflow import BatchWorkflow\nclass Greet(BatchWorkflow): pass\n")
    answer = command("run", command.target)
    assert answer.code == 2
    assert answer.err.startswith("error: Greet has no fetch; write: async def fetch(self, ")


def test_several_workflows_are_listed(command: CommandLine) -> None:
    """With two there is no telling which one is meant."""
    command.write(TWO)
    answer = command("run", command.target)
    assert answer.err == sentence("'{target}' has 2 workflows; name one of 'greet', 'ping'", command)
    answer = command("run", command.target, "pong")
    assert answer.err == sentence("'{target}' has no workflow 'pong'; there is 'greet', 'ping'", command)


def test_a_batch_without_a_source_wants_ids(command: CommandLine) -> None:
    """A function that no ids were given for runs named ones only."""
    command.write(TWO)
    for option in ((), ("--dry-run",)):
        answer = command("run", command.target, "ping", *option)
        assert answer.err == sentence("'ping' has no source of ids; name the items with --ids a,b", command)
    assert command("run", command.target, "ping", "--ids", "a,b").code == 0


def test_an_app_without_workflows(command: CommandLine) -> None:
    """Nothing can be run."""
    command.write("from batchflow import Batchflow\nflow = Batchflow()\n")
    answer = command("run", command.target)
    assert (answer.code, answer.err) == (2, sentence("'{target}' has no workflow; add one with flow.add(…)", command))
    answer = command("worker", command.target)
    told = "'{target}' has nothing to work for; add a workflow with flow.add(…)"
    assert (answer.code, answer.err) == (2, sentence(told, command))


def test_a_required_parameter_is_asked_for(command: CommandLine) -> None:
    """The sentence shows how it is given."""
    command.write(JOBS.replace("days: int = 7", "for_days: int"))
    answer = command("run", command.target)
    assert answer.err == sentence("'greet' needs the parameter 'forDays'; add -p forDays=VALUE", command)


def test_a_setting_that_cannot_be(command: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is named."""
    monkeypatch.setenv("BATCHFLOW_CONCURRENCY", "many")
    answer = command("run", command.target)
    assert answer.code == 2
    assert "(BATCHFLOW_CONCURRENCY) cannot be 'many'" in answer.err


def test_a_store_that_cannot_be_used(command: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not before something else is written: exit code 2."""
    monkeypatch.setenv("BATCHFLOW_URL", "sqlite:///nowhere/batchflow.db")
    answer = command("run", command.target)
    told = "there is no folder 'nowhere' for the database 'batchflow.db'; make it first"
    assert (answer.code, answer.err) == (2, sentence(told, command))


def test_unknown_commands_are_guessed(command: CommandLine) -> None:
    """The nearest one is named."""
    answer = command("rnu", command.target)
    assert (answer.code, answer.err) == (
        2,
        "error: no such command 'rnu'. Did you mean 'run'?; see 'batchflow --help'\n",
    )


def test_help_and_version(command: CommandLine) -> None:
    """Without arguments the command explains itself."""
    assert command("--version").out == "batchflow 0.1.0\n"
    assert "Run batches, start workers" in command().out
    for name in ("run", "worker", "workers", "batches", "runs", "notify", "waiters"):
        assert command(name, "--help").code == 0
        assert name in command("-h").out
    assert "The same command again goes on" in command("run", "--help").out


def test_the_command_is_installed() -> None:
    """`pip install` makes the command, and it needs no other."""
    script = Path(sys.executable).parent / "batchflow"
    run = subprocess.run([script, "--version"], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout == "batchflow 0.1.0\n"
