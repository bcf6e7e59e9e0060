"""`batchflow worker`: work for all workflows of an app until told to stop."""

import os
from dataclasses import dataclass
from typing import Annotated

import typer

from batchflow.app import Batchflow
from batchflow.cli.interrupt import Interrupt
from batchflow.cli.logs import LogLines
from batchflow.cli.output import Output
from batchflow.cli.target import load_flow
from batchflow.core.duration import show
from batchflow.errors import ConfigurationError, InputError
from batchflow.settings import Settings

_CONCURRENCY = "BATCHFLOW_CONCURRENCY"


@dataclass(frozen=True, kw_only=True)
class Worker:
    """Do the work of all workflows of MODULE:ATTR until SIGTERM or Ctrl-C.

    Any number of workers may share a store. What is under way when it is stopped has the grace
    (BATCHFLOW_GRACE, 10 seconds) to end; the rest is given back.
    """

    target: Annotated[str, typer.Argument(metavar="MODULE:ATTR", help="Where the Batchflow is, such as app.jobs:flow.")]
    concurrency: Annotated[
        int | None, typer.Option(min=1, max=100_000, metavar="N", help="How much may be under way at once.")
    ] = None

    async def carry_out(self) -> int:
        """Work until a signal comes."""
        flow = self._load()
        output = Output()
        grace = flow.settings.grace.total_seconds()
        with Interrupt(grace) as interrupt, LogLines(Settings.load().log_level, output):
            try:
                await flow.start(worker=True)
                output.say(f"Working for {_served(flow)} at {flow.settings.url}; Ctrl-C stops it")
                output.out.file.flush()
                await interrupt.requested.wait()
                output.say(f"Stopping: what is under way has {show(int(grace * 1000))} to end")
                output.out.file.flush()
            finally:
                await flow.stop()
            output.say("Stopped")
        return 0

    def _load(self) -> Batchflow:
        if self.concurrency is not None:
            # An engine is made with its app; the environment is where it looks.
            os.environ[_CONCURRENCY] = str(self.concurrency)
        flow = load_flow(self.target)
        if self.concurrency is not None and flow.settings.concurrency != self.concurrency:
            raise ConfigurationError(
                f"'{self.target}' sets its concurrency to {flow.settings.concurrency} itself; change it there"
            )
        if not flow.workflows and not flow.served:
            raise InputError(f"'{self.target}' has nothing to work for; add a workflow with flow.add(…)")
        return flow


def _served(flow: Batchflow) -> str:
    return ", ".join([*sorted(flow.workflows), *sorted(flow.served)])
