"""The endpoints of batches, whatever their workflow: list, status, items, progress, cancel."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from sse_starlette import EventSourceResponse

from batchflow.batch.bound import Workflow
from batchflow.core.batch import Batch, ItemState
from batchflow.core.ports import Client
from batchflow.http.answers import BatchAnswer, BatchList, CancelAnswer, ItemAnswer, ItemPage, Refusal, respond
from batchflow.http.progress import stream
from batchflow.http.refusals import unknown, unknown_workflow

ITEMS_AT_ONCE = 1_000
BATCHES_AT_ONCE = 500
_LAST_NUMBER = 999_999_999
# Item numbers have nine digits.

_REFUSALS: dict[int | str, dict[str, Any]] = {
    404: {"model": Refusal, "description": "there is none"},
    422: {"model": Refusal, "description": "a parameter does not fit"},
    503: {"model": Refusal, "description": "the store cannot be used for now; Retry-After says when to try again"},
}
_EVENTS: dict[str, Any] = {
    "description": "server-sent events: the batch whenever it has changed, the last one as event `done`",
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}


class BatchEndpoints:
    """What can be asked of batches, and their cancelling. `workflows` may grow later."""

    def __init__(self, client: Client, workflows: Mapping[str, Workflow[Any, Any]]) -> None:
        self._client = client
        self._workflows = workflows

    def mount(self, router: APIRouter) -> None:
        """Add the routes."""

        def add(method: str, path: str, endpoint: Any, model: Any, summary: str, **options: Any) -> None:
            options.setdefault("responses", _REFUSALS)
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
        add("GET", "/{id}", self.status, BatchAnswer, "A batch as it stands")
        add("GET", "/{id}/items", self.items, ItemPage, "The items of a batch, by number")
        events = {"responses": {**_REFUSALS, 200: _EVENTS}, "response_class": EventSourceResponse}
        add("GET", "/{id}/progress", self.progress, None, "How a batch goes on, until it has ended", **events)
        add("POST", "/{id}/cancel", self.cancel, CancelAnswer, "End a batch: nothing of it starts any more")

    async def list(
        self,
        workflow: str | None = None,
        label: str | None = None,
        open: bool = False,
        limit: Annotated[int, Query(ge=1, le=BATCHES_AT_ONCE)] = 50,
    ) -> Response:
        """With `open`, those only that have not ended; with `label`, those that have it."""
        found = await self._client.store.batches(workflow=workflow, label=label, open_only=open, limit=limit)
        # A store may hold batches of workflows that this app does not have.
        if workflow is not None and not found and workflow not in self._workflows:
            raise unknown_workflow(workflow, list(self._workflows))
        return respond(BatchList(batches=[self._answer(it) for it in found]))

    async def status(self, id: str) -> Response:
        """`percent` and `etaMs` are null until the total is known."""
        return respond(self._answer(await self._read(id)))

    async def items(
        self,
        id: str,
        state: ItemState | None = None,
        after: Annotated[int, Query(ge=-1, le=_LAST_NUMBER)] = -1,
        limit: Annotated[int, Query(ge=1, le=ITEMS_AT_ONCE)] = 100,
    ) -> Response:
        """For the next page, pass `nextAfter` as `after`."""
        found = await self._client.store.items(id, state=state, after=after, limit=limit + 1)
        if not found:
            await self._read(id)
        page = found[:limit]
        more = page[-1].number if len(found) > limit else None
        return respond(ItemPage(items=[ItemAnswer.of(it) for it in page], next_after=more))

    async def progress(self, id: str, interval: Annotated[float, Query(ge=0.1, le=60)] = 0.5) -> Response:
        """Looks every `interval` seconds. Close the `EventSource` on `done`, or it connects again."""
        return stream(self._client.store, await self._read(id), self._answer, interval)

    async def cancel(self, id: str) -> Response:
        """Items at work end at their next step. Safe to repeat."""
        cancelled = await self._client.cancel_batch(id)
        return respond(CancelAnswer(cancelled=cancelled, batch=self._answer(await self._read(id))))

    async def _read(self, id: str) -> Batch:
        batch = await self._client.store.batch(id)
        if batch is None:
            raise unknown("batch", id)
        return batch

    def _answer(self, batch: Batch) -> BatchAnswer:
        workflow = self._workflows.get(batch.workflow)
        walk_first = workflow is not None and workflow.definition.walk_first
        return BatchAnswer.of(batch, self._client.now(), walk_first=walk_first)
