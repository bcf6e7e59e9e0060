"""`batchflow dlq`: searches, shows, resumes, restarts and deletes dead letters."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from batchflow.batch.names import quantity
from batchflow.cli.groups import CommandGroup
from batchflow.cli.letter_reports import print_letter, print_letter_groups, print_letters
from batchflow.cli.options import JsonOption, UrlOption, YesOption, confirm, option_names, parse_time
from batchflow.cli.output import Output, program_name
from batchflow.cli.target import open_engine
from batchflow.core.flow import FlowControl
from batchflow.errors import ConfigurationError, InputError
from batchflow.http.schemas.dead_letters import (
    DeadLetterDetail,
    DeadLetterGroupList,
    DeadLetterList,
    DeadLetterResponse,
)
from batchflow.serve.dead_letter_filters import DeadLetterFilter
from batchflow.serve.dead_letters import MAX_CANARY, MAX_PAGE_SIZE, DeadLetterResult, DeadLetters, is_post

_DONE = {
    "resume": "Resumed",
    "restart": "Restarted",
    "callback": "Called again the failure function of",
    "delete": "Deleted",
}
_REFUSED = {
    "resume": "not dead letters any more, retried in another batch, or their batch is being cancelled",
    "restart": "not dead letters any more, retried in another batch, or their batch is being cancelled",
    "callback": "not dead letters, without a failure function, or its latest call has not ended",
    "delete": "not dead letters any more",
}
_MOST_NAMED = 5

group = typer.Typer(cls=CommandGroup, help="Search, resume, restart and delete dead letters.", rich_markup_mode=None)

IdsArgument = Annotated[list[str] | None, typer.Argument(metavar="ID", help="The ids of the dead letters.")]
RetriesOption = Annotated[int | None, typer.Option(min=0, metavar="N", help="Retries, instead of their own.")]
FlowKeyOption = Annotated[str | None, typer.Option(metavar="KEY", help="A flow key, instead of their own.")]
ParallelismOption = Annotated[int | None, typer.Option(min=1, metavar="N", help="Of --flow-key: at most N at once.")]
CanaryOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MAX_CANARY,
        metavar="N",
        help="N of them first; the others once these have succeeded. Ctrl-C leaves the others.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class LetterFilter:
    """The options that say which dead letters are meant: all have to match."""

    workflow: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only of this workflow, or of the function at this route.")
    ] = None
    endpoint: Annotated[str | None, typer.Option(metavar="URL", help="Only of this route or URL.")] = None
    run: Annotated[str | None, typer.Option(metavar="ID", help="Only of this run.")] = None
    batch: Annotated[str | None, typer.Option(metavar="ID", help="Only of this batch.")] = None
    item: Annotated[str | None, typer.Option(metavar="ID", help="Only of the item with this id.")] = None
    label: Annotated[str | None, typer.Option(metavar="TEXT", help="Only with this label.")] = None
    status: Annotated[
        int | None, typer.Option(metavar="N", help="Only with this status: 500 error, 504 time limit, 503 lost worker.")
    ] = None
    error_group: Annotated[
        str | None, typer.Option("--group", metavar="GROUP", help="Only with this error; see 'dlq groups'.")
    ] = None
    since: Annotated[str | None, typer.Option(metavar="TIME", help="Only those that died from this time on.")] = None
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Only those that died before this time.")] = None
    url: UrlOption = None
    as_json: JsonOption = False

    def filter(self) -> DeadLetterFilter:
        """The filter."""
        return {
            "workflow": self.workflow,
            "url": self.endpoint,
            "run_id": self.run,
            "batch_id": self.batch,
            "item": self.item,
            "label": self.label,
            "status": self.status,
            "group": self.error_group,
            "since": parse_time("--since", self.since),
            "until": parse_time("--until", self.until),
        }


@group.command("list")
@dataclass(frozen=True, kw_only=True)
class ListDeadLetters(LetterFilter):
    """List the latest dead letters, newest first.

    `batchflow dlq` without a command does the same.
    """

    limit: Annotated[int, typer.Option(min=1, max=MAX_PAGE_SIZE, metavar="N", help="Show at most N dead letters.")] = 20
    cursor: Annotated[str | None, typer.Option(metavar="CURSOR", help="Continue after a page: its nextCursor.")] = None

    async def execute(self) -> int:
        """Print the list."""
        async with open_engine(self.url) as engine:
            with option_names():
                page = await DeadLetters(engine).list(cursor=self.cursor, limit=self.limit, **self.filter())
        if self.as_json:
            Output().print_json(DeadLetterList.of(page).document())
        else:
            print_letters(Output(), page)
        return 0


@group.command("groups")
@dataclass(frozen=True, kw_only=True)
class ListDeadLetterGroups(LetterFilter):
    """List dead letters by their error, the most frequent first.

    A group has the dead letters of one bug: the same type of error, raised on the same way through your code.
    """

    limit: Annotated[int, typer.Option(min=1, max=MAX_PAGE_SIZE, metavar="N", help="Show at most N groups.")] = 20

    async def execute(self) -> int:
        """Print the groups."""
        async with open_engine(self.url) as engine:
            with option_names():
                found = await DeadLetters(engine).groups(limit=self.limit, **self.filter())
            example = await engine.dead_letter_store.find(found[0].example) if found else None
        if self.as_json:
            Output().print_json(DeadLetterGroupList.of(found).document())
        else:
            print_letter_groups(Output(), found, of_posts=example is not None and is_post(example))
        return 0


@group.command("show")
@dataclass(frozen=True, kw_only=True)
class ShowDeadLetter:
    """Show a dead letter: its request, its error, its latest attempts and its steps."""

    id: Annotated[str, typer.Argument(metavar="ID", help="The id of the dead letter.")]
    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Print the dead letter."""
        async with open_engine(self.url) as engine:
            letter = await DeadLetters(engine).get(self.id)
            run = await engine.run_store.run(self.id)
        if self.as_json:
            Output().print_json(DeadLetterDetail.of(letter).document())
        else:
            print_letter(Output(), letter, run)
        return 0


@dataclass(frozen=True, kw_only=True)
class LetterCommand(LetterFilter):
    """A command for dead letters: for these ids, or for those that match."""

    ids: IdsArgument = None
    all: Annotated[bool, typer.Option("--all", help="All dead letters of the store.")] = False

    def report(self, command: str, result: DeadLetterResult) -> int:
        """Print the result; the exit code."""
        output = Output()
        if self.as_json:
            output.print_json(DeadLetterResponse.of(result).document())
            return 1 if result.failed or not result.count else 0
        output.print(f"{_DONE[command]} {quantity(result.count, 'dead letter')}")
        if new := [it for it in result.run_ids if it not in result.ids]:
            output.print(f"  as new runs: {_named(new)}" if len(new) > 1 else f"  as the new run {new[0]}")
        if result.refused:
            reasons = f" ({_REFUSED[command]})" if len(result.refused) > result.posts else ""
            output.print(f"refused: {_named(result.refused)}{reasons}", style="yellow")
        if result.advice is not None:
            output.print(f"  {result.advice}")
        if result.failed:
            output.print(f"failed again: {_named(result.failed)}; the others were left alone", style="red")
            output.print(f"  look: {program_name()} dlq show {result.failed[0]}")
        return 1 if result.failed or not result.count else 0


@dataclass(frozen=True, kw_only=True)
class RedriveCommand(LetterCommand):
    """The options of resume and restart."""

    retries: RetriesOption = None
    flow_key: FlowKeyOption = None
    parallelism: ParallelismOption = None
    canary: CanaryOption = None

    def flow_control(self) -> FlowControl | None:
        """The limits, if a flow key is given."""
        if self.flow_key is None:
            if self.parallelism is not None:
                raise InputError("--parallelism is that of a flow key; give --flow-key KEY too")
            return None
        try:
            return FlowControl(key=self.flow_key, parallelism=self.parallelism)
        except ConfigurationError as error:
            raise InputError(error.sentence(lambda name: "--flow-key" if name == "key" else f"--{name}")) from error

    async def redrive(self, command: str) -> int:
        """Resume or restart them; the exit code."""
        limits = self.flow_control()
        async with open_engine(self.url) as engine:
            letters = DeadLetters(engine)
            if self.canary is not None and not self.as_json:
                count = quantity(self.canary, "dead letter")
                Output().stderr.print(f"Waiting for the first {count}; Ctrl-C leaves the others alone.", soft_wrap=True)
            with option_names():
                act = letters.resume if command == "resume" else letters.restart
                result = await act(
                    *(self.ids or ()),
                    all=self.all,
                    retries=self.retries,
                    flow_control=limits,
                    canary=self.canary,
                    **self.filter(),
                )
        return self.report(command, result)


@group.command("resume")
@dataclass(frozen=True, kw_only=True)
class ResumeDeadLetters(RedriveCommand):
    """Let dead letters go on from where they failed: recorded steps stay.

    Name them by ID, or by a filter such as --group. Items, and their batches, are open again.

    Exit codes: 0 resumed, 1 none, or the canary failed, 2 usage.
    """

    async def execute(self) -> int:
        """Resume them; 1 if there was none, or the canary failed."""
        return await self.redrive("resume")


@group.command("restart")
@dataclass(frozen=True, kw_only=True)
class RestartDeadLetters(RedriveCommand):
    """Let dead letters run from the beginning: recorded steps are dropped.

    Name them by ID, or by a filter such as --group. Items, and their batches, are open again.

    Exit codes: 0 restarted, 1 none, or the canary failed, 2 usage.
    """

    async def execute(self) -> int:
        """Restart them; 1 if there was none, or the canary failed."""
        return await self.redrive("restart")


@group.command("callback")
@dataclass(frozen=True, kw_only=True)
class CallFailureFunctions(LetterCommand):
    """Call the failure functions or URLs of dead letters again.

    Exit codes: 0 called, 1 none, 2 usage.
    """

    async def execute(self) -> int:
        """Call them; 1 if there was none."""
        async with open_engine(self.url) as engine:
            with option_names():
                result = await DeadLetters(engine).callback(*(self.ids or ()), all=self.all, **self.filter())
        return self.report("callback", result)


@group.command("delete")
@dataclass(frozen=True, kw_only=True)
class DeleteDeadLetters(LetterCommand):
    """Delete dead letters, which cannot be undone. Items stay failed.

    Exit codes: 0 deleted, 1 none, 2 usage.
    """

    yes: YesOption = False

    async def execute(self) -> int:
        """Delete them; 1 if there was none."""
        async with open_engine(self.url) as engine:
            with option_names():
                confirm("Delete these dead letters for good", yes=self.yes)
                result = await DeadLetters(engine).delete(*(self.ids or ()), all=self.all, **self.filter())
        return self.report("delete", result)


def _named(ids: Sequence[str]) -> str:
    left = len(ids) - _MOST_NAMED
    return ", ".join(ids[:_MOST_NAMED]) + (f" and {left:,} more" if left > 0 else "")
