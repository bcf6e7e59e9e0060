"""The command's parts put together: what is read from the command line, carried out, and told when it goes wrong."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Annotated, NoReturn, Protocol, runtime_checkable

import typer
from rich.text import Text

from batchflow.cli import batches, ledger, runs
from batchflow.cli.check import Check
from batchflow.cli.events import Notify, Waiters
from batchflow.cli.loop import run_to_the_end
from batchflow.cli.output import Output
from batchflow.cli.run import Run
from batchflow.cli.worker import Worker
from batchflow.cli.workers import Workers
from batchflow.errors import BatchflowError, ConfigurationError, InputError, StoreIncompatible

USAGE = 2
"""The exit code of what the user has to write otherwise."""

_STUCK_SECONDS = 3.0
# How long a thread of user code that does not end may hold up the end of the process.

app = typer.Typer(
    name="batchflow",
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@runtime_checkable
class Command(Protocol):
    """What the command line is read into."""

    async def carry_out(self) -> int:
        """Do what was asked for; the exit code."""
        ...


@app.callback(invoke_without_command=True)
def batchflow(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Run batches, start workers, and see what became of them.

    State lives where BATCHFLOW_URL says, by default in sqlite:///batchflow.db.
    """
    if show_version:
        print(f"batchflow {version('batchflow')}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


app.command("run")(Run)
app.command("worker")(Worker)
app.command("workers")(Workers)
app.command("check")(Check)
app.command("notify")(Notify)
app.command("waiters")(Waiters)
GROUPS = {"batches": batches.group, "runs": runs.group, "ledger": ledger.group}
for name, group in GROUPS.items():
    app.add_typer(group, name=name)


def main() -> None:
    """The entry point: carry out the command line and exit."""
    leave(invoke(sys.argv[1:]))


def leave(code: int) -> NoReturn:
    """End the process, whatever user code still holds on to."""
    sys.stdout.flush()
    sys.stderr.flush()
    # A sync hook that holds on to its thread would keep the interpreter from ending.
    last_resort = threading.Timer(_STUCK_SECONDS, os._exit, (code,))
    last_resort.daemon = True
    last_resort.start()
    sys.exit(code)


def invoke(arguments: Sequence[str]) -> int:
    """Carry out one command line, without the program's name; the exit code.

    0: done. 1: items have failed, or the batch has, or the store for now. 2: the command line, the configuration, the
    input or the place of the store is wrong: the same again ends alike. 130 and 143: stopped by Ctrl-C or SIGTERM.
    What is wrong stands on stderr as one sentence.
    """

    def carry_out() -> int:
        asked = app(args=with_default(arguments), prog_name="batchflow", standalone_mode=False)
        if isinstance(asked, Command):
            return run_to_the_end(asked.carry_out())
        return asked if isinstance(asked, int) else 0

    return told(carry_out)


def told(act: Callable[[], int]) -> int:
    """What `act` returns; where it raises, the exit code of that, which is told."""
    try:
        return act()
    except BatchflowError as error:
        _tell(str(error))
        return USAGE if isinstance(error, (ConfigurationError, InputError, StoreIncompatible)) else 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except typer.TyperException as error:
        _tell(_usage(error))
        return error.exit_code


def with_default(arguments: Sequence[str]) -> list[str]:
    """The command line with `list` put in where a group such as `batches` is followed by no command of its own."""
    words = list(arguments)
    group = GROUPS.get(words[0]) if words else None
    if group is not None:
        known = {*(command.name for command in group.registered_commands), "--help", "-h"}
        if not known & set(words[1:2]):
            words.insert(1, "list")
    return words


def _usage(error: typer.TyperException) -> str:
    message = error.format_message().rstrip(".")
    context = getattr(error, "ctx", None)
    hint = f"; see '{context.command_path} --help'" if context is not None else ""
    return message[:1].lower() + message[1:] + hint


def _tell(sentence: str) -> None:
    # In one write: processes of a worker that all fail share this stderr.
    Output().err.print(Text.assemble(("error:", "bold red"), " ", sentence), soft_wrap=True)
