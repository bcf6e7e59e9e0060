"""`batchflow runs watch`: follows one run to its end."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from batchflow.cli.failures import print_error
from batchflow.cli.options import JsonOption, UrlOption
from batchflow.cli.output import STATE_STYLES, Output, first_line, format_local_time
from batchflow.cli.target import open_engine
from batchflow.core.codec import Codec
from batchflow.core.duration import humanize_duration
from batchflow.core.report import headline
from batchflow.core.run import Run, Step
from batchflow.engine.engine import Engine
from batchflow.errors import StoreUnavailable, hook_suffix
from batchflow.http.schemas.base import LATEST_MS
from batchflow.http.schemas.runs import RunDetail
from batchflow.serve.runs import RunHandle, find_run_wait_reason

_POLL_SECONDS = 0.5
_RETRY_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class WatchRun:
    """Follow a run until it ends: a line for each of its steps, and why it waits.

    With --json the run is printed once it has ended.

    Exit codes: 0 completed, 1 failed or cancelled, 2 usage, 130 stopped by Ctrl-C, after which the run goes on.
    """

    id: Annotated[str, typer.Argument(metavar="ID", help="The id of the run, such as run_….")]
    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Print the progress of the run; 1 if it has not completed."""
        output = Output()
        async with open_engine(self.url) as engine:
            lines = _RunLines(output, silent=self.as_json)
            run: Run | None = None
            async for run in _progress(engine, self.id, lines):
                await lines.update(engine, run)
        assert run is not None
        if self.as_json:
            output.print_json(RunDetail.of(run).document())
        return 0 if run.state == "completed" else 1


async def _progress(engine: Engine, id: str, lines: "_RunLines") -> AsyncIterator[Run]:
    """Yield the run until it has ended. Reads are repeated while the store is unavailable."""
    handle: RunHandle[Any] = RunHandle(id, Codec.of(Any), engine)
    while True:
        try:
            async for run in handle.progress(_POLL_SECONDS):
                yield run
            return
        except StoreUnavailable as error:
            lines.report_outage(error)
            await asyncio.sleep(_RETRY_SECONDS)


class _RunLines:
    """Prints what is new about one run since the last time."""

    def __init__(self, output: Output, *, silent: bool) -> None:
        self._output = output
        self._silent = silent
        self._seen: Run | None = None
        self._steps: dict[int, str] = {}
        self._reason: str | None = None

    async def update(self, engine: Engine, run: Run) -> None:
        """Print the steps that are new, why the run waits, and its end."""
        if self._silent:
            return
        before, self._seen = self._seen, run
        if before is None:
            label = f" ({run.label})" if run.label else ""
            self._output.print(f"Run {run.id} of {run.destination}{label}: {run.state}", style="bold")
        for step in sorted(run.steps, key=lambda it: it.position or len(run.steps) + it.number):
            self._print_step(step)
        if run.ended_at is not None:
            self._print_end(run)
        # The reason of a run that has just begun to wait may be over with the next look; a step tells its own time.
        elif before == run and not (run.due_at and any(step.state == "pending" for step in run.steps)):
            reason = await find_run_wait_reason(engine.run_store, run, engine.now())
            if reason is not None and reason != self._reason:
                self._print(engine.now(), reason, "yellow")
            self._reason = reason

    def report_outage(self, error: StoreUnavailable) -> None:
        """Print that the store is away, unless that is what was printed last."""
        reason = f"the store is away, trying again: {str(error).partition('; it is tried again')[0]}"
        if reason != self._reason and not self._silent:
            self._print(None, reason, "yellow")
        self._reason = reason

    def _print_step(self, step: Step) -> None:
        text = f"{step.name}{hook_suffix(step.name)}: {step.state}"
        if step.state == "pending":
            text += f" until {format_local_time(step.due)}" if 0 < step.due <= LATEST_MS else ""
        if step.failures and step.kind == "run":
            text += f", {step.failures} failed attempt{'' if step.failures == 1 else 's'}"
        text += f": {error}" if (error := first_line(headline(step.error or ""))) else ""
        if self._steps.get(step.number) != text:
            self._steps[step.number] = text
            self._print(step.at or None, text, STATE_STYLES.get(step.state, ""))

    def _print_end(self, run: Run) -> None:
        took = humanize_duration((run.ended_at or run.created_at) - run.created_at)
        self._print(run.ended_at, f"{run.state} after {took}", STATE_STYLES.get(run.state, ""))
        if run.error:
            print_error(self._output, run.error)

    def _print(self, at: int | None, text: str, style: str) -> None:
        self._output.print(f"{format_local_time(at, '%H:%M:%S') or ' ' * 8}  {text}", style=style, flush=True)
