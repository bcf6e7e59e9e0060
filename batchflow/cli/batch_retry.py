"""`batchflow batches retry`: what has failed in a batch goes on, what is missing or named runs in a linked batch."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import typer

from batchflow.batch.names import quantity
from batchflow.batch.retry import Retries, RetryRequest, RetryResult, check_retry
from batchflow.cli.batches import BatchIdArgument, require_batch
from batchflow.cli.ids_file import read_ids
from batchflow.cli.options import JsonOption, UrlOption, option_names
from batchflow.cli.output import Output, program_name
from batchflow.cli.target import load_flow, open_batches
from batchflow.core.batch import Batch
from batchflow.engine.engine import Engine
from batchflow.errors import InputError
from batchflow.http.schemas.batch_retries import RetryBatchResponse
from batchflow.http.schemas.batches import BatchInfo

_PARTS = {"failed": "failed items without a dead letter", "missing": "what is missing", "ids": "these items"}


class _Retried(NamedTuple):
    """The work that a retry has begun, and the batch as it is then."""

    done: RetryResult
    batch: Batch
    now: int


@dataclass(frozen=True, kw_only=True)
class RetryBatch:
    """Run a part of a batch again: without options what has failed, from its recorded steps.

    --missing and --ids start a batch that is linked to it, for which they need the app: --app MODULE:ATTR.

    Exit codes: 0 something runs again, 1 there was nothing to retry, 2 usage.
    """

    id: BatchIdArgument
    missing: Annotated[bool, typer.Option("--missing", help="Run what the source has and the batch has not.")] = False
    ids: Annotated[str | None, typer.Option(metavar="A,B", help="Run these items of the batch.")] = None
    ids_from: Annotated[
        str | None,
        typer.Option(metavar="FILE[:COLUMN]", help="As --ids, from an export, CSV, JSON lines or lines; - is stdin."),
    ] = None
    force: Annotated[bool, typer.Option("--force", help="Also run items that have succeeded.")] = False
    restart: Annotated[bool, typer.Option("--restart", help="Run failed items from the beginning.")] = False
    app: Annotated[str | None, typer.Option(metavar="MODULE:ATTR", help="The app that has the workflow.")] = None
    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Retry the batch; 1 if there is nothing to retry."""
        request = self._request()
        if self.app is not None and self.url is not None:
            raise InputError("--app and --url exclude each other; an app has its store")
        if self.app is None and request.kind != "failed":
            raise InputError("--missing and --ids need the app that has the workflow; add --app MODULE:ATTR")
        with option_names():
            retried = await self._retry(request)
        begun = bool(retried.done.resumed or retried.done.linked)
        if self.as_json:
            info = BatchInfo.of(retried.batch, retried.now)
            Output().print_json(RetryBatchResponse.of(retried.done, info).document())
        else:
            for line in self._lines(retried.done, request):
                Output().print(line)
            if retried.done.resumed and retried.batch.paused:
                Output().print(f"It is paused; go on with: {program_name()} batches resume {self.id}")
        return 0 if begun else 1

    def _request(self) -> RetryRequest:
        if self.ids is not None and self.ids_from is not None:
            raise InputError("--ids and --ids-from exclude each other; give one of them")
        ids = None if self.ids is None else [id.strip() for id in self.ids.split(",") if id.strip()]
        ids = ids if self.ids_from is None else read_ids(self.ids_from)
        with option_names():
            return check_retry(missing=self.missing, ids=ids, force=self.force, restart=self.restart)

    async def _retry(self, request: RetryRequest) -> _Retried:
        if self.app is None:
            async with open_batches(self.url) as engine:
                done = await Retries(engine, None).retry(await require_batch(engine, self.id), request)
                return _Retried(done, await require_batch(engine, self.id), engine.now())
        flow = load_flow(self.app)
        async with _started(self.app) as engine:
            batch = await require_batch(engine, self.id)
            workflow = flow.workflows.get(batch.workflow)
            if workflow is None:
                raise InputError(f"'{self.app}' has no workflow '{batch.workflow}', of which '{self.id}' is a batch")
            done = await workflow.retry(batch, request)
            return _Retried(done, await require_batch(engine, self.id), engine.now())

    def _lines(self, done: RetryResult, request: RetryRequest) -> list[str]:
        lines: list[str] = []
        if done.resumed:
            how = "from the beginning" if request.restart else "from its recorded steps"
            resumed = quantity(done.resumed, "dead letter")
            lines.append(f"Resumed {resumed} of batch {self.id}, {'each ' if done.resumed > 1 else ''}{how}")
        if done.linked is not None:
            verb = "runs already" if done.linked.deduplicated else "runs"
            lines.append(f"Batch {done.linked.id} {verb} {_PARTS[request.kind]} of batch {self.id}")
        if done.skipped:
            lines.append(f"{quantity(done.skipped, 'item')} had succeeded before; --force runs such items, too")
        if done.lost:
            remedy = "name the app with --app MODULE:ATTR" if self.app is None else "the workflow has no load"
            lines.append(f"{quantity(done.lost, 'failed item')} without a dead letter cannot run again; {remedy}")
        return lines or [f"Nothing of batch {self.id} has failed"]


@asynccontextmanager
async def _started(target: str) -> AsyncGenerator[Engine]:
    """The engine of an app that does no work."""
    flow = load_flow(target)
    try:
        await flow.start(worker=False)
        yield flow.engine
    finally:
        await flow.stop()
