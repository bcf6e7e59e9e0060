"""The endpoints that change batches: pause, resume, cancel, one or all of a label or workflow; priority and budget."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from batchflow.batch import operations
from batchflow.batch.bound import Workflow
from batchflow.batch.operations import BatchSelection
from batchflow.batch.payloads import FailureBudgetBody, parse_failure_budget
from batchflow.core.batch import MAX_PRIORITY
from batchflow.core.ports import Client
from batchflow.errors import InputError
from batchflow.http.batches import MAX_BATCHES
from batchflow.http.bodies import invalid_field, read_object
from batchflow.http.errors import json_response, not_found, workflow_not_found
from batchflow.http.openapi import BODY_ERRORS, error_responses, request_body
from batchflow.http.schemas.base import ApiModel
from batchflow.http.schemas.batch_changes import FailureBudgetResponse
from batchflow.http.schemas.batches import (
    ApproveBatchResponse,
    BatchInfo,
    BatchPriorityResponse,
    CancelBatchesResponse,
    CancelBatchResponse,
    PauseBatchesResponse,
    PauseBatchResponse,
    ResumeBatchesResponse,
    ResumeBatchResponse,
)

Body = TypeVar("Body", bound=BaseModel)


class BatchesRequest(BaseModel):
    """The batches to act on: by id; or all open ones with a label, of a workflow, or both."""

    model_config = ConfigDict(extra="forbid")

    ids: list[str] = Field(default=[], max_length=MAX_BATCHES)
    label: str | None = None
    workflow: str | None = None


def _as_integer(value: object) -> object:
    # In JSON 2.0 is the integer 2.
    return int(value) if isinstance(value, float) and value.is_integer() else value


class PriorityRequest(BaseModel):
    """The new priority of a batch: of those of a workflow, the ones with the highest start first."""

    model_config = ConfigDict(extra="forbid")

    priority: Annotated[int, Field(ge=0, le=MAX_PRIORITY), BeforeValidator(_as_integer)]


class FailureBudgetRequest(BaseModel):
    """The new failure budget of a batch; null removes it."""

    model_config = ConfigDict(extra="forbid")

    failure_budget: Annotated[FailureBudgetBody | None, Field(alias="failureBudget")]


class BatchOperations:
    """Changes batches. `workflows` are the app's, by name; more may be added later."""

    def __init__(self, client: Client, workflows: Mapping[str, Workflow[Any, Any]], *, max_body: int) -> None:
        self._client = client
        self._workflows = workflows
        self._max_body = max_body

    def add_routes(self, router: APIRouter) -> None:
        """Add the routes."""
        one, many = error_responses(404, 422, 503), error_responses(404, *BODY_ERRORS)

        def add(path: str, endpoint: Any, model: type[ApiModel], summary: str, **options: Any) -> None:
            name = f"batches:{endpoint.__name__}"
            router.add_api_route(
                f"/batches{path}",
                endpoint,
                methods=["POST"],
                response_model=model,
                name=name,
                summary=summary,
                tags=["batches"],
                **options,
            )

        add("/{id}/pause", self.pause, PauseBatchResponse, "Pause a batch: no item starts", responses=one)
        add("/{id}/resume", self.resume, ResumeBatchResponse, "Resume a paused batch", responses=one)
        add("/{id}/approve", self.approve, ApproveBatchResponse, "Approve a batch after its canary", responses=one)
        add("/{id}/cancel", self.cancel, CancelBatchResponse, "Cancel a batch: nothing starts any more", responses=one)
        body: dict[str, Any] = {
            "responses": many,
            "openapi_extra": request_body(BatchesRequest, required=True),
        }
        add(
            "/{id}/priority",
            self.set_priority,
            BatchPriorityResponse,
            "Change the priority of a batch",
            responses=many,
            openapi_extra=request_body(PriorityRequest, required=True),
        )
        budget: dict[str, Any] = {**body, "openapi_extra": request_body(FailureBudgetRequest, required=True)}
        summary = "Change the failure budget of a batch, or remove it"
        add("/{id}/failure-budget", self.set_failure_budget, FailureBudgetResponse, summary, **budget)
        which = "batches: these, or the open ones of a label or a workflow"
        add("/pause", self.pause_many, PauseBatchesResponse, f"Pause {which}", **body)
        add("/resume", self.resume_many, ResumeBatchesResponse, f"Resume {which}", **body)
        add("/cancel", self.cancel_many, CancelBatchesResponse, f"Cancel {which}", **body)

    async def pause(self, id: str) -> Response:
        """Items under way go on to their end. Safe to repeat."""
        paused = await self._client.pause_batch(id)
        return json_response(PauseBatchResponse(paused=paused, batch=await self._info(id)))

    async def resume(self, id: str) -> Response:
        """The batch goes on where it was paused. Safe to repeat."""
        resumed = await self._client.resume_batch(id)
        return json_response(ResumeBatchResponse(resumed=resumed, batch=await self._info(id)))

    async def approve(self, id: str) -> Response:
        """All items after the canary may start, also while it still runs. Safe to repeat."""
        approved = await self._client.approve_batch(id)
        return json_response(ApproveBatchResponse(approved=approved, batch=await self._info(id)))

    async def cancel(self, id: str) -> Response:
        """Running items end at their next step. Safe to repeat."""
        cancelled = await self._client.cancel_batch(id)
        return json_response(CancelBatchResponse(cancelled=cancelled, batch=await self._info(id)))

    async def set_priority(self, id: str, request: Request) -> Response:
        """It counts from the next claim of a worker on. Safe to repeat."""
        wanted = await self._read(request, PriorityRequest)
        changed = await self._client.set_batch_priority(id, wanted.priority)
        return json_response(BatchPriorityResponse(changed=changed, batch=await self._info(id)))

    async def set_failure_budget(self, id: str, request: Request) -> Response:
        """It counts from now on; a batch that is paused stays paused. Safe to repeat."""
        wanted = await self._read(request, FailureBudgetRequest)
        changed = await self._client.set_failure_budget(id, parse_failure_budget(wanted.failure_budget))
        return json_response(FailureBudgetResponse(changed=changed, batch=await self._info(id)))

    async def pause_many(self, request: Request) -> Response:
        """Items under way go on to their end; batches that are triggered later are not paused."""
        return json_response(PauseBatchesResponse(paused=await self._change(request, operations.pause_batches)))

    async def resume_many(self, request: Request) -> Response:
        """Unknown ids are ignored."""
        return json_response(ResumeBatchesResponse(resumed=await self._change(request, operations.resume_batches)))

    async def cancel_many(self, request: Request) -> Response:
        """Running items end at their next step. Unknown ids are ignored."""
        return json_response(CancelBatchesResponse(cancelled=await self._change(request, operations.cancel_batches)))

    async def _change(self, request: Request, act: Callable[[Client, BatchSelection], Awaitable[int]]) -> int:
        which = await self._read(request, BatchesRequest)
        if which.ids == [] and "ids" in which.model_fields_set:
            # An empty list selects nothing; beside a label it must not select all of the label.
            raise InputError("'ids' is empty; list one id or more, or leave it out", field="ids")
        changed = await act(self._client, BatchSelection(tuple(which.ids), which.label, which.workflow))
        if not changed and which.workflow is not None:
            await self._require_workflow(which.workflow)
        return changed

    async def _read(self, request: Request, model: type[Body]) -> Body:
        fields = await read_object(request, self._max_body)
        try:
            return model.model_validate(fields, strict=True)
        except ValidationError as error:
            raise invalid_field(error) from error

    async def _require_workflow(self, name: str) -> None:
        # A store may hold batches of workflows that this app does not have.
        if name not in self._workflows and not await self._client.store.batches(workflow=name, limit=1):
            raise workflow_not_found(name, list(self._workflows))

    async def _info(self, id: str) -> BatchInfo:
        batch = await self._client.store.batch(id)
        if batch is None:
            raise not_found("batch", id)
        workflow = self._workflows.get(batch.workflow)
        walk_first = workflow is not None and workflow.definition.walk_first
        return BatchInfo.of(batch, self._client.now(), walk_first=walk_first)
