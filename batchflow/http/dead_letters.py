"""The endpoints of dead letters: search, groups, resume, restart, callback, delete."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import to_json

from batchflow.core.ports import Client
from batchflow.errors import ConfigurationError, InputError
from batchflow.http.bodies import invalid_field, read_object
from batchflow.http.errors import ErrorHandlingRoute, json_response, not_found, rename_options
from batchflow.http.openapi import BODY_ERRORS, QueryForm, TimeParam, error_responses, request_body
from batchflow.http.schemas.dead_letters import (
    DeadLetterDetail,
    DeadLetterGroupList,
    DeadLetterList,
    DeadLetterRequest,
    DeadLetterResponse,
    RedriveRequest,
)
from batchflow.serve.dead_letter_filters import DeadLetterFilter, select
from batchflow.serve.dead_letters import MAX_PAGE_SIZE, DeadLetterOptions, DeadLetters
from batchflow.serve.runs import CURSOR_PATTERN

_NAMES = {"run_id": "workflowRunId", "item": "itemId", "status": "responseStatus", "ids": "dlqIds"}


class _DeadLetterRoute(ErrorHandlingRoute):
    """The route of one dead letter."""

    other_routes = tuple(f"/dlq/{command}" for command in ("groups", "resume", "restart", "callback", "delete"))


class DeadLetterEndpoints:
    """Searches dead letters, and carries out the commands for them."""

    def __init__(self, client: Client, *, max_body: int) -> None:
        self._letters = DeadLetters(client)
        self._max_body = max_body

    def add_routes(self, router: APIRouter) -> None:
        """Add the routes."""

        def add(method: str, path: str, endpoint: Any, model: Any, summary: str, **options: Any) -> None:
            options.setdefault("responses", error_responses(404, 422, 503))
            router.add_api_route(
                f"/dlq{path}",
                endpoint,
                methods=[method],
                response_model=model,
                name=f"dlq:{endpoint.__name__}",
                summary=summary,
                tags=["dead letters"],
                **options,
            )

        add("GET", "", self.list, DeadLetterList, "The latest dead letters, newest first")
        add("GET", "/groups", self.groups, DeadLetterGroupList, "Dead letters by their error, the largest group first")
        one: dict[str, Any] = {"route_class_override": _DeadLetterRoute}
        add("GET", "/{id}", self.get, DeadLetterDetail, "A dead letter with its request, attempts and steps", **one)
        add("DELETE", "/{id}", self.delete_one, DeadLetterResponse, "Delete a dead letter", **one)

        def add_command(path: str, endpoint: Any, body: type[BaseModel], summary: str) -> None:
            add(
                *("POST", path, endpoint, DeadLetterResponse, summary),
                responses=error_responses(*BODY_ERRORS),
                openapi_extra=request_body(body, required=True, closed=True),
            )

        add_command("/resume", self.resume, RedriveRequest, "Let dead letters go on from where they failed")
        add_command("/restart", self.restart, RedriveRequest, "Let dead letters run from the beginning")
        add_command("/callback", self.callback, DeadLetterRequest, "Call failure functions or URLs again")
        add_command("/delete", self.delete, DeadLetterRequest, "Delete dead letters")

    async def list(
        self,
        workflow: str | None = None,
        url: str | None = None,
        workflow_run_id: Annotated[str | None, Query(alias="workflowRunId")] = None,
        batch_id: Annotated[str | None, Query(alias="batchId")] = None,
        item_id: Annotated[str | None, Query(alias="itemId")] = None,
        label: str | None = None,
        response_status: Annotated[int | None, Query(alias="responseStatus", ge=100, le=999)] = None,
        group: str | None = None,
        from_date: Annotated[TimeParam, Query(alias="fromDate")] = None,
        to_date: Annotated[TimeParam, Query(alias="toDate")] = None,
        cursor: Annotated[str | None, QueryForm(pattern=CURSOR_PATTERN), Query(max_length=300)] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE)] = 50,
    ) -> Response:
        """All parts of the filter have to match. The next page is read with `nextCursor` as `cursor`."""
        filter: DeadLetterFilter = {
            "workflow": workflow,
            "url": url,
            "run_id": workflow_run_id,
            "batch_id": batch_id,
            "item": item_id,
            "label": label,
            "status": response_status,
            "group": group,
            "since": from_date,
            "until": to_date,
        }
        page = await self._letters.list(cursor=cursor, limit=limit, **filter)
        return json_response(DeadLetterList.of(page))

    async def groups(
        self,
        workflow: str | None = None,
        url: str | None = None,
        batch_id: Annotated[str | None, Query(alias="batchId")] = None,
        label: str | None = None,
        response_status: Annotated[int | None, Query(alias="responseStatus", ge=100, le=999)] = None,
        from_date: Annotated[TimeParam, Query(alias="fromDate")] = None,
        to_date: Annotated[TimeParam, Query(alias="toDate")] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE)] = 100,
    ) -> Response:
        """A group has the dead letters of one bug: the same type of error, raised on the same way through your code."""
        filter: DeadLetterFilter = {
            "workflow": workflow,
            "url": url,
            "batch_id": batch_id,
            "label": label,
            "status": response_status,
            "since": from_date,
            "until": to_date,
        }
        return json_response(DeadLetterGroupList.of(await self._letters.groups(limit=limit, **filter)))

    async def get(self, id: str) -> Response:
        """`traceback` has the whole error; the values of headers and of secrets are masked."""
        return json_response(DeadLetterDetail.of(await self._letters.get(id)))

    async def delete_one(self, id: str) -> Response:
        """It cannot be undone. Its item stays failed."""
        result = await self._letters.delete(id)
        if not result.count:
            raise not_found("dead letter", id)
        return json_response(DeadLetterResponse.of(result))

    async def resume(self, request: Request) -> Response:
        """Recorded steps stay, and the one that failed runs again. Items, and their batches, are open again."""
        return await self._act("resume", request, RedriveRequest)

    async def restart(self, request: Request) -> Response:
        """Recorded steps are dropped. Items, and their batches, are open again."""
        return await self._act("restart", request, RedriveRequest)

    async def callback(self, request: Request) -> Response:
        """Those without a failure function or URL are refused, and those whose latest call has not ended."""
        return await self._act("callback", request, DeadLetterRequest)

    async def delete(self, request: Request) -> Response:
        """It cannot be undone. Items stay failed."""
        return await self._act("delete", request, DeadLetterRequest)

    async def _act(self, command: str, request: Request, body: type[DeadLetterRequest]) -> Response:
        fields = await read_object(request, self._max_body)
        try:
            # As JSON: strict, and yet with times as text.
            asked = body.model_validate_json(to_json(fields), strict=True)
        except ValidationError as error:
            raise invalid_field(error) from error
        if asked.dlq_ids == [] and "dlq_ids" in asked.model_fields_set:
            # An empty list selects nothing; beside a filter it must not select all that matches.
            raise InputError("'dlqIds' is empty; list one id or more, or leave it out", field="dlqIds")
        try:
            selection = select(asked.dlq_ids, asked.all, asked.filter, command)
            options = _options(asked) if isinstance(asked, RedriveRequest) else DeadLetterOptions()
            result = await self._letters.act_on_page(
                command, selection, options, cursor=asked.cursor, limit=asked.limit
            )
        except InputError as error:
            raise rename_options(error, _field_name) from error
        return json_response(DeadLetterResponse.of(result))


def _options(asked: RedriveRequest) -> DeadLetterOptions:
    try:
        limits = None if asked.flow_control is None else asked.flow_control.flow_control()
    except ConfigurationError as error:
        raise InputError(error.sentence(), field="flowControl") from error
    return DeadLetterOptions(asked.retries, limits)


def _field_name(option: str) -> str:
    return _NAMES.get(option) or to_camel(option)
