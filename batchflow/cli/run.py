"""`batchflow run`: a dry run, or a batch from its trigger to its end."""

import asyncio
import shlex
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from pydantic import BaseModel

from batchflow.app import Batchflow
from batchflow.batch.bound import Workflow
from batchflow.batch.handle import BatchHandle
from batchflow.batch.statistics import Statistics
from batchflow.batch.triggering import BatchTrigger
from batchflow.cli import documents, report
from batchflow.cli.display import Display, display_for
from batchflow.cli.interrupt import Interrupt
from batchflow.cli.logs import LogLines
from batchflow.cli.output import Output, program
from batchflow.cli.parameters import read_params
from batchflow.cli.resume import Request, find_open
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
from batchflow.cli.target import choose_workflow, load_flow
from batchflow.cli.watch import watch
from batchflow.core.duration import show
from batchflow.errors import InputError
from batchflow.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Run:
    """Run a batch of WORKFLOW to its end, and show how it goes.

    The same command again goes on with a batch that was interrupted. WORKFLOW may be left out where MODULE:ATTR has
    only one.

    Exit codes: 0 done, 1 items failed or the batch did, 2 usage, 130 stopped by Ctrl-C.
    """

    target: Annotated[str, typer.Argument(metavar="MODULE:ATTR", help="Where the Batchflow is, such as app.jobs:flow.")]
    workflow: Annotated[str | None, typer.Argument(metavar="WORKFLOW", help="The name of the workflow.")] = None
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be done.")] = False
    pairs: Annotated[
        list[str] | None, typer.Option("-p", metavar="NAME=VALUE", help="A parameter; repeat it for others.")
    ] = None
    params: Annotated[str | None, typer.Option(metavar="JSON", help="The parameters as one JSON object.")] = None
    force: Annotated[bool, typer.Option("--force", help="Run items that are already processed, too.")] = False
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Stop after so many items.")] = None
    ids: Annotated[str | None, typer.Option(metavar="A,B", help="Run exactly these items, whatever was done.")] = None
    label: Annotated[str | None, typer.Option(metavar="TEXT", help="A name to know the batch by.")] = None
    batch_id: Annotated[
        str | None, typer.Option(metavar="ID", help="The batch's id, bat_…; one that is known is gone on with.")
    ] = None
    dedup_id: DedupId = None
    dedup: HowLong = "kept"
    delay: Delay = None
    not_before: NotBefore = None
    headers: Headers = None
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show all log lines while the bar is shown.")] = False

    async def carry_out(self) -> int:
        """Load the target and run."""
        flow = load_flow(self.target)
        workflow = choose_workflow(flow, self.workflow, self.target)
        params = read_params(workflow, self.pairs or (), self.params)
        ids = self._ids(workflow)
        if self.dry_run:
            return await self._count(flow, workflow, params)
        options = BatchTrigger(
            force=self.force,
            limit=self.limit,
            ids=ids,
            label=self.label,
            batch_id=self.batch_id,
            dedup_id=self.dedup_id,
            dedup=read_dedup(self.dedup),
            delay=read_delay(self.delay),
            not_before=read_moment(self.not_before),
            headers=read_headers(self.headers),
        )
        request = Request(params=params, options=options)
        with Interrupt(flow.settings.grace.total_seconds()) as interrupt:
            return await _Running(self, flow, workflow, interrupt).run(request)

    def spelled(self, workflow: str) -> str:
        """The command line that asks for this again."""
        words = [self.target, workflow]
        words += [word for pair in self.pairs or () for word in ("-p", pair)]
        given = {
            "--params": self.params,
            "--limit": self.limit,
            "--ids": self.ids,
            "--batch-id": self.batch_id,
            "--dedup-id": self.dedup_id,
        }
        for option, value in given.items():
            words += [] if value is None else [option, str(value)]
        words += ["--dedup", self.dedup] if self.dedup != "kept" else []
        words += ["--force"] if self.force else []
        return f"{program()} run {shlex.join(words)}"

    def _ids(self, workflow: Workflow[Any, Any]) -> list[str] | None:
        if self.ids is None and "fetch" not in workflow.definition.has:
            raise InputError(f"'{workflow.name}' has no source of ids; name the items with --ids a,b")
        if self.ids is None:
            return None
        if self.dry_run:
            raise InputError("--dry-run counts what the workflow's source names; leave --ids out")
        if self.limit is not None:
            raise InputError("--ids and --limit exclude each other; name fewer ids")
        ids = [id.strip() for id in self.ids.split(",") if id.strip()]
        if not ids:
            raise InputError("--ids names nothing; write --ids a,b")
        return ids

    async def _count(self, flow: Batchflow, workflow: Workflow[Any, Any], params: BaseModel) -> int:
        if self.limit is not None:
            raise InputError("--dry-run counts everything; leave --limit out")
        with Interrupt(flow.settings.grace.total_seconds()) as interrupt:
            counting = asyncio.create_task(self._statistics(flow, workflow, params))
            requested = asyncio.create_task(interrupt.requested.wait())
            await asyncio.wait((counting, requested), return_when=asyncio.FIRST_COMPLETED)
            requested.cancel()
            if not counting.done():
                counting.cancel()
                await asyncio.wait((counting,))
                return interrupt.exit_code
            statistics = await counting
        if self.as_json:
            Output().document(statistics.model_dump(mode="json", by_alias=True))
        else:
            report.statistics(Output(), workflow, statistics)
        return 0

    async def _statistics(self, flow: Batchflow, workflow: Workflow[Any, Any], params: BaseModel) -> Statistics:
        try:
            await flow.start(worker=False)
            return await workflow.dry_run(params, force=self.force)
        finally:
            await flow.stop()


class _Running:
    """One batch, from the trigger or its resumption to the summary."""

    def __init__(self, asked: Run, flow: Batchflow, workflow: Workflow[Any, Any], interrupt: Interrupt) -> None:
        self._asked = asked
        self._flow = flow
        self._workflow = workflow
        self._interrupt = interrupt
        self._output = Output()
        self._resumed = False
        self._deduplicated = False

    async def run(self, request: Request) -> int:
        asked = self._asked
        level = "WARNING" if asked.as_json and not asked.verbose else Settings.load().log_level
        with LogLines(level, self._output, verbose=asked.verbose) as lines:
            try:
                await self._flow.start(worker=False)
                handle = await self._handle(request)
                with display_for(self._output, lines, silent=asked.as_json) as shown:
                    ended = await self._watch(handle, shown)
                return await self._conclude(handle) if ended else await self._interrupted(handle)
            finally:
                await self._flow.stop()

    async def _handle(self, request: Request) -> BatchHandle[Any]:
        """The batch that this command goes on with, or a new one."""
        found = await find_open(self._workflow, self._flow.engine, request)
        self._resumed = found.same is not None
        if found.same is not None:
            handle = self._workflow.batch(found.same.id)
            self._say(report.resuming(found.same))
        else:
            handle = await request.trigger(self._workflow)
            self._deduplicated = handle.deduplicated
            known = ", which was there already" if handle.deduplicated else ""
            self._say(f"Batch {handle.id} of {self._workflow.name}{known}")
        for other in found.others:
            self._say(f"Batch {other} is open too, with other parameters; what it has in flight is skipped here")
        return handle

    async def _watch(self, handle: BatchHandle[Any], shown: Display) -> bool:
        """Work until the batch has ended, or until a signal; True where it has ended."""
        await self._flow.start(worker=True)
        watching = asyncio.create_task(watch(handle, self._workflow, self._flow, shown))
        requested = asyncio.create_task(self._interrupt.requested.wait())
        await asyncio.wait((watching, requested), return_when=asyncio.FIRST_COMPLETED)
        requested.cancel()
        if watching.done():
            await watching
            return True
        grace = show(int(self._flow.settings.grace.total_seconds() * 1000))
        self._say(f"Stopping: what is under way has {grace} to end; Ctrl-C again leaves at once")
        await self._flow.engine.stop()
        watching.cancel()
        await asyncio.wait((watching,))
        return (await handle.status()).is_final

    async def _conclude(self, handle: BatchHandle[Any]) -> int:
        summary = await handle.wait()
        failures = await report.first_failures(handle) if summary.counts.failed else ()
        sentence = documents.headline(summary, self._workflow.definition.plural)
        if self._asked.as_json:
            self._output.document(documents.of_summary(summary, sentence) | self._begun)
        else:
            report.summary(self._output, summary, sentence, failures)
        return 0 if summary.succeeded else 1

    async def _interrupted(self, handle: BatchHandle[Any]) -> int:
        status = await handle.status()
        if self._asked.as_json:
            self._output.document(documents.of_status(status) | self._begun)
            return self._interrupt.exit_code
        done = f"{status.counts.ended:,} of {status.total:,}{'' if status.is_total_known else ' so far'}"
        if not self._flow.engine.store.lasting:
            self._say(f"Stopped. {done} items were done; the state was in memory and is gone.")
            return self._interrupt.exit_code
        self._say(f"Stopped. {done} items are done, the rest is given back.")
        self._say(f"  go on:  {self._asked.spelled(self._workflow.name)}")
        self._say(f"  cancel: {program()} batches cancel {handle.id}{url_option(self._flow.settings)}")
        return self._interrupt.exit_code

    @property
    def _begun(self) -> dict[str, bool]:
        """Whether this command has started the batch."""
        return {"resumed": self._resumed, "deduplicated": self._deduplicated}

    def _say(self, sentence: str) -> None:
        if not self._asked.as_json:
            self._output.say(sentence)


def url_option(settings: Settings) -> str:
    """What has to be added to a command that is to find the same store without the module."""
    return "" if settings.url == Settings.load().url else f" --url {shlex.quote(settings.url)}"
