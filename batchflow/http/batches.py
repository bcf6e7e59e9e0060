"""The endpoints of batches of all workflows: list, status, items, progress, cancel."""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Query, Response
from sse_starlette import EventSourceResponse, ServerSentEvent

from batchflow.batch.bound import Workflow
from batchflow.core.batch import Batch, ItemState
from batchflow.core.ports import Client
from batchflow.core.store import BatchReads
from batchflow.errors import StoreUnavailable
from batchflow.http.errors import json_response, not_found, workflow_not_found
from batchflow.http.openapi import error_responses
from batchflow.http.schemas import BatchInfo, BatchList, CancelBatchResponse, ItemInfo, ItemList

MAX_ITEMS = 1_000
MAX_BATCHES = 500
MAX_FAILED_READS = 20
"""A progress stream ends after so many failed reads in a row; a client that connects again is told the reason."""

_LAST_NUMBER = 999_999_999  # item numbers have nine digits
_SHUTDOWN_GRACE_S = 2.0  # a stream that waits ends at once when the server stops; one that sends has this long

_EVENTS: dict[str, Any] = {
    "description": "server-sent events: the batch after each change, the last one as event `done`",
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}


class BatchEndpoints:
    """Lists, shows and cancels batches. `workflows` are the app's, by name; more may be added later."""

    def __init__(self, client: Client, workflows: Mapping[str, Workflow[Any, Any]]) -> None:
        self._client = client
        self._workflows = workflows

    def add_routes(self, router: APIRouter) -> None:
        """Add the routes."""

        def add(method: str, path: str, endpoint: Any, model: Any, summary: str, **options: Any) -> None:
            options.setdefault("responses", error_responses(404, 422, 503))
            router.add_api_route(
                f"/batches{path}",
                endpoint,
                methods=[method],
                response_model=model,
                name=f"batches:{endpoint.__name__}",
                summary=summary,
                tags=["batches"],
                **options,
            )

        add("GET", "", self.list, BatchList, "The latest batches, newest first")
        add("GET", "/{id}", self.status, BatchInfo, "A batch and its progress")
        add("GET", "/{id}/items", self.items, ItemList, "The items of a batch, by number")
        events = {"responses": {**error_responses(404, 422, 503), 200: _EVENTS}, "response_class": EventSourceResponse}
        add(
            "GET",
            "/{id}/progress",
            self.progress,
            None,
            "The progress of a batch as a stream",
            **events,
        )
        add("POST", "/{id}/cancel", self.cancel, CancelBatchResponse, "Cancel a batch: nothing of it starts any more")

    async def list(
        self,
        workflow: str | None = None,
        label: str | None = None,
        open: bool = False,
        limit: Annotated[int, Query(ge=1, le=MAX_BATCHES)] = 50,
    ) -> Response:
        """With `open`, only batches that have not ended; with `label`, only those with this label."""
        found = await self._client.store.batches(workflow=workflow, label=label, open_only=open, limit=limit)
        # A store may hold batches of workflows that this app does not have.
        if workflow is not None and not found and workflow not in self._workflows:
            raise workflow_not_found(workflow, list(self._workflows))
        return json_response(BatchList(batches=[self._info(it) for it in found]))

    async def status(self, id: str) -> Response:
        """`percent` and `etaMs` are null until the total is known."""
        return json_response(self._info(await self._read(id)))

    async def items(
        self,
        id: str,
        state: ItemState | None = None,
        after: Annotated[int, Query(ge=-1, le=_LAST_NUMBER)] = -1,
        limit: Annotated[int, Query(ge=1, le=MAX_ITEMS)] = 100,
    ) -> Response:
        """The next page is read with `nextAfter` as `after`."""
        found = await self._client.store.items(id, state=state, after=after, limit=limit + 1)
        if not found:
            await self._read(id)
        page = found[:limit]
        more = page[-1].number if len(found) > limit else None
        return json_response(ItemList(items=[ItemInfo.of(it) for it in page], next_after=more))

    async def progress(self, id: str, interval: Annotated[float, Query(ge=0.1, le=60)] = 0.5) -> Response:
        """The batch is read every `interval` seconds. Close the `EventSource` on `done`, or it connects again."""
        return progress_response(self._client.store, await self._read(id), self._info, interval)

    async def cancel(self, id: str) -> Response:
        """Running items end at their next step. Safe to repeat."""
        cancelled = await self._client.cancel_batch(id)
        return json_response(CancelBatchResponse(cancelled=cancelled, batch=self._info(await self._read(id))))

    async def _read(self, id: str) -> Batch:
        batch = await self._client.store.batch(id)
        if batch is None:
            raise not_found("batch", id)
        return batch

    def _info(self, batch: Batch) -> BatchInfo:
        workflow = self._workflows.get(batch.workflow)
        walk_first = workflow is not None and workflow.definition.walk_first
        return BatchInfo.of(batch, self._client.now(), walk_first=walk_first)


def progress_response(
    batches: BatchReads, batch: Batch, describe: Callable[[Batch], BatchInfo], interval: float
) -> EventSourceResponse:
    """The response that streams a batch; it ends with the batch, a disconnect, or when the server stops."""
    stopping = anyio.Event()
    events = progress_events(batches, batch, describe, interval, stopping)
    return EventSourceResponse(events, shutdown_event=stopping, shutdown_grace_period=_SHUTDOWN_GRACE_S)


async def progress_events(
    batches: BatchReads, batch: Batch, describe: Callable[[Batch], BatchInfo], interval: float, stopping: anyio.Event
) -> AsyncIterator[ServerSentEvent]:
    """The batch now and after each change; the last event is `done`.

    The batch is read every `interval` seconds, which bounds the cost of many clients and many changes.
    """
    failures = 0
    sent: Batch | None = None
    latest: Batch | None = batch
    while latest is not None and failures < MAX_FAILED_READS:
        if latest != sent:
            sent, info = latest, describe(latest)
            yield ServerSentEvent(data=info.model_dump_json(by_alias=True), event="done" if info.is_final else None)
            if info.is_final:
                return
        with anyio.move_on_after(interval):
            await stopping.wait()
            return
        try:
            latest, failures = await batches.batch(batch.id), 0
        except StoreUnavailable:
            failures += 1
