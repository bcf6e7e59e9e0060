"""`batchflow runs trigger`: start a run of a served function, and work until it has ended if that is wanted."""

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from batchflow.app import Batchflow
from batchflow.cli import documents
from batchflow.cli.interrupt import Interrupt
from batchflow.cli.logs import LogLines
from batchflow.cli.output import Output, program
from batchflow.cli.payload import read_payload
from batchflow.cli.run import url_option
from batchflow.cli.starting import (
    DedupId,
    Delay,
    Headers,
    HowLong,
    NotBefore,
    read_dedup,
    read_delay,
    read_headers,
    read_moment,
)
from batchflow.cli.target import choose_function, load_flow
from batchflow.errors import ConfigurationError, RunFailed
from batchflow.serve.runs import RunHandle
from batchflow.settings import Settings


@dataclass(frozen=True, kw_only=True)
class TriggerRun:
    """Start a run of the function served at ROUTE; ROUTE may be left out where MODULE:ATTR serves only one.

    With --wait this process works until the run has ended, and prints the result.

    Exit codes: 0 started, or completed with --wait; 1 it has failed or was cancelled, 2 usage, 130 stopped by Ctrl-C.
    """

    target: Annotated[str, typer.Argument(metavar="MODULE:ATTR", help="Where the Batchflow is, such as app.jobs:flow.")]
    route: Annotated[str | None, typer.Argument(metavar="ROUTE", help="The route of the function.")] = None
    payload: Annotated[
        str | None, typer.Option(metavar="JSON", help="The payload; @FILE reads a file, - reads stdin.")
    ] = None
    pairs: Annotated[
        list[str] | None, typer.Option("-p", metavar="NAME=VALUE", help="A field of the payload; repeat it for others.")
    ] = None
    run_id: Annotated[
        str | None, typer.Option(metavar="ID", help="The run's id; one that is known starts nothing.")
    ] = None
    dedup_id: DedupId = None
    dedup: HowLong = "kept"
    delay: Delay = None
    not_before: NotBefore = None
    headers: Headers = None
    label: Annotated[str | None, typer.Option(metavar="TEXT", help="A name to know the run by.")] = None
    wait: Annotated[bool, typer.Option("--wait", help="Work until it has ended, and print its result.")] = False
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False

    async def carry_out(self) -> int:
        """Load the target, read the payload, start the run."""
        flow = load_flow(self.target)
        function = choose_function(flow, self.route, self.target)
        if not self.wait and not flow.engine.store.lasting:
            raise ConfigurationError(
                f"the state of '{self.target}' is in memory ({flow.settings.url}), and the run would be lost as this "
                f"command ends; add --wait, or set BATCHFLOW_URL to a file, such as sqlite:///batchflow.db"
            )
        payload = read_payload(function, self.pairs or (), self.payload)
        try:
            await flow.start(worker=False)
            handle = await function.trigger(
                payload,
                run_id=self.run_id,
                dedup_id=self.dedup_id,
                dedup=read_dedup(self.dedup),
                delay=read_delay(self.delay),
                not_before=read_moment(self.not_before),
                label=self.label,
                headers=read_headers(self.headers),
            )
            if self.wait:
                return await self._to_the_end(flow, flow.run(handle.id), function.endpoint.route)
        finally:
            await flow.stop()
        if self.as_json:
            document = {"success": True, "workflowRunId": handle.id, "deduplicated": handle.deduplicated}
            Output().document(document)
        else:
            known = ", which was there already" if handle.deduplicated else ""
            Output().say(f"Run {handle.id} of {function.endpoint.route}{known}")
            Output().say(f"  look: {program()} runs show {handle.id}{url_option(flow.settings)}")
        return 0

    async def _to_the_end(self, flow: Batchflow, handle: RunHandle[Any], route: str) -> int:
        output = Output()
        if not self.as_json:
            # stdout is the result's.
            output.err.print(f"Run {handle.id} of {route}", soft_wrap=True)
        level = "WARNING" if self.as_json else Settings.load().log_level
        with Interrupt(flow.settings.grace.total_seconds()) as interrupt, LogLines(level, output):
            await flow.start(worker=True)
            ending = asyncio.create_task(handle.wait())
            requested = asyncio.create_task(interrupt.requested.wait())
            await asyncio.wait((ending, requested), return_when=asyncio.FIRST_COMPLETED)
            requested.cancel()
            if ending.done():
                return await self._conclude(output, handle, ending)
            await flow.engine.stop()
            ending.cancel()
            await asyncio.wait((ending,))
            if not self.as_json:
                goes_on = "goes on with the next worker" if flow.engine.store.lasting else "was in memory and is gone"
                output.err.print(f"Stopped. Run {handle.id} {goes_on}.", soft_wrap=True)
            return interrupt.exit_code

    async def _conclude(self, output: Output, handle: RunHandle[Any], ending: "asyncio.Task[Any]") -> int:
        try:
            await ending
        except RunFailed:
            if not self.as_json:
                raise
        run = await handle.status()
        output.document(documents.of_run_with_steps(run) if self.as_json else documents.value(run.result))
        return 0 if run.state == "completed" else 1
