"""`batchflow run`: runs a batch from its trigger to its end, resumes an open one, or counts (a dry run)."""

import asyncio
import shlex
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from pydantic import BaseModel

from batchflow.app import Batchflow
from batchflow.batch.arguments import BatchTrigger, check_dry_run, check_ids, check_limit
from batchflow.batch.bound import Workflow
from batchflow.batch.dry_run import Statistics
from batchflow.batch.handle import BatchHandle
from batchflow.batch.status import BatchSummary
from batchflow.cli import failure_budget as budgets
from batchflow.cli.batch_reports import (
    end_message,
    first_failures,
    is_success,
    print_statistics,
    print_summary,
    resuming_text,
)
from batchflow.cli.failures import print_failed_dry_run
from batchflow.cli.ids_file import read_ids
from batchflow.cli.inputs import read_params
from batchflow.cli.options import (
    ApproveUnderOption,
    CanaryOption,
    DedupIdOption,
    DedupOption,
    DelayOption,
    HeadersOption,
    JsonOption,
    NotBeforeOption,
    PriorityOption,
    TargetArgument,
    YesOption,
    option_names,
    parse_dedup,
    parse_delay,
    parse_headers,
    parse_not_before,
    url_option,
)
from batchflow.cli.output import LogWriter, Output, program_name
from batchflow.cli.process import SignalHandler, cancel_and_wait
from batchflow.cli.progress import ProgressDisplay, make_display, watch_batch
from batchflow.cli.run_end import wait_for_failure_calls, wait_for_notification
from batchflow.cli.run_start import BatchRequest, confirm_size, find_open_batches
from batchflow.cli.target import choose_workflow, load_flow, location_text
from batchflow.core.batch import Notification
from batchflow.core.duration import humanize_duration
from batchflow.errors import BatchflowError, InputError
from batchflow.http.schemas.batches import BatchReport
from batchflow.settings import Settings


@dataclass(frozen=True, kw_only=True)
class RunBatch:
    """Run a batch of WORKFLOW to its end, and show its progress.

    The same command resumes a batch that was interrupted. WORKFLOW can be omitted if MODULE:ATTR has only one.

    Exit codes: 0 done, 1 items or the batch failed, 2 usage, 130 stopped by Ctrl-C.
    """

    target: TargetArgument
    workflow: Annotated[str | None, typer.Argument(metavar="WORKFLOW", help="The name of the workflow.")] = None
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count the items.")] = False
    pairs: Annotated[
        list[str] | None, typer.Option("-p", metavar="NAME=VALUE", help="A parameter; can be repeated.")
    ] = None
    params: Annotated[str | None, typer.Option(metavar="JSON", help="The parameters as one JSON object.")] = None
    force: Annotated[bool, typer.Option("--force", help="Also run items that are already processed.")] = False
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Stop after N items.")] = None
    ids: Annotated[str | None, typer.Option(metavar="A,B", help="Run exactly these items, processed or not.")] = None
    ids_from: Annotated[
        str | None,
        typer.Option(metavar="FILE[:COLUMN]", help="As --ids, from an export, CSV, JSON lines or lines; - is stdin."),
    ] = None
    label: Annotated[str | None, typer.Option(metavar="TEXT", help="A name by which to find the batch.")] = None
    batch_id: Annotated[
        str | None, typer.Option(metavar="ID", help="The id of the batch, bat_…; a known batch is resumed.")
    ] = None
    dedup_id: DedupIdOption = None
    dedup: DedupOption = "kept"
    delay: DelayOption = None
    not_before: NotBeforeOption = None
    headers: HeadersOption = None
    notify_url: Annotated[
        str | None, typer.Option(metavar="URL", help="A URL that gets a POST when the batch has ended.")
    ] = None
    priority: PriorityOption = None
    canary: CanaryOption = None
    approve_under: ApproveUnderOption = None
    yes: YesOption = False
    max_failures: budgets.MaxFailuresOption = None
    max_failure_rate: budgets.MaxFailureRateOption = None
    min_items: budgets.MinItemsOption = None
    failure_action: budgets.FailureActionOption = None
    as_json: JsonOption = False
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show all log lines above the progress bar.")] = False

    async def execute(self) -> int:
        """Load the target and run the batch, or count it."""
        flow = load_flow(self.target)
        workflow = choose_workflow(flow, self.workflow, self.target)
        params = read_params(workflow, self.pairs or (), self.params)
        ids = self._parse_ids(workflow)
        if self.dry_run:
            return await self._dry_run(flow, workflow, params)
        options = BatchTrigger(
            force=self.force,
            limit=self.limit,
            ids=ids,
            label=self.label,
            batch_id=self.batch_id,
            dedup_id=self.dedup_id,
            dedup=parse_dedup(self.dedup),
            delay=parse_delay(self.delay),
            not_before=parse_not_before(self.not_before),
            headers=parse_headers(self.headers),
            notify_url=self.notify_url,
            priority=self.priority,
            canary=self.canary,
            approve_under=self.approve_under,
            failure_budget=budgets.budget_of(self),
        )
        request = BatchRequest(params=params, options=options)
        if workflow.definition.confirm_above is not None and not self.yes:
            await confirm_size(flow, workflow, request)
        with SignalHandler(flow.settings.grace.total_seconds()) as signals:
            return await _BatchRunner(self, flow, workflow, signals).run(request)

    def command_line(self, workflow: str) -> str:
        """The command line that resumes the batch."""
        words = [self.target, workflow]
        words += [word for pair in self.pairs or () for word in ("-p", pair)]
        given = {
            "--params": self.params,
            "--limit": self.limit,
            "--ids": self.ids,
            "--ids-from": self.ids_from,
            "--batch-id": self.batch_id,
            "--dedup-id": self.dedup_id,
            "--priority": self.priority,
            "--canary": self.canary,
            "--approve-under": self.approve_under,
            "--max-failures": self.max_failures,
            "--max-failure-rate": self.max_failure_rate,
            "--min-items": self.min_items,
            "--failure-action": self.failure_action,
        }
        for option, value in given.items():
            words += [] if value is None else [option, str(value)]
        words += ["--dedup", self.dedup] if self.dedup != "kept" else []
        words += ["--force"] if self.force else []
        return f"{program_name()} run {shlex.join(words)}"

    def _parse_ids(self, workflow: Workflow[Any, Any]) -> list[str] | None:
        """The ids of the items; None for those of the source.

        Raises:
            InputError: the ids, the limit, the source and a dry run do not go together.
        """
        if self.ids is not None and self.ids_from is not None:
            raise InputError("--ids and --ids-from exclude each other; give one of them")
        ids = None if self.ids is None else [id.strip() for id in self.ids.split(",") if id.strip()]
        ids = ids if self.ids_from is None else read_ids(self.ids_from)
        if self.dry_run and self.limit is not None:
            raise InputError("--dry-run counts all items; leave --limit out")
        with option_names():
            if self.dry_run:
                check_dry_run(ids)
            ids = check_ids(workflow.definition, ids)
            check_limit(self.limit, ids)
        return ids

    async def _dry_run(self, flow: Batchflow, workflow: Workflow[Any, Any], params: BaseModel) -> int:
        with SignalHandler(flow.settings.grace.total_seconds()) as signals:
            counting = asyncio.create_task(self._count(flow, workflow, params))
            if not await signals.wait_for(counting):
                await cancel_and_wait(counting)
                return signals.exit_code
            try:
                statistics = await counting
            except BatchflowError:
                raise
            except Exception as error:
                print_failed_dry_run(error)
                return 1
        if self.as_json:
            Output().print_json(statistics.model_dump(mode="json", by_alias=True))
        else:
            title = f"{workflow.name} at {location_text(flow.engine.store)}"
            print_statistics(Output(), title, workflow, statistics)
        return 0

    async def _count(self, flow: Batchflow, workflow: Workflow[Any, Any], params: BaseModel) -> Statistics:
        try:
            await flow.start(worker=False)
            return await workflow.dry_run(params, force=self.force)
        finally:
            await flow.stop()


class _BatchRunner:
    """Runs one batch from its trigger, or its resumption, to the summary."""

    def __init__(
        self, command: RunBatch, flow: Batchflow, workflow: Workflow[Any, Any], signals: SignalHandler
    ) -> None:
        self._command = command
        self._flow = flow
        self._workflow = workflow
        self._signals = signals
        self._output = Output()
        self._resumed = False
        self._deduplicated = False
        self._notification: Notification | None = None

    async def run(self, request: BatchRequest) -> int:
        command = self._command
        level = "WARNING" if command.as_json and not command.verbose else Settings.load().log_level
        with LogWriter(level, self._output, verbose=command.verbose) as log_writer:
            try:
                await self._flow.start(worker=False)
                self._print(f"{self._workflow.name} at {location_text(self._flow.engine.store)}")
                handle = await self._resume_or_trigger(request)
                display = make_display(
                    self._output,
                    log_writer,
                    silent=command.as_json,
                    blocked_loop=lambda: self._flow.engine.blocked_loop,
                )
                with display:
                    ended = await self._work_until_end(handle, display)
                return await self._report_end(handle) if ended else await self._report_stop(handle)
            finally:
                await self._flow.stop()

    async def _resume_or_trigger(self, request: BatchRequest) -> BatchHandle[Any]:
        """Resume the open batch with the same request, or trigger a new one."""
        found = await find_open_batches(self._workflow, self._flow.engine, request)
        self._resumed = found.same is not None
        if found.same is not None:
            handle = self._workflow.batch(found.same.id)
            self._print(resuming_text(found.same))
            if request.options.priority is not None:
                await handle.set_priority(request.options.priority)
            if request.options.failure_budget is not None:
                await handle.set_failure_budget(request.options.failure_budget)
        else:
            handle = await request.trigger(self._workflow)
            self._deduplicated = handle.deduplicated
            known = ", which was there already" if handle.deduplicated else ""
            self._print(f"Batch {handle.id} of {self._workflow.name}{known}")
        for other in found.others:
            self._print(f"Batch {other} is also open, with other parameters; its items in flight are skipped")
        return handle

    async def _work_until_end(self, handle: BatchHandle[Any], display: ProgressDisplay) -> bool:
        """Work until the batch ends or a signal comes; True if the batch has ended."""
        await self._flow.start(worker=self._flow.engine.executes, schedules=False)
        watching = asyncio.create_task(self._watch(handle, display))
        if await self._signals.wait_for(watching):
            await watching
            return True
        if self._flow.engine.executes:
            grace = humanize_duration(int(self._flow.settings.grace.total_seconds() * 1000))
            self._print(f"Stopping: running items have {grace} to end; Ctrl-C again exits at once")
        await self._flow.engine.stop()
        await cancel_and_wait(watching)
        return (await handle.status()).is_over

    async def _watch(self, handle: BatchHandle[Any], display: ProgressDisplay) -> None:
        """Show the batch until its end, and wait for what is sent after it."""
        await watch_batch(handle, self._flow, display)
        if "on_item_failure" in self._workflow.definition.defined_hooks:
            await wait_for_failure_calls(self._flow.engine.store, handle.id)
        self._notification = await wait_for_notification(self._flow.engine.store, handle.id)

    async def _report_end(self, handle: BatchHandle[Any]) -> int:
        summary = await handle.wait()
        failures = await first_failures(handle) if summary.counts.failed else ()
        sentence = end_message(summary, self._workflow.definition.wire)
        if self._command.as_json:
            self._output.print_json(BatchReport.of(summary, sentence).document() | self._origin)
        else:
            url = url_option(self._flow.settings)
            print_summary(self._output, summary, sentence, failures, self._notification, url=url)
            if self._is_one_ledger_for_other_params(summary):
                self._print("  The ledger does not distinguish parameters: name those that make other work")
                self._print("  in processed_per of the class, or run all items again with --force")
        return 0 if is_success(summary) else 1

    def _is_one_ledger_for_other_params(self, summary: BatchSummary) -> bool:
        is_given = bool(self._command.pairs or self._command.params)
        is_skipped = not summary.counts.started and summary.counts.already_processed > 0
        return is_given and is_skipped and not self._workflow.definition.ledger_scope.names

    async def _report_stop(self, handle: BatchHandle[Any]) -> int:
        status = await handle.status()
        if self._command.as_json:
            sentence = f"Interrupted after {status.counts.ended} of {status.total} items"
            self._output.print_json(BatchReport.of(status, sentence).document() | self._origin)
            return self._signals.exit_code
        done = f"{status.counts.ended:,} of {status.total:,}{'' if status.is_total_known else ' so far'}"
        if not self._flow.engine.store.is_durable:
            self._print(f"Stopped. {done} items were done; the state was in memory and is lost.")
            return self._signals.exit_code
        if self._flow.engine.executes:
            self._print(f"Stopped. {done} items are done; the rest is released.")
            self._print(f"  resume: {self._command.command_line(self._workflow.name)}")
        else:
            self._print(f"Stopped looking. {done} items are done; the batch goes on.")
            self._print(f"  look: {self._command.command_line(self._workflow.name)}")
        self._print(f"  cancel: {program_name()} batches cancel {handle.id}{url_option(self._flow.settings)}")
        return self._signals.exit_code

    @property
    def _origin(self) -> dict[str, bool]:
        """The fields of the JSON document that say if this command has started the batch."""
        return {"resumed": self._resumed, "deduplicated": self._deduplicated}

    def _print(self, sentence: str) -> None:
        if not self._command.as_json:
            self._output.print(sentence)
