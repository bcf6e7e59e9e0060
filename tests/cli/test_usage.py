"""Wrong command lines: one sentence on stderr, exit code 2, no traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.command_line import JOBS, TWO, CommandLine
from tests.cli.functions import FUNCTIONS
from tests.house.sources import ROOT

TARGETS = {
    "nowhere:flow": "there is no module 'nowhere' here; run the command in the folder that holds it",
    "nowhere.jobs:flow": "there is no module 'nowhere' here; run the command in the folder that holds it",
    "{name}": "'{name}' names a module without an attribute; write {name}:flow",
    "{name}:flw": "has no 'flw'; did you mean 'flow'?",
    "{name}:greet": "a Workflow; write {name}:flow",
    "{name}.py:flow": "write MODULE:ATTR with dots, such as app.jobs:flow",
    "./{name}:flow": "write MODULE:ATTR with dots",
    ":flow": "write MODULE:ATTR with dots",
}

ARGUMENTS = {
    ("greeet",): "'{target}' has no workflow 'greeet'; did you mean 'greet'?",
    ("-p", "paidonly=true"): "unknown parameter 'paidonly' of 'greet'; did you mean 'paidOnly'?",
    ("-p", "zzz=1"): "unknown parameter 'zzz' of 'greet'; known are 'days', 'paidOnly', 'tags'",
    ("-p", "limit=3"): "but an option: --limit",
    ("-p", "days"): "; write -p name=value",
    ("-p", "days=1", "-p", "days=2"): "the parameter 'days' is given twice",
    ("-p", "days=soon"): "'days' does not fit",
    ("-p", "paid_only=perhaps"): "'paidOnly' does not fit",
    ("-p", "tags=a"): "'tags' does not fit",
    ("-p", 'tags={"a": 1}'): "'tags' does not fit",
    ("--params", "[1]"): "not a list",
    ("--params", '{"dayz": 1}'): "unknown parameter 'dayz' of 'greet'; did you mean 'days'?",
    ("--params", "days=1"): "--params is not JSON",
    ("--ids", ","): "'--ids' cannot be []",
    ("--ids", "a,b,a"): "names 'a' twice",
    ("--ids", "a", "--limit", "1"): "exclude each other",
    ("--dry-run", "--ids", "a"): "'--dry-run' and '--ids' exclude each other",
    ("--dry-run", "--limit", "1"): "leave --limit out",
    ("--dryrun",): "no such option: --dryrun (Possible options: --dry-run); see 'batchflow run --help'",
    ("--limit", "0"): "'--limit' cannot be '0'; write a whole number of 1 or more; see",
    ("--limit", "-1"): "'--limit' cannot be '-1'; write a whole number of 1 or more; see",
    ("--limit", "many"): "'--limit' cannot be 'many'; write a whole number; see",
    ("--limit", "9" * 5000): "write a whole number",
    ("--approve-under", "1.5"): "'--approve-under' cannot be '1.5'; write a number of at most 1; see",
    ("--approve-under", "few"): "'--approve-under' cannot be 'few'; write a number; see",
}

BROKEN = {
    "def f(:\n": "SyntaxError: invalid syntax ({name}.py, line 1)",
    "import json\n\njson.loads('')\n": "JSONDecodeError: Expecting value: line 1 column 1 (char 0) ({name}.py, line 3)",
    "a = 1\nb = a / 0\n": "ZeroDivisionError: division by zero ({name}.py, line 2)",
    "import nothing_of_this_name\n": "ModuleNotFoundError: No module named 'nothing_of_this_name' ({name}.py, line 1)",
    "raise SystemExit\n": "SystemExit ({name}.py, line 1)",
    "import asyncio\n\nasyncio.run(None)\n": (
        "RuntimeError: asyncio.run() cannot be called from a running event loop ({name}.py, line 3); put what starts "
        "the program below if __name__ == '__main__':"
    ),
}


def formatted(text: str, command: CommandLine) -> str:
    return text.format(name=command.name, target=command.target)


@pytest.mark.parametrize(("target", "message"), TARGETS.items(), ids=TARGETS)
def test_a_target_that_is_none(command: CommandLine, target: str, message: str) -> None:
    """The error says what to write."""
    answer = command("run", target.format(name=command.name), "greet")
    assert answer.is_usage_error(formatted(message, command))
    assert answer.out == ""


@pytest.mark.parametrize(("arguments", "message"), ARGUMENTS.items(), ids=map(" ".join, ARGUMENTS))
def test_arguments_that_do_not_fit(command: CommandLine, arguments: tuple[str, ...], message: str) -> None:
    """The sentence names the argument; nothing is started."""
    answer = command("run", command.target, *arguments)
    assert answer.is_usage_error(formatted(message, command))
    assert answer.out == ""
    assert command.done() == []


@pytest.mark.parametrize(("text", "message"), BROKEN.items(), ids=BROKEN)
def test_a_module_that_cannot_be_imported(command: CommandLine, text: str, message: str) -> None:
    """The error has the exception and its line."""
    command.write(text)
    answer = command("run", command.target)
    assert answer.is_usage_error(formatted(f"importing '{{name}}' failed: {message}", command))


def test_a_workflow_that_is_wrong_is_told_as_it_is(command: CommandLine) -> None:
    """A ConfigurationError at the import is printed as it is."""
    command.write("from batchflow import BatchWorkflow\nclass Greet(BatchWorkflow): pass\n")
    answer = command("run", command.target)
    assert answer.code == 2
    assert answer.err.startswith("error: Greet has no fetch; write: async def fetch(self, ")


def test_several_workflows_are_listed(command: CommandLine) -> None:
    """With two of them a name is required."""
    command.write(TWO)
    answer = command("run", command.target)
    assert answer.is_usage_error("name one of 'greet', 'ping'")
    answer = command("run", command.target, "pong")
    assert answer.is_usage_error("has no workflow 'pong'")


def test_a_batch_without_a_source_wants_ids(command: CommandLine) -> None:
    """A function that no ids were given for runs named ones only."""
    command.write(TWO)
    for option in ((), ("--dry-run",)):
        answer = command("run", command.target, "ping", *option)
        assert answer.is_usage_error("'ping' has no source of ids")
    assert command("run", command.target, "ping", "--ids", "a,b").code == 0


def test_an_app_without_workflows(command: CommandLine) -> None:
    """Nothing can be run."""
    command.write("from batchflow import Batchflow\nflow = Batchflow()\n")
    answer = command("run", command.target)
    assert answer.is_usage_error("has no workflow; add one with flow.add(…)")
    answer = command("worker", command.target)
    assert answer.is_usage_error("add a workflow with flow.add(…)")


def test_a_required_parameter_is_asked_for(command: CommandLine) -> None:
    """The sentence shows how it is given."""
    command.write(JOBS.replace("days: int = 7", "for_days: int"))
    answer = command("run", command.target)
    assert answer.is_usage_error("add -p forDays=VALUE")


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
    assert answer.is_usage_error("there is no folder 'nowhere'")


@pytest.mark.parametrize("words", [("run", "{target}"), ("run", "{target}", "--dry-run"), ("batches",), ("workers",)])
def test_a_folder_is_no_database(command: CommandLine, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    """All commands say the same."""
    (command.folder / "adir").mkdir()
    monkeypatch.setenv("BATCHFLOW_URL", "sqlite:///adir")
    answer = command(*(formatted(word, command) for word in words))
    assert answer.is_usage_error("'adir' is a folder; name a file in it, such as sqlite:///adir/batchflow.db")


def test_unknown_commands_are_guessed(command: CommandLine) -> None:
    """The nearest one is named."""
    answer = command("rnu", command.target)
    assert answer.is_usage_error(f"'batchflow' has no command 'rnu'; did you mean: batchflow run {command.target}")


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("batches ls", "'batchflow batches' has no command 'ls'; did you mean: batchflow batches list"),
        ("runs ls", "did you mean: batchflow runs list"),
        ("batches shwo bat_x", "did you mean: batchflow batches show bat_x"),
        ("batches bat_x", "write: batchflow batches show bat_x"),
        ("batches run_x", "write: batchflow runs show run_x"),
        ("runs bat_x.r000000001", "write: batchflow runs show bat_x.r000000001"),
        ("ledger rm reports c1", "did you mean: batchflow ledger forget reports c1"),
        ("batches jobs", "an app is named as MODULE:ATTR"),
        ("frobnicate", "known are 'batches'"),
    ],
)
def test_unknown_command_is_not_taken_for_an_app(command: CommandLine, words: str, meant: str) -> None:
    """The sentence has the whole command that was meant, and no word becomes the name of a module."""
    assert command(*words.split()).is_usage_error(meant)


def test_name_in_the_spelling_of_python_is_guessed(command: CommandLine) -> None:
    """The function `sync_block` is the workflow `sync-block`, and goes by either name."""
    command.write(TWO.replace("def ping", "def sync_block"))
    assert command("run", command.target, "sync_block", "--ids", "a").code == 0
    assert command("run", command.target, "sync_blok").is_usage_error("did you mean 'sync-block'?")


def test_workflow_and_function_are_not_confused(shop: CommandLine) -> None:
    """Each is run by its own command, which the sentence of the other one has."""
    shop.write(FUNCTIONS + "\n\n@flow.batch\nasync def ping(user_id: str) -> str:\n    return user_id\n")
    answer = shop("run", shop.target, "orders/ship")
    assert answer.is_usage_error(f"write: batchflow runs trigger {shop.target} /orders/ship")
    assert shop("runs", "trigger", shop.target, "ping").is_usage_error(f"write: batchflow run {shop.target} ping")


@pytest.mark.parametrize("columns", ["80", "100"])
def test_help_cuts_no_sentence(command: CommandLine, monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    """However narrow the terminal is, the sentences of the commands wrap."""
    monkeypatch.setenv("COLUMNS", columns)
    for words in ((), ("batches",), ("runs",), ("ledger",)):
        listed = command(*words, "--help").out.partition("Commands:")[2]
        assert listed
        assert "..." not in listed


def test_help_and_version(command: CommandLine) -> None:
    """Without arguments the command explains itself."""
    assert command("--version").out == "batchflow 0.1.0\n"
    assert "Run batches, start workers" in command().out
    for name in ("run", "worker", "workers", "batches", "runs", "notify", "waiters"):
        assert command(name, "--help").code == 0
        assert name in command("-h").out
    assert "resumes a batch" in command("run", "--help").out


def test_the_command_is_installed() -> None:
    """`pip install` makes the command, and it needs no other."""
    script = Path(sys.executable).parent / "batchflow"
    run = subprocess.run([script, "--version"], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout == "batchflow 0.1.0\n"


def test_help_imports_little() -> None:
    """The help needs no store, HTTP library or checker."""
    script = "import sys; from batchflow.cli import invoke; invoke(['--help']); print(*sys.modules, file=sys.stderr)"
    modules = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stderr.split()
    assert not {"batchflow.checking", "fastapi", "httpx", "redis", "uvicorn", "uvloop"} & set(modules)
