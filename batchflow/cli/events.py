"""`batchflow notify` and `batchflow waiters`: send an event, and list the runs that wait for one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from batchflow.cli.inputs import read_json
from batchflow.cli.options import JsonOption, UrlOption
from batchflow.cli.output import Output, format_local_time, print_table, time_column
from batchflow.cli.target import open_engine
from batchflow.core.run import Waiter
from batchflow.http.schemas.base import LATEST_MS
from batchflow.http.schemas.events import NotifyResponse, WaiterInfo, WaiterList
from batchflow.serve.runs import list_waiters, notify_event

EventArgument = Annotated[str, typer.Argument(metavar="EVENT", help="The id of the event.")]


@dataclass(frozen=True, kw_only=True)
class NotifyRuns:
    """Send DATA to the runs that wait for EVENT.

    Exit codes: 0 sent, 1 no run has received it, 2 usage.
    """

    event: EventArgument
    data: Annotated[str, typer.Argument(metavar="DATA", help="JSON; @FILE reads a file, - reads stdin.")] = "null"
    run: Annotated[
        str | None, typer.Option(metavar="ID", help="Only this run; kept until the run waits for the event.")
    ] = None
    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Send the event."""
        data = read_json(self.data, "DATA")
        async with open_engine(self.url) as engine:
            notified = list(await notify_event(engine, self.event, data, self.run))
        if self.as_json:
            Output().print_json(NotifyResponse(event_id=self.event, run_ids=notified).document())
        elif notified:
            Output().print(f"Notified {', '.join(notified)}")
        elif self.run is None:
            Output().print(f"No run waits for '{self.event}'")
        else:
            Output().print(f"Run {self.run} cannot receive it: unknown, ended, or too many events are kept for it")
        return 0 if notified else 1


@dataclass(frozen=True, kw_only=True)
class ListWaiters:
    """List the runs that wait for EVENT, the longest wait first."""

    event: EventArgument
    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Print the list."""
        async with open_engine(self.url) as engine:
            found = await list_waiters(engine, self.event)
        if self.as_json:
            waiters = [WaiterInfo.of(it) for it in found]
            Output().print_json(WaiterList(event_id=self.event, waiters=waiters).document())
        else:
            print_waiters(Output(), self.event, found)
        return 0


def print_waiters(output: Output, event: str, found: Sequence[Waiter]) -> None:
    """Print the runs that wait for an event."""
    if not found:
        output.print(f"No run waits for '{event}'")
        return
    since, times = time_column("since", [it.since or None for it in found], "%Y-%m-%d %H:%M:%S")
    rows = [[it.run, it.step, time, _until_text(it)] for it, time in zip(found, times, strict=True)]
    print_table(output, ["run", "step", since, "until"], rows, [""] * len(rows))


def _until_text(it: Waiter) -> str:
    return "" if it.until is None or it.until > LATEST_MS else format_local_time(it.until)
