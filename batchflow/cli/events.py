"""`batchflow notify` and `batchflow waiters`: events, without the module whose runs wait for them."""

from dataclasses import dataclass
from typing import Annotated

import typer

from batchflow.cli import documents, run_report
from batchflow.cli.output import Output
from batchflow.cli.payload import read_json
from batchflow.cli.place import Json, Url, engine_at
from batchflow.serve.runs import list_waiters, notify_event

Event = Annotated[str, typer.Argument(metavar="EVENT", help="The id of the event.")]


@dataclass(frozen=True, kw_only=True)
class Notify:
    """Give DATA to the runs that wait for EVENT.

    Exit codes: 0 given, 1 no run has got it, 2 usage.
    """

    event: Event
    data: Annotated[
        str, typer.Argument(metavar="[DATA]", help="JSON; @FILE reads a file, - reads stdin; null by default.")
    ] = "null"
    run: Annotated[
        str | None, typer.Option(metavar="ID", help="Only this run; kept for it until it waits for the event.")
    ] = None
    url: Url = None
    as_json: Json = False

    async def carry_out(self) -> int:
        """Notify them."""
        data = read_json(self.data, "DATA")
        async with engine_at(self.url) as engine:
            told = list(await notify_event(engine, self.event, data, self.run))
        if self.as_json:
            Output().document({"success": True, "eventId": self.event, "runIds": told})
        elif told:
            Output().say(f"Notified {', '.join(told)}")
        elif self.run is None:
            Output().say(f"No run waits for '{self.event}'")
        else:
            Output().say(f"Run {self.run} takes nothing: it is not known, has ended, or has too much kept for it")
        return 0 if told else 1


@dataclass(frozen=True, kw_only=True)
class Waiters:
    """List the runs that wait for EVENT, those that have waited longest first."""

    event: Event
    url: Url = None
    as_json: Json = False

    async def carry_out(self) -> int:
        """List them."""
        async with engine_at(self.url) as engine:
            found = await list_waiters(engine, self.event)
        if self.as_json:
            Output().document({"eventId": self.event, "waiters": [documents.of_waiter(it) for it in found]})
        else:
            run_report.waiters(Output(), self.event, found)
        return 0
