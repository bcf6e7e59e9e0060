"""What one command asks for, and the open batch that does just that already."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic_core import from_json

from batchflow.batch.bound import Workflow
from batchflow.batch.handle import BatchHandle
from batchflow.batch.payloads import EntryBody
from batchflow.batch.triggering import BatchTrigger
from batchflow.core.batch import Batch
from batchflow.core.ids import chunk_id, entry_id
from batchflow.core.ports import Client
from batchflow.serve.app_url import user_headers

_LOOKED_THROUGH = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What `batchflow run` was asked to run. The label, and when it starts, say nothing about what is run."""

    params: BaseModel
    options: BatchTrigger = field(default_factory=BatchTrigger)

    async def trigger(self, workflow: Workflow[Any, Any]) -> BatchHandle[Any]:
        """Start a batch of it."""
        return await workflow.start(self.params, self.options)

    @property
    def is_named(self) -> bool:
        """Whether it says itself which batch it means."""
        return self.options.batch_id is not None or self.options.dedup_id is not None


class Open(NamedTuple):
    """The open batch of the same request, if there is one, and the ids of the workflow's other open batches."""

    same: Batch | None
    others: Sequence[str]


async def find_open(workflow: Workflow[Any, Any], client: Client, request: Request) -> Open:
    """Look through the workflow's open batches; those that are being cancelled are left out."""
    definition = workflow.definition
    text, _ = definition.params_codec.round_trip(request.params, where=f"the parameters of '{workflow.name}'")
    found = await client.store.batches(workflow=workflow.name, open_only=True, limit=_LOOKED_THROUGH)
    same: Batch | None = None
    if request.is_named:
        return Open(None, ())
    headers = dict(request.options.headers or {})
    others: list[str] = []
    for batch in found:
        if batch.state == "cancelling":
            continue
        alike = batch.params == text and batch.force == request.options.force and user_headers(batch.headers) == headers
        if same is None and alike and await _same_extent(client, batch, request, definition.wire.ids):
            same = batch
        else:
            others.append(batch.id)
    return Open(same, others)


async def _same_extent(client: Client, batch: Batch, request: Request, ids_key: str) -> bool:
    """Whether a batch was triggered with the same `limit` and `ids`, which only its first messages tell."""
    entry = await client.store.run(entry_id(batch.id))
    if entry is None:
        return False
    body = EntryBody.model_validate_json(entry.payload)
    if request.options.ids is None:
        return body.total is None and body.limit == request.options.limit
    wanted = list(request.options.ids)
    return body.total == len(wanted) and await _named_ids(client, batch.id, len(wanted), ids_key) == wanted


async def _named_ids(client: Client, batch: str, total: int, ids_key: str) -> list[str]:
    found: list[str] = []
    place = 0
    while len(found) < total and (chunk := await client.store.run(chunk_id(batch, place, 0))) is not None:
        found += from_json(chunk.payload)[ids_key]
        place += 1
    return found
