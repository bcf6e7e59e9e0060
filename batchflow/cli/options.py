"""Arguments and options that several commands share, and the values that they stand for."""

import shlex
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, cast

import typer
from pydantic.alias_generators import to_snake

from batchflow.batch.arguments import MAX_CANARY
from batchflow.core.batch import MAX_PRIORITY
from batchflow.core.duration import Duration
from batchflow.errors import InputError, OptionError
from batchflow.serve.trigger import Dedup
from batchflow.settings import Settings

TargetArgument = Annotated[
    str, typer.Argument(metavar="MODULE:ATTR", help="The Batchflow to load, such as app.jobs:flow.")
]
UrlOption = Annotated[str | None, typer.Option(metavar="URL", help="The URL of the store; BATCHFLOW_URL by default.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
DedupIdOption = Annotated[
    str | None, typer.Option(metavar="TEXT", help="A name for the purpose; a second trigger with it starts nothing.")
]
DedupOption = Annotated[
    str,
    typer.Option("--dedup", metavar="WHEN", help="How long --dedup-id counts: kept, or open (until the first ends)."),
]
DelayOption = Annotated[str | None, typer.Option(metavar="DURATION", help="Start after this time: 10s, 2h30m.")]
NotBeforeOption = Annotated[str | None, typer.Option(metavar="TIME", help="Start at this time: 2030-01-01T06:00:00Z.")]
HeadersOption = Annotated[
    list[str] | None,
    typer.Option("-H", "--header", metavar="NAME=VALUE", help="A header for ctx.headers; can be repeated."),
]

PriorityOption = Annotated[
    int | None,
    typer.Option(min=0, max=MAX_PRIORITY, metavar="N", help="0 to 9: of a workflow's batches the highest are first."),
]
CanaryOption = Annotated[
    int | None,
    typer.Option(min=1, max=MAX_CANARY, metavar="N", help="Run N items; the others wait for 'batches approve'."),
]
ApproveUnderOption = Annotated[
    float | None,
    typer.Option(min=0, max=1, metavar="SHARE", help="Approve it if at most this share of the canary failed."),
]
_TRIGGER_OPTIONS = frozenset({"dedup_id", "dedup", "delay", "not_before", "label", "headers"})
BATCH_OPTIONS = _TRIGGER_OPTIONS | {
    "dry_run",
    "force",
    "limit",
    "ids",
    "batch_id",
    "notify_url",
    "priority",
    "canary",
    "approve_under",
    "failure_budget",
}
"""The options of a batch, as `Workflow.trigger` and `Workflow.dry_run` name them."""

RUN_OPTIONS = _TRIGGER_OPTIONS | {"payload", "run_id", "wait"}
"""The options of a run, as `ServedFunction.trigger` names them, and those of the command alone."""


_FLAGS = {"headers": "--header", "duration": "--for", "flow_control": "--flow-key"}


def option_flag(name: str) -> str:
    """An option as the command line spells it: `--not-before` for `not_before` and `notBefore`."""
    return _FLAGS.get(name) or "--" + to_snake(name).replace("_", "-")


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
    """The mode of a dedup id; the trigger raises for an unknown one."""
    return cast("Dedup", text)


def parse_delay(text: str | None) -> Duration | None:
    """A duration; a number without a unit is in seconds, as in the settings."""
    return int(text) if text is not None and text.isdecimal() else text


def parse_not_before(text: str | None) -> datetime | None:
    """The time of `--not-before`; see `parse_time`."""
    return parse_time("--not-before", text)


def parse_time(option: str, text: str | None) -> datetime | None:
    """A time; without an offset it is in the local time zone.

    Raises:
        InputError: it is not an ISO 8601 time.
    """
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"'{option}' cannot be {text!r}; write a time such as 2030-01-01T06:00:00Z") from None
    return found if found.tzinfo is not None else found.astimezone()


def parse_headers(pairs: Sequence[str] | None) -> dict[str, str] | None:
    """Headers of `NAME=VALUE`.

    Raises:
        InputError: a pair is malformed, or a name is repeated. Values can be secret; errors do not show them.
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


def url_option(settings: Settings) -> str:
    """The --url option with which other commands find the same store; empty if they find it by themselves."""
    if settings.url == Settings.load().url:
        return ""
    # One with a password is left for the reader to write.
    return f" --url {shlex.quote(settings.url) if settings.url == settings.display_url else 'URL'}"


def is_terminal() -> bool:
    """True if somebody can be asked."""
    return sys.stdin.isatty()


def confirm(question: str, *, yes: bool, why: str = "this cannot be undone") -> None:
    """Ask before something that cannot be undone or is large; with `yes` nothing is asked.

    Raises:
        InputError: the answer is no, or there is nobody to ask.
    """
    if yes:
        return
    if not is_terminal():
        raise InputError(f"{why} and there is no terminal to confirm it; add --yes ({question})")
    if not typer.confirm(f"{question}?", err=True):
        raise InputError("not confirmed; nothing has changed")
