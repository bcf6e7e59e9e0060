"""The endpoints that show the batches of all workflows: list, status, items, progress."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response
from fastapi.responses import StreamingResponse

from batchflow.batch.bound import Workflow
from batchflow.batch.export import Export, ExportFormat
from batchflow.batch.handle import no_such_item
from batchflow.batch.names import wire_name
from batchflow.batch.operations import list_batches
from batchflow.batch.rollup import read_retries
from batchflow.batch.status import WaitReason
from batchflow.batch.wait_reason import WaitReasons
from batchflow.batch.why import explain_wait
from batchflow.core.batch import Batch, ItemState
from batchflow.core.ports import Client
from batchflow.errors import NotFoundError
from batchflow.http.errors import ErrorHandlingRoute, json_response, not_found, workflow_not_found
from batchflow.http.openapi import QueryParam, error_responses
from batchflow.http.progress import progress_response, stream_options
from batchflow.http.schemas.batches import BatchDetail, BatchInfo, BatchList
from batchflow.http.schemas.items import ItemDetail, ItemHistory, ItemInfo, ItemList
from batchflow.http.schemas.why import BatchWaitInfo

MAX_ITEMS = 1_000
MAX_BATCHES = 500
MAX_HISTORY = 100
_LAST_NUMBER = 999_999_999  # item numbers have nine digits


MEDIA_TYPES: Mapping[ExportFormat, str] = {"jsonl": "application/x-ndjson", "csv": "text/csv; charset=utf-8"}


class _BatchRoute(ErrorHandlingRoute):
    """The route of one batch."""

    other_routes = ("/batches/pause", "/batches/resume", "/batches/cancel")


class BatchEndpoints:
    """Lists and shows batches. `workflows` are the app's, by name; more may be added later."""

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
        add("GET", "/{id}", self.status, BatchDetail, "A batch and its progress", route_class_override=_BatchRoute)
        add("GET", "/{id}/why", self.why, BatchWaitInfo, "Why a batch is not done")
        add("GET", "/{id}/items", self.items, ItemList, "The items of a batch, by number")
        add("GET", "/{id}/items/{number}", self.item, ItemDetail, "An item of a batch, with its result")
        add("GET", "/{id}/item", self.item_by_id, ItemDetail, "An item of a batch by the item's id, with its result")
        content: dict[str, Any] = {type: {"schema": {"type": "string"}} for type in MEDIA_TYPES.values()}
        files = {**error_responses(404, 422, 503), 200: {"description": "The file", "content": content}}
        add("GET", "/{id}/export", self.export, None, "All items of a batch as a file", responses=files)
        stream = stream_options(BatchInfo)
        add("GET", "/{id}/progress", self.progress, None, "The progress of a batch as a stream", **stream)
        router.add_api_route(
            "/items/{workflow}/{id:path}",
            self.history,
            methods=["GET"],
            response_model=ItemHistory,
            name="batches:history",
            summary="An item over the latest batches of its workflow",
            tags=["batches"],
            responses=error_responses(404, 422, 503),
        )

    async def list(
        self,
        workflow: QueryParam[str] = None,
        label: QueryParam[str] = None,
        open: bool = False,
        cursor: Annotated[QueryParam[str], Query(max_length=200)] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_BATCHES)] = 50,
    ) -> Response:
        """With `open`, only batches that have not ended; with `label`, only those with this label.

        The next page is read with `nextCursor` as `cursor`.
        """
        page = await list_batches(
            self._client, workflow=workflow, label=label, open_only=open, cursor=cursor, limit=limit
        )
        # A store may hold batches of workflows that this app does not have.
        if workflow is not None and not page.batches and cursor is None and workflow not in self._workflows:
            raise workflow_not_found(workflow, list(self._workflows))
        return json_response(BatchList(batches=[self._info(it) for it in page.batches], next_cursor=page.next_cursor))

    async def status(self, id: str) -> Response:
        """`percent` and `etaMs` are null until the total is known."""
        batch = await self._read(id)
        workflow = self._workflows.get(batch.workflow)
        reason = await self._wait_reasons(batch).find(batch)
        fields = None if workflow is None else workflow.definition.params.model_fields
        names = None if fields is None else {name: wire_name(name, info) for name, info in fields.items()}
        retries = await read_retries(self._client.store, batch)
        return json_response(BatchDetail.of_info(self._info(batch, reason), batch, names, retries))

    async def why(self, id: str) -> Response:
        """A sentence, the first open items, and what holds them back; bounded reads, however large the batch is."""
        batch = await self._read(id)
        workflow = self._workflows.get(batch.workflow)
        definition = None if workflow is None else workflow.definition
        return json_response(BatchWaitInfo.of(await explain_wait(self._client, definition, batch)))

    async def items(
        self,
        id: str,
        state: QueryParam[ItemState] = None,
        after: Annotated[int, Query(ge=-1, le=_LAST_NUMBER)] = -1,
        limit: Annotated[int, Query(ge=1, le=MAX_ITEMS)] = 100,
    ) -> Response:
        """The next page is read with `nextAfter` as `after`. Results are in the answer for one item."""
        found = await self._client.store.items(id, state=state, after=after, limit=limit + 1, results=False)
        if not found:
            await self._read(id)
        page = found[:limit]
        more = page[-1].number if len(found) > limit else None
        return json_response(ItemList(items=[ItemInfo.of(it) for it in page], next_after=more))

    async def item(self, id: str, number: Annotated[int, Path(ge=0, le=_LAST_NUMBER)]) -> Response:
        """`traceback` has the whole error of an item that failed."""
        found = await self._client.store.items(id, after=number - 1, limit=1)
        if not found or found[0].number != number:
            await self._read(id)
            raise NotFoundError(f"batch '{id}' has no item number {number:,}")
        return json_response(ItemDetail.of(found[0]))

    async def item_by_id(self, id: str, item_id: Annotated[str, Query(alias="itemId")]) -> Response:
        """As by its number. `itemId` is the id that the source gave, compared as text; it may have any characters."""
        found = await self._client.store.find_item(id, item_id)
        if found is None:
            await self._read(id)
            raise NotFoundError(no_such_item(id, item_id))
        return json_response(ItemDetail.of(found))

    async def export(self, id: str, format: ExportFormat = "jsonl", state: QueryParam[ItemState] = None) -> Response:
        """Lines of `key`, `number`, `outcome`, `result`, `error`, `attempts`, `endedAt`, sent as they are read."""
        export = Export(self._client.store, await self._read(id), format, state)
        headers = {"Content-Disposition": f'attachment; filename="{export.file_name}"'}
        return StreamingResponse(export.lines(), media_type=MEDIA_TYPES[format], headers=headers)

    async def history(
        self, workflow: str, id: str, limit: Annotated[int, Query(ge=1, le=MAX_HISTORY)] = 20
    ) -> Response:
        """The latest batch first. Batches that have skipped the item are not listed; ids may contain slashes."""
        found = await self._client.store.find_items(workflow, id, limit)
        if not found and workflow not in self._workflows:
            raise workflow_not_found(workflow, list(self._workflows))
        return json_response(ItemHistory.of(workflow, id, found))

    async def progress(self, id: str, interval: Annotated[float, Query(ge=0.1, le=60)] = 0.5) -> Response:
        """The batch is read every `interval` seconds. Close the `EventSource` on `done`, or it connects again."""
        first = await self._read(id)
        reasons = self._wait_reasons(first)

        async def read() -> tuple[Batch, WaitReason | None] | None:
            batch = await self._client.store.batch(id)
            return None if batch is None else (batch, await reasons.find(batch))

        return progress_response(read, (first, await reasons.find(first)), self._describe, interval)

    async def _read(self, id: str) -> Batch:
        batch = await self._client.store.batch(id)
        if batch is None:
            raise not_found("batch", id)
        return batch

    def _wait_reasons(self, batch: Batch) -> WaitReasons:
        workflow = self._workflows.get(batch.workflow)
        return WaitReasons(self._client, None if workflow is None else workflow.definition)

    def _describe(self, found: tuple[Batch, WaitReason | None]) -> tuple[str, bool]:
        info = self._info(*found)
        return info.model_dump_json(by_alias=True), info.is_final

    def _info(self, batch: Batch, reason: WaitReason | None = None) -> BatchInfo:
        workflow = self._workflows.get(batch.workflow)
        walk_first = workflow is not None and workflow.definition.walk_first
        return BatchInfo.of(batch, self._client.now(), walk_first=walk_first, wait_reason=reason)
