"""The endpoints that start work: batches of a workflow, runs of a durable function."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import getdoc
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field, JsonValue, create_model
from pydantic.alias_generators import to_camel

from batchflow.batch.arguments import BatchTrigger
from batchflow.batch.bound import Workflow
from batchflow.batch.dry_run import Statistics
from batchflow.batch.payloads import TriggerRequest
from batchflow.core.flow import FlowControl
from batchflow.core.ids import entry_id
from batchflow.core.retry import RetryPolicy
from batchflow.errors import ConfigurationError, InputError, TooLarge
from batchflow.http.bodies import PayloadReader, read_body, read_object
from batchflow.http.deliveries import MAX_DELIVERY, Deliveries, own_url
from batchflow.http.errors import json_response, rename_options
from batchflow.http.openapi import BODY_ERRORS, error_responses, header_parameters, request_body
from batchflow.http.schemas.base import BatchflowErrorResponse
from batchflow.http.schemas.batches import StartBatchResponse
from batchflow.http.schemas.runs import StartRunResponse
from batchflow.http.urls import Urls
from batchflow.serve.app_url import ROOT_HEADER, user_headers
from batchflow.serve.functions import ServedFunction
from batchflow.serve.trigger import TriggerOptions
from batchflow.serve.validation import validate_headers
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
    header_text,
)

_BATCH_STARTED: dict[str, Any] = {"model": StartBatchResponse, "description": "the batch is stored"}
_DRY_RUN_DONE: dict[str, Any] = {"model": Statistics, "description": "the statistics of a dry run"}
_SOURCE_ONLY = ("dry_run", "limit")
_SEVERAL_ONLY = ("canary", "approve_under", "confirm")

_FIXED = "its retries and limits are those of its class; leave it out"
_NOT_OF_BATCHES = {
    RUN_ID: "give it an id of its own in the body, as 'batchId'",
    **dict.fromkeys((RETRIES, RETRY_DELAY, FLOW_KEY, FLOW_VALUE), _FIXED),
}
_BATCH_HEADERS = {name: text for name, text in HEADERS.items() if name not in _NOT_OF_BATCHES}
_HEADER_OF = {"run_id": RUN_ID, "dedup_id": DEDUP_ID, "label": LABEL, "delay": DELAY, "not_before": NOT_BEFORE}


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerLimits:
    """The bounds of one request: the bytes of its body, and the ids that it names.

    `declared` are the limits that code has declared for flow keys; more may be added later.
    """

    max_body: int
    max_ids: int
    declared: Sequence[FlowControl] = ()

    def check_ids(self, ids: Sequence[object], field: str) -> None:
        """Raise `TooLarge` for more ids than one request may name."""
        if len(ids) > self.max_ids:
            raise TooLarge(
                f"'{field}' names {len(ids):,} ids, and one request may name {self.max_ids:,}; send several requests, "
                f"or raise BATCHFLOW_MAX_IDS",
                field=field,
            )

    def check_flow(self, flow: FlowControl | None) -> None:
        """Raise `InputError` for other limits of a key than code has declared."""
        declared = None if flow is None else next((it for it in self.declared if it.key == flow.key), None)
        if flow is not None and declared not in (None, flow):
            raise InputError(
                f"cannot set the limits of '{flow.key}', which the code of this app declares; leave it out, or name a "
                f"key of your own",
                option=FLOW_KEY,
                field=FLOW_KEY,
            )


class WorkflowEndpoints:
    """`process-{entities}`, `paginate-{entities}` and `{verb}-{entity}` of one workflow."""

    def __init__(self, workflow: Workflow[Any, Any], *, limits: TriggerLimits, urls: Urls) -> None:
        self._workflow = workflow
        self._routes = workflow.definition.routes
        self._wire = workflow.definition.wire
        self._closed = workflow.definition.params.model_config.get("extra") != "allow"
        self._limits = limits
        self._urls = urls

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
            responses={**error_responses(*BODY_ERRORS), 200: _DRY_RUN_DONE, 202: _BATCH_STARTED},
            openapi_extra=self._openapi(self._workflow.request_model, required=False),
        )
        router.add_api_route(
            self._routes.paginate,
            self.paginate,
            methods=["POST"],
            name=f"{name}:paginate",
            summary=f"Start a batch of exactly these {wire.plural}",
            tags=[*tags],
            status_code=202,
            responses={**error_responses(*BODY_ERRORS), 202: _BATCH_STARTED},
            openapi_extra=self._openapi(self._named_model(), required=True),
        )
        router.add_api_route(
            self._routes.execute,
            self.execute,
            methods=["POST"],
            name=f"{name}:execute",
            summary="Run one item, processed already or not",
            tags=[*tags],
            status_code=202,
            responses={
                **error_responses(*BODY_ERRORS, described={400: "the id is missing, or the body is not JSON"}),
                202: _BATCH_STARTED,
            },
            openapi_extra=self._openapi(self._single_model(), required=True),
        )

    async def process(self, request: Request) -> Response:
        """Starts a batch; with `{"dryRun": true}` only counts."""
        fields = await read_object(request, self._limits.max_body)
        return await self._start(request, self._routes.process, self._workflow.read_request(fields))

    async def paginate(self, request: Request) -> Response:
        """Starts a batch of the ids in the body."""
        fields = await read_object(request, self._limits.max_body)
        self._forbid(fields, "cursor", "dryRun", "limit")
        if fields.get(self._wire.ids) is None:
            raise InputError(
                f"'{self._wire.ids}' is missing: list the ids to run, or POST to {self._routes.process} to run all",
                field=self._wire.ids,
            )
        return await self._start(request, self._routes.paginate, self._workflow.read_request(fields))

    async def execute(self, request: Request) -> Response:
        """Starts a batch of one item, with force."""
        fields = await read_object(request, self._limits.max_body)
        self._forbid(fields, "cursor", "dryRun", "limit", "force", "canary", "approveUnder", "confirm", self._wire.ids)
        id = fields.pop(self._wire.id, None)
        if id is None or id == "":
            return json_response(BatchflowErrorResponse(error=f"Missing {self._wire.id}"), 400)
        if not isinstance(id, str):
            raise InputError("does not fit: an id is a string", option=self._wire.id, field=self._wire.id)
        trigger = self._workflow.read_request({**fields, "force": True, self._wire.ids: [id]})
        return await self._start(request, self._routes.execute, trigger)

    def _forbid(self, fields: dict[str, JsonValue], *names: str) -> None:
        """Refuse fields that only a trigger of the whole source takes."""
        for name in names:
            if name in fields:
                raise InputError(
                    f"'{name}' cannot be given here, where the {self._wire.plural} are named; "
                    f"POST to {self._routes.process} to run all",
                    field=name,
                )

    async def _start(self, request: Request, route: str, trigger: TriggerRequest[Any]) -> Response:
        if trigger.options.ids is not None:
            self._limits.check_ids(trigger.options.ids, self._wire.ids)
        root = self._urls.webhooks(request, route)
        trigger = replace(trigger, options=batch_options(trigger.options, request.headers.raw, root))
        try:
            result = await self._workflow.handle_request(trigger)
        except InputError as error:
            raise rename_options(error, self._field_name) from error
        if isinstance(result, Statistics):
            return json_response(result)
        url = self._urls.status(request, route, f"/batches/{result.id}")
        started = StartBatchResponse(
            workflow_run_id=entry_id(result.id), batch_id=result.id, deduplicated=result.deduplicated, status_url=url
        )
        return _started(started)

    def _field_name(self, option: str) -> str:
        """The name of a trigger's option in the body."""
        return self._wire.ids if option == "ids" else to_camel(option) if "_" in option else option

    def _openapi(self, model: type[BaseModel], *, required: bool) -> dict[str, Any]:
        body = request_body(model, required=required, closed=self._closed)
        return {**body, "parameters": header_parameters(_BATCH_HEADERS)}

    def _named_model(self) -> type[BaseModel]:
        ids: Any = (
            list[Annotated[str, Field(min_length=1)]],
            Field(min_length=1, max_length=self._limits.max_ids, alias=self._wire.ids),
        )
        return self._model("Named", without=("item_ids", *_SOURCE_ONLY), item_ids=ids)

    def _single_model(self) -> type[BaseModel]:
        id: Any = (str, Field(min_length=1, alias=self._wire.id))
        return self._model("Single", without=("item_ids", "force", *_SOURCE_ONLY, *_SEVERAL_ONLY), item_id=id)

    def _model(self, kind: str, *, without: Iterable[str], **added: Any) -> type[BaseModel]:
        """The model of a trigger without some of its fields, and with others added."""
        model = self._workflow.request_model
        kept: dict[str, Any] = {
            name: (field.annotation, field) for name, field in model.model_fields.items() if name not in set(without)
        }
        return create_model(
            f"{self._workflow.definition.class_name}{kind}", __config__=model.model_config, **added, **kept
        )


class FunctionEndpoint:
    """The route of one durable function: a POST starts a run with the body as its payload.

    With `deliveries` the engine calls it too; `check_start` decides then who may start a run.
    """

    def __init__(
        self,
        function: ServedFunction[Any, Any],
        *,
        limits: TriggerLimits,
        urls: Urls,
        deliveries: Deliveries | None = None,
        check_start: Callable[[Request], Awaitable[None]] | None = None,
    ) -> None:
        self._deliveries = deliveries
        self._check_start = check_start
        self._function = function
        self._endpoint = function.endpoint
        self._payload = PayloadReader(function)
        self._limits = limits
        self._urls = urls

    def add_routes(self, router: APIRouter) -> None:
        """Add the route."""
        types = () if self._function.parse is None else ("text/plain",)
        body = request_body(self._function.payload.annotation, required=True, types=types)
        started = {"model": StartRunResponse, "description": "the run is stored"}
        router.add_api_route(
            self._endpoint.route,
            self.start,
            methods=["POST"],
            name=f"{self._endpoint.name}:start",
            summary=f"Start a run of {self._endpoint.name}",
            description=getdoc(self._function.function),
            tags=[self._endpoint.name],
            status_code=202,
            responses={**error_responses(*BODY_ERRORS), 202: started},
            openapi_extra={**body, "parameters": header_parameters(HEADERS)},
        )

    async def start(self, request: Request) -> Response:
        """The run is stored before this is answered. A header `Upstash-Forward-NAME` becomes NAME of the run."""
        route = self._endpoint.route
        if self._deliveries is not None and self._deliveries.is_delivery(request.headers):
            self._deliveries.check_sender(route, request.headers)
            body = await read_body(request, MAX_DELIVERY)
            headers = {name.decode("latin-1"): header_text(content) for name, content in request.headers.raw}
            answer = await self._deliveries.answer(route, own_url(request), headers, body.content)
            return Response(answer.body, answer.status, dict(answer.headers))
        if self._check_start is not None:
            await self._check_start(request)
        root = self._urls.webhooks(request, route)
        options = run_options(request.headers.raw, self._endpoint.retry, root)
        self._limits.check_flow(options.get("flow_control"))
        body = await read_body(request, self._limits.max_body)
        if self._deliveries is not None and options.get("run_id") is None and options.get("dedup_id") is None:
            options["run_id"] = self._deliveries.start_id(route, own_url(request), request.headers, body.content)
        payload = self._payload.read(body)
        try:
            (run,) = await self._function.start([payload], options)
        except InputError as error:
            raise rename_options(error, lambda option: _HEADER_OF.get(option, option)) from error
        url = self._urls.status(request, route, f"/runs/{run.id}")
        started = StartRunResponse(workflow_run_id=run.id, deduplicated=run.deduplicated, status_url=url)
        return _started(started)


def _started(document: StartBatchResponse | StartRunResponse) -> Response:
    location = {} if document.status_url is None else {"Location": document.status_url}
    return json_response(document, 202, **location)


def run_options(headers: Iterable[tuple[bytes, bytes]], retry: RetryPolicy, root: str | None) -> TriggerOptions:
    """The options of a run that the headers set.

    `retry` is the function's policy, `root` the URL of the webhooks router, if the app has it.

    Raises:
        InputError: a value does not fit, or a header is not supported.
    """
    upstash = UpstashHeaders(headers)
    return TriggerOptions(
        run_id=upstash.get(RUN_ID),
        dedup_id=upstash.get(DEDUP_ID),
        delay=upstash.delay(),
        not_before=upstash.not_before(),
        label=upstash.get(LABEL),
        headers=_with_root(upstash.forwarded, root),
        retry_delay=upstash.retry(retry),
        flow_control=upstash.flow_control(),
    )


def batch_options(options: BatchTrigger, headers: Iterable[tuple[bytes, bytes]], root: str | None) -> BatchTrigger:
    """The options of a batch that the body sets, with those of the headers added; `root` as for `run_options`.

    Raises:
        InputError: a value does not fit or is in both, or no batch supports a header.
    """
    upstash = UpstashHeaders(headers)
    for name, why in _NOT_OF_BATCHES.items():
        if upstash.get(name) is not None:
            raise InputError(f"'{name}' is not supported for a batch: {why}", field=name)
    values: dict[str, Any] = {
        "dedup_id": upstash.get(DEDUP_ID),
        "label": upstash.get(LABEL),
        "delay": upstash.delay(),
        "not_before": upstash.not_before(),
    }
    sent = {field: value for field, value in values.items() if value is not None}
    for field in sent:
        if getattr(options, field) is not None:
            name = to_camel(field)
            raise InputError(
                f"'{name}' is in the body and as the header '{_HEADER_OF[field]}'; give it once", field=name
            )
    return replace(options, **sent, headers=_with_root({**upstash.forwarded, **(options.headers or {})}, root))


def _with_root(headers: Mapping[str, str], root: str | None) -> dict[str, str]:
    """The headers with batchflow's own one, which a request cannot set.

    Raises:
        InputError: one of them is not valid in HTTP.
    """
    try:
        validate_headers(headers)
    except ConfigurationError as error:
        raise InputError(str(error), field="headers") from error
    return {**user_headers(headers), **({} if root is None else {ROOT_HEADER: root})}
