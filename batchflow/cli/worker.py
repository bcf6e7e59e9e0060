"""`batchflow worker`: work for all workflows of an app until told to stop."""

import asyncio
import os
import sys
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from batchflow.app import Batchflow
from batchflow.cli.interrupt import Interrupt
from batchflow.cli.logs import LogLines
from batchflow.cli.output import Output
from batchflow.cli.supervisor import Supervisor
from batchflow.cli.target import load_flow
from batchflow.core.duration import show
from batchflow.errors import ConfigurationError, InputError
from batchflow.settings import Settings
from batchflow.stores.sqlite import SqliteStore

_CONCURRENCY = "BATCHFLOW_CONCURRENCY"
_NAME = "BATCHFLOW_WORKER_NAME"
_MORE_SECONDS = 2.0
# Processes that cut themselves off are waited for so much longer.


@dataclass(frozen=True, kw_only=True)
class Worker:
    """Do the work of all workflows of MODULE:ATTR until SIGTERM or Ctrl-C.

    Any number of workers may share a store. What is under way when it is stopped has the grace
    (BATCHFLOW_GRACE, 10 seconds) to end; the rest is given back.

    A store that is away is waited for, at the start as well.

    Exit codes: 0 stopped, 2 usage, configuration or a store that is none for this, 130 and 143 left at once.
    """

    target: Annotated[str, typer.Argument(metavar="MODULE:ATTR", help="Where the Batchflow is, such as app.jobs:flow.")]
    concurrency: Annotated[
        int | None, typer.Option(min=1, max=100_000, metavar="N", help="How much each may have under way at once.")
    ] = None
    processes: Annotated[
        int, typer.Option(min=1, max=1_000, metavar="N", help="How many processes work; one that dies is replaced.")
    ] = 1
    name: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What the worker's name begins with, instead of the machine's.")
    ] = None

    async def carry_out(self) -> int:
        """Work until a signal comes."""
        flow = self._load()
        return await (work(flow, Output()) if self.processes == 1 else self._supervise(flow, Output()))

    async def _supervise(self, flow: Batchflow, output: Output) -> int:
        if sys.platform == "win32":
            raise InputError("--processes stops its processes by signals, which Windows has not; start several workers")
        store, settings = flow.engine.store, flow.settings
        if isinstance(store, SqliteStore) and store.path == ":memory:":
            raise InputError(f"'{settings.url}' is the memory of one process; name a file, or leave --processes out")
        supervisor = Supervisor([sys.executable, "-m", "batchflow.cli.supervised", self.target], self.processes)
        interrupt = Interrupt(settings.grace.total_seconds() + _MORE_SECONDS, supervisor.kill)
        with interrupt, LogLines(Settings.load().log_level, output):
            try:
                # What is wrong with the store is told once, by this process.
                if not await _unless_stopped(interrupt, flow.engine.open(wait=True)):
                    output.say("Stopped")
                    return 0
            finally:
                await flow.stop()
            what = f"{_served(flow)} at {settings.place} with {self.processes} processes"
            output.say(f"Working for {what}; Ctrl-C stops them", at_once=True)
            code = await supervisor.run(interrupt, lambda: _say_stopping(flow, output))
            output.say("Stopped")
        return code

    def _load(self) -> Batchflow:
        # An engine is made with its app; the environment is where it looks, and so do the processes of a supervisor.
        if self.concurrency is not None:
            os.environ[_CONCURRENCY] = str(self.concurrency)
        if self.name is not None:
            os.environ[_NAME] = self.name
        flow = load_flow(self.target)
        if self.concurrency is not None and flow.settings.concurrency != self.concurrency:
            raise ConfigurationError(
                f"'{self.target}' sets its concurrency to {flow.settings.concurrency} itself; change it there"
            )
        if not flow.workflows and not flow.served:
            raise InputError(f"'{self.target}' has nothing to work for; add a workflow with flow.add(…)")
        return flow


async def work(flow: Batchflow, output: Output) -> int:
    """Work in this process until a signal comes; the exit code."""
    with Interrupt(flow.settings.grace.total_seconds()) as interrupt, LogLines(Settings.load().log_level, output):
        try:
            if await _unless_stopped(interrupt, flow.start(worker=True)):
                output.say(f"Working for {_served(flow)} at {flow.settings.place}; Ctrl-C stops it", at_once=True)
                await interrupt.requested.wait()
                _say_stopping(flow, output)
        finally:
            await flow.stop()
        output.say("Stopped")
    return 0


async def _unless_stopped(interrupt: Interrupt, start: Coroutine[Any, Any, None]) -> bool:
    """Start, however long that waits for its store; False where a signal has come first."""
    starting, requested = asyncio.create_task(start), asyncio.create_task(interrupt.requested.wait())
    await asyncio.wait((starting, requested), return_when=asyncio.FIRST_COMPLETED)
    requested.cancel()
    if not starting.done():
        starting.cancel()
        await asyncio.wait((starting,))
        return False
    await starting
    return True


def _say_stopping(flow: Batchflow, output: Output) -> None:
    grace = show(int(flow.settings.grace.total_seconds() * 1000))
    output.say(f"Stopping: what is under way has {grace} to end", at_once=True)


def _served(flow: Batchflow) -> str:
    return ", ".join([*sorted(flow.workflows), *sorted(flow.served)])
