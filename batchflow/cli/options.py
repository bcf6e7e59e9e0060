"""Options of a trigger as they are written on a command line: durations, times, headers."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, cast

import typer
from pydantic.alias_generators import to_snake

from batchflow.core.duration import Duration
from batchflow.errors import InputError, OptionError
from batchflow.serve.trigger import Dedup

UrlOption = Annotated[
    str | None, typer.Option(metavar="URL", help="Where the state lives; by default BATCHFLOW_URL says it.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
DedupIdOption = Annotated[
    str | None, typer.Option(metavar="TEXT", help="What it is for; starts nothing if there is one.")
]
DedupOption = Annotated[
    str, typer.Option("--dedup", metavar="WHEN", help="How long --dedup-id holds: kept, or open: until it has ended.")
]
DelayOption = Annotated[str | None, typer.Option(metavar="DURATION", help="Start after so long: 10s, 2h30m.")]
NotBeforeOption = Annotated[
    str | None, typer.Option(metavar="TIME", help="Start not before this time: 2030-01-01T06:00:00Z.")
]
HeadersOption = Annotated[
    list[str] | None, typer.Option("-H", "--header", metavar="NAME=VALUE", help="What ctx.headers shows; repeat it.")
]

_TRIGGER_OPTIONS = frozenset({"dedup_id", "dedup", "delay", "not_before", "label", "headers"})
BATCH_OPTIONS = _TRIGGER_OPTIONS | {"dry_run", "force", "limit", "ids", "batch_id"}
"""The options of a batch, as `Workflow.trigger` and `Workflow.dry_run` name them."""

RUN_OPTIONS = _TRIGGER_OPTIONS | {"payload", "run_id", "wait"}
"""The options of a run, as `ServedFunction.trigger` names them, and those of the command alone."""


def option_flag(name: str) -> str:
    """An option as the command line spells it: `--not-before` for `not_before` and `notBefore`."""
    return "--header" if name == "headers" else "--" + to_snake(name).replace("_", "-")


@contextmanager
def option_names() -> Generator[None]:
    """Errors about options that are raised inside name them as the command line spells them."""
    try:
        yield
    except OptionError as error:
        if error.option is None:
            raise
        raise InputError(error.sentence(option_flag)) from error


def parse_dedup(text: str) -> Dedup:
    """How long a dedup id holds; what is none is refused by the trigger."""
    return cast("Dedup", text)


def parse_delay(text: str | None) -> Duration | None:
    """A duration; a bare number is seconds, as in the settings."""
    return int(text) if text is not None and text.isdecimal() else text


def parse_not_before(text: str | None) -> datetime | None:
    """A time; without an offset it is that of this machine.

    Raises:
        InputError: it is none.
    """
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"'--not-before' cannot be {text!r}; write a time such as 2030-01-01T06:00:00Z") from None
    return found if found.tzinfo is not None else found.astimezone()


def parse_headers(pairs: Sequence[str] | None) -> dict[str, str] | None:
    """Headers of `NAME=VALUE`.

    Raises:
        InputError: one is none, or given twice. What it holds may be secret, and is not shown.
    """
    found: dict[str, str] = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InputError("a header is written as --header NAME=VALUE")
        if name in found:
            raise InputError(f"the header '{name}' is given twice; give it once")
        found[name] = value
    return found or None
