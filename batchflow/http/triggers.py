"""The endpoints of one workflow: trigger it, and run named items of it by hand."""

from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request, Response
from more_itertools import duplicates_everseen
from pydantic import BaseModel, Field, JsonValue, create_model
from pydantic_core import to_json

from batchflow.batch.bound import Workflow
from batchflow.batch.payloads import EntryRequest
from batchflow.batch.statistics import Statistics
from batchflow.core.ids import entry_id
from batchflow.errors import InputError
from batchflow.http.answers import BatchStarted, Refusal, respond
from batchflow.http.bodies import documented, read_body
from batchflow.http.options import documented_batch_headers, in_json, with_headers
from batchflow.http.payloads import parse_object
from batchflow.http.places import url_beside

REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Refusal, "description": "the body is not JSON"},
    413: {"model": Refusal, "description": "the body is too large"},
    422: {"model": Refusal, "description": "a field is unknown, missing or does not fit"},
    503: {"model": Refusal, "description": "the store cannot be used for now; Retry-After says when to try again"},
}
_STARTED: dict[str, Any] = {"model": BatchStarted, "description": "a batch is started"}
_MISSING: dict[str, Any] = {"model": Refusal, "description": "the id is missing, or the body is not JSON"}
_COUNTED: dict[str, Any] = {"model": Statistics, "description": "the statistics of a dry run"}
_WALK_ONLY = ("dry_run", "limit")


class WorkflowEndpoints:
    """`process-{entities}`, `paginate-{entities}` and `{verb}-{entity}` of one workflow."""

    def __init__(self, workflow: Workflow[Any, Any], *, max_body: int, app_url: str | None) -> None:
        self._workflow = workflow
        self._routes = workflow.definition.routes
        self._wire = workflow.definition.wire
        self._closed = workflow.definition.params.model_config.get("extra") != "allow"
        self._max_body = max_body
        self._app_url = app_url

    def mount(self, router: APIRouter) -> None:
        """Add the three routes."""
        name, wire, tags = self._workflow.name, self._wire, [self._workflow.name]
        router.add_api_route(
            self._routes.process,
            self.process,
            methods=["POST"],
            name=f"{name}:process",
            summary=f"Start a batch of {wire.plural}, or count what one would do",
            tags=[*tags],
            status_code=202,
            responses={**REFUSALS, 200: _COUNTED, 202: _STARTED},
            openapi_extra=self._documented(self._workflow.request_model, required=False),
        )
        router.add_api_route(
            self._routes.paginate,
            self.paginate,
            methods=["POST"],
            name=f"{name}:paginate",
            summary=f"Start a batch of exactly these {wire.plural}",
            tags=[*tags],
            status_code=202,
            responses={**REFUSALS, 202: _STARTED},
            openapi_extra=self._documented(self._named_model(), required=True),
        )
        router.add_api_route(
            self._routes.execute,
            self.execute,
            methods=["POST"],
            name=f"{name}:execute",
            summary="Run one item, processed already or not",
            tags=[*tags],
            status_code=202,
            responses={**REFUSALS, 400: _MISSING, 202: _STARTED},
            openapi_extra=self._documented(self._single_model(), required=True),
        )

    async def process(self, request: Request) -> Response:
        """A trigger, or a dry run with `{"dryRun": true}`."""
        # Read beforehand, so that what is no JSON is answered as such and not as a wrong field.
        body = await self._body(request)
        parse_object(body)
        return await self._receive(request, self._routes.process, self._workflow.read(body))

    async def paginate(self, request: Request) -> Response:
        """A batch of the ids that are named."""
        fields = parse_object(await self._body(request))
        self._refuse(fields, "cursor", "dryRun", "limit")
        if fields.get(self._wire.ids) is None:
            raise InputError(
                f"'{self._wire.ids}' is missing: list the ids to run, or POST to {self._routes.process} to run all",
                field=self._wire.ids,
            )
        return await self._receive(request, self._routes.paginate, self._read(fields))

    async def execute(self, request: Request) -> Response:
        """A batch of one item, with force."""
        fields = parse_object(await self._body(request))
        self._refuse(fields, "cursor", "dryRun", "limit", "force", self._wire.ids)
        id = fields.pop(self._wire.id, None)
        if id is None or id == "":
            return respond(Refusal(error=f"Missing {self._wire.id}"), 400)
        if not isinstance(id, str):
            raise InputError(f"'{self._wire.id}' does not fit: an id is a string", field=self._wire.id)
        return await self._receive(request, self._routes.execute, self._read({**fields, "force": True}, id))

    async def _body(self, request: Request) -> bytes:
        return await read_body(request, self._max_body)

    def _read(self, fields: dict[str, JsonValue], *ids: str) -> EntryRequest[Any]:
        return self._workflow.read(to_json({**fields, self._wire.ids: list(ids)} if ids else fields))

    def _refuse(self, fields: dict[str, JsonValue], *names: str) -> None:
        """Say of what only a trigger takes that it is one's."""
        for name in names:
            if name in fields:
                raise InputError(
                    f"'{name}' cannot be given here, where the {self._wire.plural} are named; "
                    f"POST to {self._routes.process} to run all",
                    field=name,
                )

    async def _receive(self, request: Request, own: str, wanted: EntryRequest[Any]) -> Response:
        self._check(wanted)
        root = url_beside(request, own, "", self._app_url)
        wanted = replace(wanted, options=with_headers(wanted.options, request.headers.raw, root))
        try:
            came = await self._workflow.receive(wanted)
        except InputError as error:
            raise in_json(error) from error
        if isinstance(came, Statistics):
            return respond(came)
        url = url_beside(request, own, f"/batches/{came.id}", self._app_url)
        started = BatchStarted(
            workflow_run_id=entry_id(came.id), batch_id=came.id, deduplicated=came.deduplicated, status_url=url
        )
        return respond(started, 202, Location=url)

    def _check(self, wanted: EntryRequest[Any]) -> None:
        """What `trigger` checks too, said in the names of the wire."""
        key, ids = self._wire.ids, wanted.options.ids
        if ids is None:
            if "fetch" not in self._workflow.definition.has:
                raise InputError(f"'{key}' is missing: {self._workflow.name} has no source of ids", field=key)
            return
        if not ids:
            raise InputError(f"'{key}' is empty; list one id or more", field=key)
        if not all(ids):
            raise InputError(f"'{key}' holds an empty id", field=key)
        if len(set(ids)) < len(ids):
            twice = next(duplicates_everseen(ids))
            raise InputError(f"'{key}' names '{twice}' twice; an item runs once per batch", field=key)
        if wanted.dry_run:
            raise InputError(f"'dryRun' counts all {self._wire.plural}; leave '{key}' out", field="dryRun")
        if wanted.options.limit is not None:
            raise InputError(f"'limit' and '{key}' exclude each other; list fewer ids", field="limit")

    def _documented(self, model: type[BaseModel], *, required: bool) -> dict[str, Any]:
        return {**documented(model, required=required, closed=self._closed), "parameters": documented_batch_headers()}

    def _named_model(self) -> type[BaseModel]:
        ids: Any = (list[str], Field(min_length=1, alias=self._wire.ids))
        return self._without("Named", "item_ids", *_WALK_ONLY, item_ids=ids)

    def _single_model(self) -> type[BaseModel]:
        id: Any = (str, Field(min_length=1, alias=self._wire.id))
        return self._without("Single", "item_ids", "force", *_WALK_ONLY, item_id=id)

    def _without(self, kind: str, *left_out: str, **added: Any) -> type[BaseModel]:
        """The model of a trigger with some fields fewer and others added."""
        model = self._workflow.request_model
        kept: dict[str, Any] = {
            name: (field.annotation, field) for name, field in model.model_fields.items() if name not in left_out
        }
        return create_model(f"{self._workflow.definition.owner}{kind}", __config__=model.model_config, **added, **kept)
