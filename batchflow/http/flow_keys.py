"""The endpoints of flow keys: list, status with holders, pin, unpin, pause, resume, reset."""

from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request, Response
from pydantic import ValidationError

from batchflow.core.flow import FlowStatus
from batchflow.core.ports import Client
from batchflow.http.bodies import invalid_field, read_object
from batchflow.http.errors import json_response
from batchflow.http.openapi import BODY_ERRORS, QueryParam, error_responses, request_body
from batchflow.http.schemas.base import ApiModel
from batchflow.http.schemas.flow_keys import (
    FlowHolderInfo,
    FlowKeyDetail,
    FlowKeyInfo,
    FlowKeyList,
    PauseFlowRequest,
    PinFlowRequest,
    UnpinFlowRequest,
)
from batchflow.serve.limits import MAX_PAGE, LimitAdmin

RequestT = TypeVar("RequestT", bound=ApiModel)


class FlowKeyEndpoints:
    """Shows flow keys, and changes their limits by hand."""

    def __init__(self, client: Client, *, max_body: int) -> None:
        self._client = client
        self._limits = LimitAdmin(client)
        self._max_body = max_body

    def add_routes(self, router: APIRouter) -> None:
        """Add the routes."""

        def add(method: str, path: str, endpoint: Any, model: Any, summary: str, **options: Any) -> None:
            options.setdefault("responses", error_responses(404, 422, 503))
            router.add_api_route(
                f"/flow{path}",
                endpoint,
                methods=[method],
                response_model=model,
                name=f"flow:{endpoint.__name__}",
                summary=summary,
                tags=["flow keys"],
                **options,
            )

        def add_command(path: str, endpoint: Any, body: type[ApiModel], summary: str, *, required: bool) -> None:
            add(
                *("POST", path, endpoint, FlowKeyInfo, summary),
                responses=error_responses(404, *BODY_ERRORS),
                openapi_extra=request_body(body, required=required, closed=True),
            )

        add("GET", "", self.list, FlowKeyList, "Flow keys, by name")
        add("GET", "/{key}", self.get, FlowKeyDetail, "A flow key and what holds it")
        add_command("/{key}/pin", self.pin, PinFlowRequest, "Override limits of a flow key", required=True)
        add_command("/{key}/unpin", self.unpin, UnpinFlowRequest, "Restore the limits of the code", required=False)
        add_command("/{key}/pause", self.pause, PauseFlowRequest, "Start nothing under a flow key", required=False)
        add("POST", "/{key}/resume", self.resume, FlowKeyInfo, "Resume a paused flow key")
        add("POST", "/{key}/reset", self.reset, FlowKeyInfo, "Remove pins, pause, parking; close its breaker")

    async def list(
        self,
        cursor: Annotated[QueryParam[str], Query(max_length=200)] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100,
    ) -> Response:
        """The next page is read with `nextCursor` as `cursor`."""
        page = await self._limits.list(after=cursor or "", limit=limit)
        return json_response(FlowKeyList.of(page, self._client.now()))

    async def get(self, key: str) -> Response:
        """With the runs and items under way, those that started first before the others."""
        info = FlowKeyInfo.of(await self._limits.get(key), self._client.now())
        holders = [FlowHolderInfo.of(it) for it in await self._limits.holders(key)]
        return json_response(FlowKeyDetail(**info.model_dump(by_alias=False), holders=holders))

    async def pin(self, key: str, request: Request) -> Response:
        """In force at the next claim of every worker; a deploy keeps it. Safe to repeat."""
        body = await self._read(request, PinFlowRequest)
        return self._answer(
            await self._limits.pin(
                key, parallelism=body.parallelism, rate=body.rate, period=body.period, duration=body.duration
            )
        )

    async def unpin(self, key: str, request: Request) -> Response:
        """Safe to repeat."""
        body = await self._read(request, UnpinFlowRequest)
        return self._answer(await self._limits.unpin(key, parallelism=body.parallelism, rate=body.rate))

    async def pause(self, key: str, request: Request) -> Response:
        """Runs and items under way go on. Safe to repeat."""
        body = await self._read(request, PauseFlowRequest)
        return self._answer(await self._limits.pause(key, duration=body.duration))

    async def resume(self, key: str) -> Response:
        """Safe to repeat."""
        return self._answer(await self._limits.resume(key))

    async def reset(self, key: str) -> Response:
        """The limits of the code are in force, as if nothing had started. Safe to repeat."""
        return self._answer(await self._limits.reset(key))

    async def _read(self, request: Request, model: type[RequestT]) -> RequestT:
        try:
            return model.model_validate(await read_object(request, self._max_body), strict=True)
        except ValidationError as error:
            raise invalid_field(error) from error

    def _answer(self, status: FlowStatus) -> Response:
        return json_response(FlowKeyInfo.of(status, self._client.now()))
