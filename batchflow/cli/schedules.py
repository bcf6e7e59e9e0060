"""`batchflow schedules`: lists, shows, makes, pauses, resumes, fires and deletes schedules."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, cast

import typer
from pydantic_core import to_json

from batchflow.batch.bound import Workflow
from batchflow.batch.schedules import ScheduleAdmin
from batchflow.cli.groups import CommandGroup
from batchflow.cli.inputs import read_params, read_payload
from batchflow.cli.options import (
    HeadersOption,
    JsonOption,
    TargetArgument,
    UrlOption,
    YesOption,
    confirm,
    option_names,
    parse_headers,
)
from batchflow.cli.output import Output, print_pairs, print_table, program_name, time_column
from batchflow.cli.target import load_flow, open_engine
from batchflow.core.ports import ScheduleTarget
from batchflow.core.schedule import Cron, Overlap, ScheduleStatus
from batchflow.engine.engine import Engine
from batchflow.errors import ConfigurationError
from batchflow.http.schemas.schedules import (
    UPCOMING,
    DeleteScheduleResponse,
    ScheduleInfo,
    ScheduleList,
    TriggerScheduleResponse,
    served_by,
    shown_payload,
)
from batchflow.serve.functions import ServedFunction

_TIME = "%Y-%m-%d %H:%M %z"

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The id of the schedule.")]

group = typer.Typer(
    cls=CommandGroup,
    help="List, show, make, pause, resume, fire and delete schedules.",
    rich_markup_mode=None,
    no_args_is_help=False,
)


@group.command("list")
@dataclass(frozen=True, kw_only=True)
class ListSchedules:
    """List the schedules, with their next fires."""

    limit: Annotated[int, typer.Option(min=1, max=500, help="The most schedules to list.")] = 100
    cursor: Annotated[str | None, typer.Option(metavar="ID", help="List those after this id.")] = None
    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Print the list."""
        async with open_engine(self.url) as engine:
            found = await ScheduleAdmin(engine).list(after=self.cursor or "", limit=self.limit + 1)
            served = await _served(engine, found)
        page, more = found[: self.limit], len(found) > self.limit
        if self.as_json:
            cursor = page[-1].id if more else None
            document = ScheduleList(schedules=[ScheduleInfo.of(it, served) for it in page], next_cursor=cursor)
            Output().print_json(document.document())
            return 0
        _print_schedules(Output(), page, served)
        if more:
            Output().print(f"More: --cursor {page[-1].id}", style="dim")
        return 0


@group.command("show")
@dataclass(frozen=True, kw_only=True)
class ShowSchedule:
    """Show a schedule: its next fires, its latest ones, its payload."""

    id: IdArgument
    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Print the schedule."""
        async with open_engine(self.url) as engine:
            status = await ScheduleAdmin(engine).get(self.id)
            served = await _served(engine, [status])
        _print_status(status, served, as_json=self.as_json)
        return 0


@group.command("create")
@dataclass(frozen=True, kw_only=True)
class CreateSchedule:
    """Make a schedule of the workflow or function NAME, at the times of CRON.

    CRON has five fields in quotes: '0 3 * * *' is each day at 03:00. With the --id of a schedule that was made so
    before, this replaces it.
    """

    target: TargetArgument
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of the workflow, or the route of the function.")]
    cron: Annotated[str, typer.Argument(metavar="CRON", help="The cron expression, such as '0 3 * * *'.")]
    id: Annotated[str | None, typer.Option(metavar="ID", help="The id; a new one by default.")] = None
    timezone: Annotated[
        str | None, typer.Option(metavar="ZONE", help="The time zone of CRON, such as Europe/Berlin; UTC by default.")
    ] = None
    payload: Annotated[
        str | None, typer.Option("--params", "--payload", metavar="JSON", help="As JSON; @FILE reads a file.")
    ] = None
    pairs: Annotated[
        list[str] | None, typer.Option("-p", metavar="NAME=VALUE", help="A parameter; can be repeated.")
    ] = None
    overlap: Annotated[
        str, typer.Option(metavar="RULE", help="While the previous fire has not ended: skip, queue or allow.")
    ] = "skip"
    label: Annotated[str | None, typer.Option(metavar="TEXT", help="The label of its batches and runs.")] = None
    headers: HeadersOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Load the target and make the schedule."""
        # Here it is an argument, and no option.
        Cron.parse(self.cron)
        flow = load_flow(self.target)
        _check_durable(flow.engine.is_durable, self.target)
        found = flow.schedules.target(self.name)
        params, payload = self._read_input(found)
        try:
            await flow.engine.open()
            with option_names():
                status = await flow.schedules.create(
                    found,
                    self.cron,
                    id=self.id,
                    timezone=self.timezone,
                    params=params,
                    payload=payload,
                    overlap=cast("Overlap", self.overlap),
                    label=self.label,
                    headers=parse_headers(self.headers),
                )
            served = await _served(flow.engine, [status])
        finally:
            await flow.stop()
        _print_status(status, served, as_json=self.as_json)
        return 0

    def _read_input(self, target: ScheduleTarget) -> tuple[object, object]:
        """The parameters for a workflow, or the payload for a function; None without any."""
        pairs = self.pairs or ()
        if not pairs and self.payload is None:
            return None, None
        if isinstance(target, Workflow):
            return read_params(cast("Workflow[Any, Any]", target), pairs, self.payload), None
        return None, read_payload(cast("ServedFunction[Any, Any]", target), pairs, self.payload)


@group.command("pause")
@dataclass(frozen=True, kw_only=True)
class PauseSchedule:
    """Fire a schedule no more until 'resume'; a deploy does not undo this."""

    id: IdArgument
    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Pause the schedule."""
        async with open_engine(self.url) as engine:
            status = await ScheduleAdmin(engine).pause(self.id)
            served = await _served(engine, [status])
        if self.as_json:
            Output().print_json(ScheduleInfo.of(status, served).document())
        else:
            Output().print(f"Schedule {self.id} is paused")
        return 0


@group.command("resume")
@dataclass(frozen=True, kw_only=True)
class ResumeSchedule:
    """Fire a paused schedule again, from its next time on."""

    id: IdArgument
    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Resume the schedule."""
        async with open_engine(self.url) as engine:
            status = await ScheduleAdmin(engine).resume(self.id)
            served = await _served(engine, [status])
        if self.as_json:
            Output().print_json(ScheduleInfo.of(status, served).document())
        else:
            upcoming = _times(status, 1)
            Output().print(f"Schedule {self.id} fires next at {upcoming[0] if upcoming else 'no time'}")
        return 0


@group.command("trigger")
@dataclass(frozen=True, kw_only=True)
class TriggerSchedule:
    """Fire a schedule now, paused or not. Its next fire stays.

    A fire while the previous one has not ended is skipped or queued, as the schedule says.

    Exit codes: 0 fired or queued, 1 skipped, 2 usage.
    """

    target: TargetArgument
    id: IdArgument
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Load the target and fire the schedule; 1 if it was skipped."""
        flow = load_flow(self.target)
        _check_durable(flow.engine.is_durable, self.target)
        try:
            await flow.engine.open()
            result = await flow.schedules.trigger(self.id)
            fired = [] if result.schedule is None else [result.schedule]
            document = TriggerScheduleResponse.of(result, await _served(flow.engine, fired))
        finally:
            await flow.stop()
        if self.as_json:
            Output().print_json(document.document())
        elif document.started_id is not None:
            kind = "batches" if document.started_id.startswith("bat_") else "runs"
            Output().print(f"Started {document.started_id}")
            Output().print(f"  look: {program_name()} {kind} show {document.started_id}")
        elif result.outcome == "queued":
            Output().print("Queued until the previous fire has ended")
        else:
            last = result.schedule.last_id if result.schedule is not None else None
            Output().print(f"Skipped: {last or 'the previous fire'} has not ended")
        return 0 if result.outcome in ("fired", "queued") else 1


@group.command("delete")
@dataclass(frozen=True, kw_only=True)
class DeleteSchedule:
    """Delete a schedule; what it has started goes on.

    A schedule that code declares comes back with the next worker of that code: pause it instead.
    """

    id: IdArgument
    yes: YesOption = False
    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Ask, and delete the schedule."""
        async with open_engine(self.url) as engine:
            admin = ScheduleAdmin(engine)
            schedule = (await admin.get(self.id)).schedule
            comes_back = f", which the code of {schedule.target} may declare again" if schedule.declared else ""
            confirm(f"Delete the schedule {self.id} ({schedule.cron.expression}){comes_back}?", yes=self.yes)
            await admin.delete(self.id)
        if self.as_json:
            Output().print_json(DeleteScheduleResponse(schedule_id=self.id).document())
        else:
            Output().print(f"Deleted schedule {self.id}")
        return 0


async def _served(engine: Engine, schedules: Iterable[ScheduleStatus]) -> Collection[str]:
    """The destinations of live workers, or where something else calls the app, those of the schedules."""
    if not engine.executes:
        return {it.schedule.destination for it in schedules}
    return served_by(await engine.store.workers())


def _check_durable(is_durable: bool, target: str) -> None:
    if not is_durable:
        raise ConfigurationError(
            f"the state of '{target}' is in memory, and would be lost after this command; set BATCHFLOW_URL to a file, "
            "such as sqlite:///batchflow.db"
        )


def _print_status(status: ScheduleStatus, served: Collection[str], *, as_json: bool) -> None:
    output = Output()
    if as_json:
        output.print_json(ScheduleInfo.of(status, served).document())
        return
    schedule, payload = status.schedule, shown_payload(status.schedule)
    output.print(f"Schedule {status.id}: starts {schedule.target}", style="bold")
    rows = {
        "cron": f"{schedule.cron.expression} ({schedule.cron.timezone})",
        "next": ", ".join(_times(status, 1)),
        "then": ", ".join(_time(status, at, "%a %m-%d %H:%M") for at in status.upcoming(UPCOMING)[1:]),
        "params" if schedule.starts == "batch" else "payload": to_json(payload).decode() if payload else "",
        "overlap": schedule.overlap,
        "label": schedule.label or "",
        "fires": _fires_text(status),
        "last": "" if status.last_at is None else f"{_time(status, status.last_at)}, {status.last_id}",
        "queued": "" if status.queued_at is None else _time(status, status.queued_at),
        "made": "by the code of its target" if schedule.declared else "at run time",
        "note": _note(status, served),
        "error": status.error or "",
    }
    print_pairs(output, {name: value for name, value in rows.items() if value}, "  ")


def _fires_text(status: ScheduleStatus) -> str:
    if not status.skips or status.skipped_at is None:
        return f"{status.fires:,}"
    return f"{status.fires:,}, and {status.skips:,} skipped, the last at {_time(status, status.skipped_at)}"


def _times(status: ScheduleStatus, count: int) -> list[str]:
    return [_time(status, at) for at in status.upcoming(count)]


def _time(status: ScheduleStatus, at: int, format: str = _TIME) -> str:
    """A time in the time zone of the schedule."""
    return status.schedule.cron.local_time(at).strftime(format)


def _print_schedules(output: Output, found: Sequence[ScheduleStatus], served: Collection[str]) -> None:
    if not found:
        output.print("No schedules")
        return
    upcoming = [next(iter(it.upcoming(1)), None) for it in found]
    next_title, next_times = time_column("next", upcoming)
    last_title, last_times = time_column("last", [it.last_at for it in found])
    rows = [
        (it.id, it.schedule.cron.expression, it.schedule.cron.timezone, next_at, last_at, _note(it, served))
        for it, next_at, last_at in zip(found, next_times, last_times, strict=True)
    ]
    styles = ["red" if it.error else "yellow" if _note(it, served) else "" for it in found]
    print_table(output, ["schedule", "cron", "time zone", next_title, last_title, ""], rows, styles)


def _note(status: ScheduleStatus, served: Collection[str]) -> str:
    notes = [
        "paused" if status.paused else "",
        "" if status.schedule.destination in served else "no worker serves it",
        "one fire waits" if status.queued_at is not None else "",
        "the latest fire failed" if status.error else "",
        f"{status.skips:,} skipped" if status.skips else "",
    ]
    return ", ".join(filter(None, notes))
