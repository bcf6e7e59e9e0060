"""The endpoints of runs of all functions (list, status, cancel), and of workers."""

from collections.abc import Collection
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from batchflow.batch import operations
from batchflow.batch.operations import Selection
from batchflow.core.ports import Client
from batchflow.core.run import Run, RunState
from batchflow.errors import InputError
from batchflow.http.bodies import invalid_field, read_object
from batchflow.http.errors import ErrorHandlingRoute, function_not_found, json_response, not_found
from batchflow.http.openapi import BODY_ERRORS, QueryForm, QueryParam, error_responses, request_body
from batchflow.http.progress import progress_response, stream_options
from batchflow.http.schemas.runs import CancelRunResponse, CancelRunsResponse, RunDetail, RunInfo, RunList
from batchflow.http.schemas.workers import UnservedInfo, WorkerInfo, WorkerList
from batchflow.serve import runs
from batchflow.serve.runs import CURSOR_PATTERN, MAX_PAGE_SIZE


class CancelRequest(BaseModel):
    """The runs to cancel: by id; or all with a label (its batches too), of a function, or both."""

    model_config = ConfigDict(extra="forbid")

    ids: list[str] = Field(default=[], max_length=MAX_PAGE_SIZE)
    label: str | None = None
    function: str | None = None


class _RunRoute(ErrorHandlingRoute):
    """The route of one run."""

    other_routes = ("/runs/cancel",)


class RunEndpoints:
    """Lists, shows and cancels runs. `functions` are the routes of the app's functions; more may be added later."""

    def __init__(self, client: Client, functions: Collection[str], *, max_body: int) -> None:
        self._client = client
        self._functions = functions
        self._max_body = max_body

    def add_routes(self, router: APIRouter) -> None:
        """Add the routes."""

        def add(method: str, path: str, endpoint: Any, model: Any, summary: str, **options: Any) -> None:
            options.setdefault("responses", error_responses(404, 422, 503))
            router.add_api_route(
                f"/runs{path}",
                endpoint,
                methods=[method],
                response_model=model,
                name=f"runs:{endpoint.__name__}",
                summary=summary,
                tags=["runs"],
                **options,
            )

        add("GET", "", self.list, RunList, "The latest runs, newest first")
        add("GET", "/{id}", self.status, RunDetail, "A run with its steps", route_class_override=_RunRoute)
        stream = stream_options(RunDetail)
        add("GET", "/{id}/progress", self.progress, None, "The progress of a run as a stream", **stream)
        add("POST", "/{id}/cancel", self.cancel, CancelRunResponse, "Cancel a run")
        body = request_body(CancelRequest, required=True)
        errors = error_responses(*BODY_ERRORS, described={404: "there is no such function"})
        summary = "Cancel runs: these, or all with a label or of a function"
        add("POST", "/cancel", self.cancel_many, CancelRunsResponse, summary, responses=errors, openapi_extra=body)

    async def list(
        self,
        state: QueryParam[RunState] = None,
        function: QueryParam[str] = None,
        label: QueryParam[str] = None,
        cursor: Annotated[str | None, QueryForm(pattern=CURSOR_PATTERN), Query(max_length=200)] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE)] = 50,
    ) -> Response:
        """`function` is a route, such as /onboarding. The next page is read with `nextCursor` as `cursor`."""
        page = await runs.list_runs(
            self._client, state=state, destination=function, label=label, cursor=cursor, limit=limit
        )
        # A store may hold runs of functions that this app does not have.
        if function is not None and not page.runs and cursor is None:
            self._require(function)
        return json_response(RunList(runs=[RunInfo.of(it) for it in page.runs], next_cursor=page.next_cursor))

    async def status(self, id: str) -> Response:
        """State, steps, result and error. Runs of batches can be read too, as long as they are kept."""
        return json_response(RunDetail.of(await self._read(id)))

    async def progress(self, id: str, interval: Annotated[float, Query(ge=0.1, le=60)] = 0.5) -> Response:
        """The run is read every `interval` seconds. Close the `EventSource` on `done`, or it connects again."""
        return progress_response(partial(self._client.run_store.run, id), await self._read(id), _describe, interval)

    async def cancel(self, id: str) -> Response:
        """A waiting run ends at once, a running one at its next step. Safe to repeat."""
        cancelled = await self._client.cancel_run(id)
        return json_response(CancelRunResponse(cancelled=cancelled, run=RunInfo.of(await self._read(id))))

    async def cancel_many(self, request: Request) -> Response:
        """A waiting run ends at once, a running one at its next step. Unknown ids are ignored."""
        fields = await read_object(request, self._max_body)
        try:
            which = CancelRequest.model_validate(fields, strict=True)
        except ValidationError as error:
            raise invalid_field(error) from error
        if which.ids == [] and "ids" in which.model_fields_set:
            # An empty list selects nothing; beside a label it must not select all of the label.
            raise InputError("'ids' is empty; list one id or more, or leave it out", field="ids")
        if which.function is not None:
            self._require(which.function)
        selection = Selection(tuple(which.ids), which.label, which.function)
        return json_response(CancelRunsResponse(cancelled=await operations.cancel(self._client, selection)))

    def _require(self, function: str) -> None:
        if function not in self._functions:
            raise function_not_found(function, self._functions)

    async def _read(self, id: str) -> Run:
        run = await self._client.run_store.run(id)
        if run is None:
            raise not_found("run", id)
        return run


def _describe(run: Run) -> tuple[str, bool]:
    return RunDetail.of(run).model_dump_json(by_alias=True), run.state in ("completed", "failed", "cancelled")


class WorkerEndpoints:
    """Lists workers."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def add_routes(self, router: APIRouter) -> None:
        """Add the route."""
        router.add_api_route(
            "/workers",
            self.list,
            methods=["GET"],
            response_model=WorkerList,
            name="workers:list",
            summary="The workers, with the claims of each",
            tags=["workers"],
            responses=error_responses(422, 503),
        )

    async def list(self) -> Response:
        """The workers of all processes that share the app's store."""
        workers = [WorkerInfo.of(it) for it in await self._client.store.workers()]
        unserved = [UnservedInfo.of(it) for it in await self._client.run_store.unserved()]
        return json_response(WorkerList(workers=workers, unserved=unserved))
