"""The beginning of `batchflow run`: its request, the open batch that it goes on with, the question before a new one."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic_core import from_json

from batchflow.app import Batchflow
from batchflow.batch.arguments import BatchTrigger
from batchflow.batch.bound import Workflow
from batchflow.batch.handle import BatchHandle
from batchflow.batch.payloads import EntryBody
from batchflow.cli.options import confirm, option_names
from batchflow.core.batch import Batch
from batchflow.core.ids import chunk_id, entry_id
from batchflow.core.ports import Client
from batchflow.serve.app_url import user_headers

_MAX_OPEN_BATCHES = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRequest:
    """The parameters and options of a `batchflow run`. Label, start time and `notify_url` do not identify the work."""

    params: BaseModel
    options: BatchTrigger = field(default_factory=BatchTrigger)

    async def trigger(self, workflow: Workflow[Any, Any]) -> BatchHandle[Any]:
        """Start a batch."""
        with option_names():
            return await workflow.start(self.params, self.options)

    @property
    def names_its_batch(self) -> bool:
        """True if the request has an id of its own for the batch."""
        return self.options.batch_id is not None or self.options.dedup_id is not None


class OpenBatches(NamedTuple):
    """The open batch with the same request, if any, and the ids of the other open batches of the workflow."""

    same: Batch | None
    others: Sequence[str]


async def find_open_batches(workflow: Workflow[Any, Any], client: Client, request: BatchRequest) -> OpenBatches:
    """Look through the open batches of the workflow, except those that are being cancelled."""
    definition = workflow.definition
    text, _ = definition.params_codec.round_trip(request.params, where=f"the parameters of '{workflow.name}'")
    found = await client.store.batches(workflow=workflow.name, open_only=True, limit=_MAX_OPEN_BATCHES)
    same: Batch | None = None
    if request.names_its_batch:
        return OpenBatches(None, ())
    headers = dict(request.options.headers or {})
    others: list[str] = []
    for batch in found:
        if batch.state == "cancelling":
            continue
        is_same = (
            batch.params == text and batch.force == request.options.force and user_headers(batch.headers) == headers
        )
        if same is None and is_same and await _has_same_items(client, batch, request, definition.wire.ids):
            same = batch
        else:
            others.append(batch.id)
    return OpenBatches(same, others)


async def _has_same_items(client: Client, batch: Batch, request: BatchRequest, ids_key: str) -> bool:
    """True if a batch was triggered with the same `limit` and `ids`. Only its first messages have them."""
    entry = await client.store.run(entry_id(batch.id))
    if entry is None:
        return False
    body = EntryBody.model_validate_json(entry.payload)
    if request.options.ids is None:
        return body.total is None and body.limit == request.options.limit
    wanted = list(request.options.ids)
    return body.total == len(wanted) and await _read_ids(client, batch.id, len(wanted), ids_key) == wanted


async def _read_ids(client: Client, batch: str, total: int, ids_key: str) -> list[str]:
    found: list[str] = []
    place = 0
    while len(found) < total and (chunk := await client.store.run(chunk_id(batch, place, 0))) is not None:
        found += from_json(chunk.payload)[ids_key]
        place += 1
    return found


async def confirm_size(flow: Batchflow, workflow: Workflow[Any, Any], request: BatchRequest) -> None:
    """Ask before a large batch, unless the command goes on with one that is there.

    Raises:
        InputError: the answer is no, or there is nobody to ask.
    """
    try:
        await flow.start(worker=False)
        if (await find_open_batches(workflow, flow.engine, request)).same is not None:
            return
        with option_names():
            size = await workflow.find_large_size(request.params, request.options)
    finally:
        await flow.stop()
    if size is not None:
        confirm(f"Start a batch of {size}", yes=False, why="this batch is larger than confirm_above")
