"""`batchflow runs`: list, show and cancel runs, without the module that started them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, cast

import typer

from batchflow.cli import documents, run_report
from batchflow.cli.output import Output
from batchflow.cli.place import Json, Url, engine_at
from batchflow.cli.target import check_route, load_flow
from batchflow.cli.trigger import TriggerRun
from batchflow.core.run import Run, RunState
from batchflow.engine.engine import Engine
from batchflow.errors import InputError, NotFoundError
from batchflow.serve.runs import MAX_PAGE_SIZE, RunSelection, cancel_runs, list_runs

_CURSOR_DIGITS = 15
_FINAL = frozenset({"completed", "failed", "cancelled"})

Label = Annotated[str | None, typer.Option(metavar="TEXT", help="Only runs with this label.")]
Function = Annotated[str | None, typer.Option(metavar="ROUTE", help="Only runs of the function served at ROUTE.")]

group = typer.Typer(help="List runs, look into one, cancel some, start one.", rich_markup_mode=None)


@group.command("list")
@dataclass(frozen=True, kw_only=True)
class ListRuns:
    """List the latest runs, newest first; `batchflow runs` alone does the same."""

    target: Annotated[str | None, typer.Argument(metavar="[MODULE:ATTR]", help="An app, to look into its store.")] = (
        None
    )
    state: Annotated[
        str | None, typer.Option(metavar="STATE", help="waiting, running, completed, failed or cancelled.")
    ] = None
    function: Function = None
    label: Label = None
    limit: Annotated[int, typer.Option(min=1, max=MAX_PAGE_SIZE, metavar="N", help="At most so many.")] = 20
    cursor: Annotated[
        str | None, typer.Option(metavar="CURSOR", help="Go on where a page has ended: its nextCursor.")
    ] = None
    url: Url = None
    as_json: Json = False

    async def carry_out(self) -> int:
        """List them."""
        url = self.url if self.target is None else load_flow(self.target).settings.url
        route = _route(self.function)
        _check_cursor(self.cursor)
        async with engine_at(url) as engine:
            page = await list_runs(
                engine,
                # What is no state is refused there.
                state=cast("RunState | None", self.state),
                destination=route,
                label=self.label,
                cursor=self.cursor,
                limit=self.limit,
            )
        # A store may hold runs of functions that this app does not have.
        if self.target is not None and route is not None and not page.runs and self.cursor is None:
            check_route(load_flow(self.target), route, self.target)
        if self.as_json:
            runs = [documents.of_run(run) for run in page.runs]
            Output().document({"runs": runs, "nextCursor": page.next_cursor})
        else:
            run_report.runs(Output(), page)
        return 0


@group.command("show")
@dataclass(frozen=True, kw_only=True)
class ShowRun:
    """Show one run: its state and times, and its steps."""

    id: Annotated[str, typer.Argument(metavar="ID", help="The id of the run, such as run_….")]
    url: Url = None
    as_json: Json = False

    async def carry_out(self) -> int:
        """Look into it."""
        async with engine_at(self.url) as engine:
            found = await _run(engine, self.id)
        if self.as_json:
            Output().document(documents.of_run_with_steps(found))
        else:
            run_report.run(Output(), found)
        return 0


@group.command("cancel")
@dataclass(frozen=True, kw_only=True)
class CancelRuns:
    """Cancel runs: these, or all of a label (its batches too) or function. One at work ends at its next step."""

    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="The ids of the runs.")] = None
    label: Label = None
    function: Function = None
    url: Url = None
    as_json: Json = False

    async def carry_out(self) -> int:
        """Cancel them; 1 where none was left to cancel."""
        ids = tuple(dict.fromkeys(self.ids or ()))
        self._check(ids)
        async with engine_at(self.url) as engine:
            for id in ids:
                await _run(engine, id)
            # What a dead worker holds would be waited for.
            await engine.store.expire()
            route = _route(self.function)
            cancelled = await cancel_runs(engine, RunSelection(ids, self.label, route))
            found = [await _run(engine, id) for id in ids]
            is_known = route is None or bool((await list_runs(engine, destination=route, limit=1)).runs)
        self._tell(cancelled, found, "" if is_known else f": there is none of '{route}' here")
        return 0 if cancelled else 1

    def _check(self, ids: Sequence[str]) -> None:
        narrowed = self.label is not None or self.function is not None
        if ids and narrowed:
            raise InputError("name the runs by their ids, or by --label and --function, not both")
        if not ids and not narrowed:
            raise InputError("say which runs to cancel: their ids, --label TEXT or --function ROUTE")

    def _tell(self, cancelled: int, found: Sequence[Run], why: str) -> None:
        if self.as_json:
            document = {"success": True, "cancelled": cancelled}
            Output().document(document | ({"runs": [documents.of_run(run) for run in found]} if found else {}))
        elif len(found) == 1:
            (run,) = found
            if not cancelled:
                Output().say(f"Run {run.id} had ended before: it is {run.state}")
            elif run.state in _FINAL:
                Output().say(f"Run {run.id} is cancelled")
            else:
                Output().say(f"Run {run.id} is being cancelled: it ends at its next step")
        else:
            rest = len(found) - cancelled
            before = f"; {rest} had ended before" if found and rest else why
            # A label is of batches as well as of runs.
            either = self.label is not None and self.function is None
            what = f"run{'' if cancelled == 1 else 's'}" if not either else "of that label, runs and batches"
            Output().say(f"Cancelled {cancelled} {what}{before}")


group.command("trigger")(TriggerRun)


async def _run(engine: Engine, id: str) -> Run:
    run = await engine.store.run(id)
    if run is None:
        raise NotFoundError(f"there is no run '{id}' here; 'batchflow runs' lists those there are")
    return run


def _route(function: str | None) -> str | None:
    """A route; its first slash may be left out, since some shells take it for a path of theirs."""
    return function if function is None or function.startswith("/") else f"/{function}"


def _check_cursor(cursor: str | None) -> None:
    # A time of more digits is none that a store has.
    if cursor is not None and len(cursor.partition(".")[0]) > _CURSOR_DIGITS:
        raise InputError(f"'cursor' cannot be {cursor!r}; write the nextCursor of the page before")
