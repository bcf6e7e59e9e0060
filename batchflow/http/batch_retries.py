"""The endpoint that runs a part of a batch again."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from batchflow.batch.bound import Workflow
from batchflow.batch.retry import Retries, check_retry
from batchflow.core.batch import Batch
from batchflow.core.ports import Client
from batchflow.http.bodies import invalid_field, read_object
from batchflow.http.errors import json_response, not_found
from batchflow.http.openapi import BODY_ERRORS, error_responses, request_body
from batchflow.http.schemas.batch_retries import RetryBatchResponse
from batchflow.http.schemas.batches import BatchInfo


class RetryBatchRequest(BaseModel):
    """A part of a batch to run again: what has failed, also if nothing is said; what is missing; or these items."""

    model_config = ConfigDict(extra="forbid")

    failed: bool | None = None
    missing: bool = False
    ids: list[str] | None = Field(default=None, min_length=1)
    force: bool = False
    restart: bool = False


class RetryEndpoint:
    """Retries batches. `workflows` are the app's, by name; more may be added later."""

    def __init__(self, client: Client, workflows: Mapping[str, Workflow[Any, Any]], *, max_body: int) -> None:
        self._client = client
        self._workflows = workflows
        self._max_body = max_body

    def add_routes(self, router: APIRouter) -> None:
        """Add the route."""
        router.add_api_route(
            "/batches/{id}/retry",
            self.retry,
            methods=["POST"],
            status_code=202,
            response_model=RetryBatchResponse,
            name="batches:retry",
            summary="Run a part of a batch again",
            tags=["batches"],
            responses=error_responses(404, *BODY_ERRORS),
            openapi_extra=request_body(RetryBatchRequest, required=False),
        )

    async def retry(self, id: str, request: Request) -> Response:
        """Failed items go on from their recorded steps; `missing` and `ids` start a batch that is linked to this one.

        `restart` drops the recorded steps of failed items. Of `ids`, those that have succeeded are skipped unless it is
        forced. No item runs twice at the same time.
        """
        fields = await read_object(request, self._max_body)
        try:
            asked = RetryBatchRequest.model_validate(fields, strict=True)
        except ValidationError as error:
            raise invalid_field(error) from error
        wanted = check_retry(**dict(asked))
        batch = await self._read(id)
        workflow = self._workflows.get(batch.workflow)
        retry = Retries(self._client, None).retry if workflow is None else workflow.retry
        done = await retry(batch, wanted)
        walk_first = workflow is not None and workflow.definition.walk_first
        info = BatchInfo.of(await self._read(id), self._client.now(), walk_first=walk_first)
        return json_response(RetryBatchResponse.of(done, info), status=202)

    async def _read(self, id: str) -> Batch:
        batch = await self._client.store.batch(id)
        if batch is None:
            raise not_found("batch", id)
        return batch
