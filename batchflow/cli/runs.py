"""`batchflow runs`: lists, shows, watches, cancels and triggers runs. Reports of runs for people."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, cast

import typer

from batchflow.app import Batchflow
from batchflow.batch import operations
from batchflow.batch.operations import Selection
from batchflow.cli.failures import print_error
from batchflow.cli.groups import CommandGroup
from batchflow.cli.inputs import read_payload
from batchflow.cli.options import (
    DedupIdOption,
    DedupOption,
    DelayOption,
    HeadersOption,
    JsonOption,
    NotBeforeOption,
    TargetArgument,
    UrlOption,
    option_names,
    parse_dedup,
    parse_delay,
    parse_headers,
    parse_not_before,
    url_option,
)
from batchflow.cli.output import (
    STATE_STYLES,
    LogWriter,
    Output,
    first_line,
    format_local_time,
    print_pairs,
    print_table,
    program_name,
    time_column,
)
from batchflow.cli.process import SignalHandler, cancel_and_wait
from batchflow.cli.run_watch import WatchRun
from batchflow.cli.target import check_route, choose_function, load_flow, open_engine
from batchflow.core.duration import humanize_duration
from batchflow.core.report import headline
from batchflow.core.run import Run, RunState, Step
from batchflow.core.secrets import masked_text, masked_value
from batchflow.engine.engine import Engine
from batchflow.errors import ConfigurationError, InputError, NotFoundError, RunFailed, hook_suffix
from batchflow.http.schemas.base import LATEST_MS
from batchflow.http.schemas.runs import CancelRunsResponse, RunDetail, RunInfo, RunList
from batchflow.serve.runs import MAX_PAGE_SIZE, RunHandle, RunPage, list_runs
from batchflow.settings import Settings

_MAX_VALUE_LENGTH = 500
# Of a payload or a result; --json prints all of it.
_RUN_STYLES = {**STATE_STYLES, "timeout": "yellow"}
_MAX_CURSOR_DIGITS = 15
_FINAL_STATES = frozenset({"completed", "failed", "cancelled"})

RunLabelOption = Annotated[str | None, typer.Option(metavar="TEXT", help="Only runs with this label.")]
FunctionOption = Annotated[str | None, typer.Option(metavar="ROUTE", help="Only runs of the function served at ROUTE.")]

group = typer.Typer(cls=CommandGroup, help="List, show, watch, cancel and start runs.", rich_markup_mode=None)


@group.command("list")
@dataclass(frozen=True, kw_only=True)
class ListRuns:
    """List the latest runs, newest first.

    `batchflow runs` without a command does the same.
    """

    target: Annotated[str | None, typer.Argument(metavar="MODULE:ATTR", help="An app whose store to read.")] = None
    state: Annotated[
        str | None,
        typer.Option(metavar="STATE", help="Only runs that are waiting, running, completed, failed or cancelled."),
    ] = None
    function: FunctionOption = None
    label: RunLabelOption = None
    limit: Annotated[int, typer.Option(min=1, max=MAX_PAGE_SIZE, metavar="N", help="Show at most N runs.")] = 20
    cursor: Annotated[str | None, typer.Option(metavar="CURSOR", help="Continue after a page: its nextCursor.")] = None
    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Print the list."""
        url = self.url if self.target is None else load_flow(self.target).settings.url
        route = _with_slash(self.function)
        _check_cursor(self.cursor)
        async with open_engine(url) as engine:
            page = await list_runs(
                engine,
                # `list_runs` raises for an unknown state.
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
            runs = [RunInfo.of(run) for run in page.runs]
            Output().print_json(RunList(runs=runs, next_cursor=page.next_cursor).document())
        else:
            print_runs(Output(), page)
        return 0


@group.command("show")
@dataclass(frozen=True, kw_only=True)
class ShowRun:
    """Show the state, times and steps of a run."""

    id: Annotated[str, typer.Argument(metavar="ID", help="The id of the run, such as run_….")]
    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Print the run."""
        async with open_engine(self.url) as engine:
            found = await _require_run(engine, self.id)
        if self.as_json:
            Output().print_json(RunDetail.of(found).document())
        else:
            print_run(Output(), found)
        return 0


group.command("watch")(WatchRun)


@group.command("cancel")
@dataclass(frozen=True, kw_only=True)
class CancelRuns:
    """Cancel runs by id, or all of a label or function.

    --label alone also cancels the batches with that label. Running ones end at their next step.

    Exit codes: 0 cancelled, 1 all had ended before, 2 usage.
    """

    ids: Annotated[list[str] | None, typer.Argument(metavar="ID", help="The ids of the runs.")] = None
    label: RunLabelOption = None
    function: FunctionOption = None
    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Cancel the runs; 1 if all had ended before."""
        ids = tuple(dict.fromkeys(self.ids or ()))
        self._check_selection(ids)
        async with open_engine(self.url) as engine:
            for id in ids:
                await _require_run(engine, id)
            # Otherwise runs of a dead worker would stay in `running`.
            await engine.store.expire()
            route = _with_slash(self.function)
            cancelled = await operations.cancel(engine, Selection(ids, self.label, route))
            found = [await _require_run(engine, id) for id in ids]
            is_known = route is None or bool((await list_runs(engine, destination=route, limit=1)).runs)
        self._report(cancelled, found, "" if is_known else f": this store has no run of '{route}'")
        return 0 if cancelled else 1

    def _check_selection(self, ids: Sequence[str]) -> None:
        narrowed = self.label is not None or self.function is not None
        if ids and narrowed:
            raise InputError("ids exclude --label and --function; give either")
        if not ids and not narrowed:
            raise InputError("no runs to cancel; give their ids, --label TEXT or --function ROUTE")

    def _report(self, cancelled: int, found: Sequence[Run], why: str) -> None:
        if self.as_json:
            runs = {"runs": [RunInfo.of(run).document() for run in found]} if found else {}
            Output().print_json(CancelRunsResponse(cancelled=cancelled).document() | runs)
        elif len(found) == 1:
            (run,) = found
            if not cancelled:
                Output().print(f"Run {run.id} had ended before: it is {run.state}")
            elif run.state in _FINAL_STATES:
                Output().print(f"Run {run.id} is cancelled")
            else:
                Output().print(f"Run {run.id} is being cancelled: it ends at its next step")
        else:
            rest = len(found) - cancelled
            before = f"; {rest} had ended before" if found and rest else why
            # Batches have labels, too.
            either = self.label is not None and self.function is None
            what = f"run{'' if cancelled == 1 else 's'}" if not either else "of that label, runs and batches"
            Output().print(f"Cancelled {cancelled} {what}{before}")


@group.command("trigger")
@dataclass(frozen=True, kw_only=True)
class TriggerRun:
    """Start a run of the function served at ROUTE.

    ROUTE can be omitted if MODULE:ATTR serves only one function. With --wait this process works until the run ends, and
    prints its result.

    Exit codes: 0 started (with --wait: completed), 1 failed or cancelled, 2 usage, 130 stopped by Ctrl-C.
    """

    target: TargetArgument
    route: Annotated[str | None, typer.Argument(metavar="ROUTE", help="The route of the function.")] = None
    payload: Annotated[
        str | None, typer.Option(metavar="JSON", help="The payload; @FILE reads a file, - reads stdin.")
    ] = None
    pairs: Annotated[
        list[str] | None, typer.Option("-p", metavar="NAME=VALUE", help="A field of the payload; can be repeated.")
    ] = None
    run_id: Annotated[str | None, typer.Option(metavar="ID", help="The id of the run; a known id starts nothing.")] = (
        None
    )
    dedup_id: DedupIdOption = None
    dedup: DedupOption = "kept"
    delay: DelayOption = None
    not_before: NotBeforeOption = None
    headers: HeadersOption = None
    label: Annotated[str | None, typer.Option(metavar="TEXT", help="A name by which to find the run.")] = None
    wait: Annotated[bool, typer.Option("--wait", help="Work until the run ends, and print its result.")] = False
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Load the target, read the payload, and start the run."""
        flow = load_flow(self.target)
        function = choose_function(flow, self.route, self.target)
        if not self.wait and not flow.engine.is_durable:
            raise ConfigurationError(
                f"the state of '{self.target}' is in memory ({flow.settings.url}), and the run would be lost "
                f"after this command; add --wait, or set BATCHFLOW_URL to a file, such as sqlite:///batchflow.db"
            )
        payload = read_payload(function, self.pairs or (), self.payload)
        try:
            await flow.engine.open()
            with option_names():
                handle = await function.trigger(
                    payload,
                    run_id=self.run_id,
                    dedup_id=self.dedup_id,
                    dedup=parse_dedup(self.dedup),
                    delay=parse_delay(self.delay),
                    not_before=parse_not_before(self.not_before),
                    label=self.label,
                    headers=parse_headers(self.headers),
                )
            if self.wait:
                return await self._work_until_end(flow, flow.run(handle.id), function.endpoint.route)
        finally:
            await flow.stop()
        if self.as_json:
            document = {"success": True, "workflowRunId": handle.id, "deduplicated": handle.deduplicated}
            Output().print_json(document)
        else:
            known = ", which was there already" if handle.deduplicated else ""
            Output().print(f"Run {handle.id} of {function.endpoint.route}{known}")
            Output().print(f"  look: {program_name()} runs show {handle.id}{url_option(flow.settings)}")
        return 0

    async def _work_until_end(self, flow: Batchflow, handle: RunHandle[Any], route: str) -> int:
        output = Output()
        if not self.as_json:
            # stdout has the result alone.
            output.stderr.print(f"Run {handle.id} of {route}", soft_wrap=True)
        level = "WARNING" if self.as_json else Settings.load().log_level
        with SignalHandler(flow.settings.grace.total_seconds()) as signals, LogWriter(level, output):
            await flow.start(worker=flow.engine.executes, schedules=False)
            ending = asyncio.create_task(handle.wait())
            if await signals.wait_for(ending):
                return await self._report_end(output, handle, ending)
            await flow.engine.stop()
            await cancel_and_wait(ending)
            if not self.as_json:
                goes_on = "was in memory and is lost"
                if flow.engine.is_durable:
                    goes_on = "continues with the next worker" if flow.engine.executes else "goes on"
                output.stderr.print(f"Stopped. Run {handle.id} {goes_on}.", soft_wrap=True)
            return signals.exit_code

    async def _report_end(self, output: Output, handle: RunHandle[Any], ending: "asyncio.Task[Any]") -> int:
        try:
            await ending
        except RunFailed:
            if not self.as_json:
                raise
        run = await handle.status()
        output.print_json(RunDetail.of(run).document() if self.as_json else masked_value(run.result))
        return 0 if run.state == "completed" else 1


async def _require_run(engine: Engine, id: str) -> Run:
    run = await engine.run_store.run(id)
    if run is None:
        raise NotFoundError(f"there is no run '{id}' here; 'batchflow runs' lists them")
    return run


def _with_slash(function: str | None) -> str | None:
    """A route. The first slash can be omitted: some shells turn a word with one into a path."""
    return function if function is None or function.startswith("/") or "://" in function else f"/{function}"


def _check_cursor(cursor: str | None) -> None:
    # The time in a cursor never has more digits.
    if cursor is not None and len(cursor.partition(".")[0]) > _MAX_CURSOR_DIGITS:
        raise InputError(f"'cursor' cannot be {cursor!r}; write the nextCursor of the page before")


def print_runs(output: Output, page: RunPage) -> None:
    """Print a list of runs, and the cursor of the next page."""
    if not page.runs:
        output.print("No runs")
        return
    created, times = time_column("created", [run.created_at for run in page.runs])
    columns = ["run", "function", "state", created, "took"]
    labelled = any(run.label for run in page.runs)
    rows = [
        [*_run_row(run, time), *([run.label or ""] if labelled else [])]
        for run, time in zip(page.runs, times, strict=True)
    ]
    styles = [_RUN_STYLES.get(run.state, "") for run in page.runs]
    print_table(output, [*columns, *(["label"] if labelled else [])], rows, styles)
    if page.next_cursor is not None:
        output.print(f"more: --cursor {page.next_cursor}", style="dim")


def print_run(output: Output, found: Run) -> None:
    """Print one run with its steps."""
    has_failed_step = any(step.state == "failed" for step in found.journal)
    rows = {
        "run": found.id + (f" ({found.label})" if found.label else ""),
        "function": found.destination,
        "state": found.state,
        "parent": found.parent or "",
        "batch": found.batch or "",
        "payload": truncate(masked_text(found.payload)),
        "result": truncate(masked_text(found.result or "")),
        # The attempts of a step that has failed are those of the step.
        "failures": f"{found.failures:,}" if found.failures and not has_failed_step else "",
        "created": format_local_time(found.created_at),
        "started": format_local_time(found.started_at),
        "ended": format_local_time(found.ended_at),
    }
    print_pairs(output, {name: value for name, value in rows.items() if value})
    if found.error:
        output.print("Last error:" if found.state in ("waiting", "running") else "Error:", style="bold")
        print_error(output, found.error)
    print_steps(output, found)


def print_steps(output: Output, found: Run) -> None:
    """Print the steps of a run."""
    if not found.journal:
        output.print("No steps")
        return
    output.print("Steps:", style="bold")
    since = found.started_at or found.created_at
    cells = [_step_row(step, since) for step in found.steps]
    styles = [_RUN_STYLES.get(step.state, "") for step in found.steps]
    print_table(output, ["step", "kind", "state", "attempts", "recorded", "after", ""], cells, styles)


def _run_row(it: Run, created: str) -> list[str]:
    took = "" if it.ended_at is None else humanize_duration(it.ended_at - it.created_at)
    return [it.id, it.destination, it.state, created, took]


def _step_row(step: Step, since: int) -> list[str]:
    attempts = f"{step.failures + (step.state == 'done')}" if step.kind == "run" else ""
    recorded = step.at if step.position and step.at else None
    return [
        f"{step.name}{hook_suffix(step.name)}",
        step.kind,
        step.state,
        attempts,
        format_local_time(recorded, "%H:%M:%S"),
        "" if recorded is None else humanize_duration(recorded - since),
        first_line(headline(step.error or "")) or _due_text(step),
    ]


def _due_text(step: Step) -> str:
    return f"until {format_local_time(step.due)}" if step.state == "pending" and 0 < step.due <= LATEST_MS else ""


def truncate(text: str) -> str:
    """A text of which not too much fills the terminal."""
    return text if len(text) <= _MAX_VALUE_LENGTH else f"{text[:_MAX_VALUE_LENGTH]} …"
