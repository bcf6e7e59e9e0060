"""The `batchflow` command: its subcommands, and the execution of a command line."""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Annotated, Protocol, runtime_checkable

import typer

from batchflow.cli import batch_operations, dlq, flow_keys, ledger, runs, schedules, tenants
from batchflow.cli.batch_retry import RetryBatch
from batchflow.cli.check import CheckFunctions
from batchflow.cli.events import ListWaiters, NotifyRuns
from batchflow.cli.failure_budget import SetFailureBudget
from batchflow.cli.groups import ID_PREFIXES, CommandGroup
from batchflow.cli.items import ListItemHistory
from batchflow.cli.output import reserve_stdout
from batchflow.cli.process import exit_process, run_and_report, run_event_loop
from batchflow.cli.run import RunBatch
from batchflow.cli.server import RunServer
from batchflow.cli.top import ShowTop
from batchflow.cli.why import ExplainBatch
from batchflow.cli.worker import ListWorkers, RunWorker

app = typer.Typer(
    name="batchflow",
    cls=CommandGroup,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@runtime_checkable
class Command(Protocol):
    """A parsed command line."""

    async def execute(self) -> int:
        """Carry out the command; the exit code."""
        ...


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Run batches, start workers, inspect and cancel what runs.

    The state is in the store at BATCHFLOW_URL, by default sqlite:///batchflow.db.
    """
    if show_version:
        from importlib.metadata import version

        print(f"batchflow {version('batchflow')}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


app.command("run")(RunBatch)
app.command("worker")(RunWorker)
app.command("workers")(ListWorkers)
app.command("server")(RunServer)
app.command("top")(ShowTop)
app.command("items")(ListItemHistory)
app.command("check")(CheckFunctions)
app.command("notify")(NotifyRuns)
app.command("waiters")(ListWaiters)
batch_operations.group.command("retry")(RetryBatch)
batch_operations.group.command("why")(ExplainBatch)
batch_operations.group.command("budget")(SetFailureBudget)
GROUPS = {
    "batches": batch_operations.group,
    "runs": runs.group,
    "dlq": dlq.group,
    "schedules": schedules.group,
    "flow": flow_keys.group,
    "ledger": ledger.group,
    "tokens": tenants.tokens,
}
for name, group in GROUPS.items():
    app.add_typer(group, name=name)
app.add_typer(tenants.keys, name="keys")


def main() -> None:
    """The entry point: carry out the command line and exit."""
    # Not undone: what a process prints at its exit is not part of the document either.
    exit_process(_carry_out(sys.argv[1:], ExitStack()))


def invoke(arguments: Sequence[str]) -> int:
    """Carry out one command line, without the name of the program; the exit code.

    0: done. 1: items or the batch failed, or the store is unavailable. 2: the command line, the configuration, the
    input or the store is wrong, and the same command would fail again. 130 and 143: stopped by Ctrl-C or SIGTERM.
    An error is printed to stderr as one sentence.
    """
    with ExitStack() as undo:
        return _carry_out(arguments, undo)


def _carry_out(arguments: Sequence[str], undo: ExitStack) -> int:
    def execute() -> int:
        command = app(args=insert_default_command(arguments), prog_name="batchflow", standalone_mode=False)
        if isinstance(command, Command):
            if getattr(command, "as_json", False) or getattr(command, "wait", False):
                undo.callback(reserve_stdout())
            return run_event_loop(command.execute())
        return command if isinstance(command, int) else 0

    return run_and_report(execute)


def insert_default_command(arguments: Sequence[str]) -> list[str]:
    """The command line, with `list` after a group such as `batches` that neither a command nor --help follows."""
    words = list(arguments)
    if words and words[0] in GROUPS:
        first = words[1] if len(words) > 1 else ""
        is_target = ":" in first or ("." in first and not first.startswith(ID_PREFIXES))
        if not first or is_target or (first.startswith("-") and first not in ("-h", "--help")):
            words.insert(1, "list")
    return words
