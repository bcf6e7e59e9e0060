"""The endpoints of one workflow: trigger it, and run named items of it by hand."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request, Response
from more_itertools import duplicates_everseen
from pydantic import BaseModel, Field, JsonValue, create_model
from pydantic.alias_generators import to_camel
from pydantic_core import to_json

from batchflow.batch.bound import Workflow
from batchflow.batch.payloads import EntryRequest
from batchflow.batch.statistics import Statistics
from batchflow.batch.triggering import BatchTrigger
from batchflow.core.ids import entry_id
from batchflow.core.retry import RetryPolicy
from batchflow.errors import InputError
from batchflow.http.bodies import PayloadReader, has_json_content_type, parse_object, read_body
from batchflow.http.errors import json_response
from batchflow.http.openapi import ERROR_RESPONSES, request_body
from batchflow.http.schemas import ErrorResponse, StartBatchResponse, StartRunResponse
from batchflow.http.urls import absolute_url
from batchflow.serve.app_url import ROOT_HEADER
from batchflow.serve.functions import ServedFunction
from batchflow.serve.trigger import Trigger
from batchflow.wire.qstash import (
    DEDUP_ID,
    DELAY,
    FLOW_KEY,
    FLOW_VALUE,
    HEADERS,
    LABEL,
    NOT_BEFORE,
    RETRIES,
    RETRY_DELAY,
    RUN_ID,
    UpstashHeaders,
)

_TEXT: dict[str, Any] = {"schema": {"type": "string"}}


class FunctionEndpoint:
    """The route of one durable function: a POST starts a run with the body as its payload."""

    def __init__(self, function: ServedFunction[Any, Any], *, max_body: int, app_url: str | None) -> None:
        self._function = function
        self._endpoint = function.endpoint
        self._payload = PayloadReader(function)
        self._max_body = max_body
        self._app_url = app_url

    def add_routes(self, router: APIRouter) -> None:
        """Add the route."""
        started = {"model": StartRunResponse, "description": "a run is started, or it is there already"}
        router.add_api_route(
            self._endpoint.route,
            self.start,
            methods=["POST"],
            name=f"{self._endpoint.name}:start",
            summary=f"Start a run of {self._endpoint.name}",
            tags=[self._endpoint.name],
            status_code=202,
            responses={**ERROR_RESPONSES, 202: started},
            openapi_extra={**self._documented(), "parameters": header_parameters()},
        )

    async def start(self, request: Request) -> Response:
        """The run is durable when this is answered. A header `Upstash-Forward-NAME` becomes NAME of the run."""
        route = self._endpoint.route
        options = run_options(
            request.headers.raw, self._endpoint.retry, absolute_url(request, route, "", self._app_url)
        )
        payload = self._payload.read(await read_body(request, self._max_body), is_json=has_json_content_type(request))
        try:
            (run,) = await self._function.trigger_many([payload], options)
        except InputError as error:
            raise name_headers(error) from error
        url = absolute_url(request, route, f"/runs/{run.id}", self._app_url)
        return json_response(
            StartRunResponse(workflow_run_id=run.id, deduplicated=run.deduplicated, status_url=url), 202, Location=url
        )

    def _documented(self) -> dict[str, Any]:
        extra = request_body(self._function.payload.annotation, required=True)
        if self._function.parse is not None:
            extra["requestBody"]["content"]["text/plain"] = _TEXT
        return extra


_STARTED: dict[str, Any] = {"model": StartBatchResponse, "description": "a batch is started"}
_MISSING: dict[str, Any] = {"model": ErrorResponse, "description": "the id is missing, or the body is not JSON"}
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

    def add_routes(self, router: APIRouter) -> None:
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
            responses={**ERROR_RESPONSES, 200: _COUNTED, 202: _STARTED},
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
            responses={**ERROR_RESPONSES, 202: _STARTED},
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
            responses={**ERROR_RESPONSES, 400: _MISSING, 202: _STARTED},
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
            return json_response(ErrorResponse(error=f"Missing {self._wire.id}"), 400)
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

    async def _receive(self, request: Request, route: str, wanted: EntryRequest[Any]) -> Response:
        self._check(wanted)
        root = absolute_url(request, route, "", self._app_url)
        wanted = replace(wanted, options=batch_options(wanted.options, request.headers.raw, root))
        try:
            came = await self._workflow.receive(wanted)
        except InputError as error:
            raise name_fields(error) from error
        if isinstance(came, Statistics):
            return json_response(came)
        url = absolute_url(request, route, f"/batches/{came.id}", self._app_url)
        started = StartBatchResponse(
            workflow_run_id=entry_id(came.id), batch_id=came.id, deduplicated=came.deduplicated, status_url=url
        )
        return json_response(started, 202, Location=url)

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
        return {**request_body(model, required=required, closed=self._closed), "parameters": batch_header_parameters()}

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


# Errors of a trigger name its arguments.
_ARGUMENTS = {"runId": RUN_ID, "dedupId": DEDUP_ID, "label": LABEL, "delay": DELAY}
_IN_WORDS = {"'run_id'": f"'{RUN_ID}'", "'dedup_id'": f"'{DEDUP_ID}'"}
_OF_ITS_CLASS = "its retries and limits are those of its class; leave it out"
_NOT_OF_BATCHES = {
    RUN_ID: "give it an id of its own in the body, as 'batchId'",
    **dict.fromkeys((RETRIES, RETRY_DELAY, FLOW_KEY, FLOW_VALUE), _OF_ITS_CLASS),
}
_BATCH_FIELDS = {
    "dedup_id": (DEDUP_ID, "dedupId"),
    "label": (LABEL, "label"),
    "delay": (DELAY, "delay"),
    "not_before": (NOT_BEFORE, "notBefore"),
}


def run_options(headers: Iterable[tuple[bytes, bytes]], retry: RetryPolicy, root: str) -> Trigger:
    """What the headers ask for; `retry` holds for what they leave open, `root` is where the app was reached.

    Raises:
        InputError: a value does not fit, or a header is one of QStash's whose promise is not kept here.
    """
    given = UpstashHeaders(headers)
    delay, not_before = given.delay(), given.not_before()
    return Trigger(
        run_id=given.get(RUN_ID),
        dedup_id=given.get(DEDUP_ID),
        delay=delay if not_before is None else None,
        not_before=not_before,
        label=given.get(LABEL),
        headers={**given.forwarded, ROOT_HEADER: root},
        retry_delay=given.retry(retry),
        flow_control=given.flow_control(),
    )


def batch_options(options: BatchTrigger, headers: Iterable[tuple[bytes, bytes]], root: str) -> BatchTrigger:
    """What a body asks of a batch, with what the headers add; `root` is where the app was reached.

    Raises:
        InputError: a value does not fit or is given in both, or a header is one that no batch honours.
    """
    given = UpstashHeaders(headers)
    for name, why in _NOT_OF_BATCHES.items():
        if given.get(name) is not None:
            raise InputError(f"'{name}' is not honoured by a batch: {why}", field=name)
    delay, not_before = given.delay(), given.not_before()
    added: dict[str, Any] = {
        "dedup_id": given.get(DEDUP_ID),
        "label": given.get(LABEL),
        "delay": delay if not_before is None else None,
        "not_before": not_before,
    }
    sent = {field: value for field, value in added.items() if value is not None}
    for field in sent:
        if getattr(options, field) is not None:
            header, route = _BATCH_FIELDS[field]
            raise InputError(f"'{route}' is in the body and as the header '{header}'; give it once", field=route)
    named = {**given.forwarded, **(options.headers or {}), ROOT_HEADER: root}
    return replace(options, **sent, headers=named)


def name_fields(error: InputError) -> InputError:
    """What the trigger of a batch refused, in the names of its body."""
    sentence, field = str(error), error.field
    for argument in ("dedup_id", "batch_id", "not_before"):
        sentence = sentence.replace(f"'{argument}'", f"'{to_camel(argument)}'")
    return InputError(sentence, field=field and to_camel(field), status=error.status)


def batch_header_parameters() -> list[dict[str, Any]]:
    """What the OpenAPI document says of those that a batch honours."""
    return [it for it in header_parameters() if it["name"] not in _NOT_OF_BATCHES]


def name_headers(error: InputError) -> InputError:
    """What a trigger refused, in the names of the headers."""
    sentence = str(error)
    for argument, header in _IN_WORDS.items():
        sentence = sentence.replace(argument, header)
    return InputError(sentence, field=_ARGUMENTS.get(error.field or "", error.field), status=error.status)


def header_parameters() -> list[dict[str, Any]]:
    """What the OpenAPI document says of them."""
    return [
        {"name": name, "in": "header", "required": False, "description": meaning, "schema": {"type": "string"}}
        for name, meaning in HEADERS.items()
    ]
