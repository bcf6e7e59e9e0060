"""A workflow that is ready to be triggered: what `flow.add` returns."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, Literal, Never, TypeVar, cast

from pydantic import BaseModel, JsonValue

from batchflow.batch import answers
from batchflow.batch import dry_run as dry_runs
from batchflow.batch.arguments import (
    BatchTrigger,
    Id,
    check_dry_run,
    check_ledger_params,
    check_params,
    check_source,
    parse_ids,
)
from batchflow.batch.confirming import find_large_size
from batchflow.batch.dry_run import Statistics
from batchflow.batch.entry import CompleteLayer, EntryLayer
from batchflow.batch.execute import ExecuteLayer
from batchflow.batch.failure_hook import item_failure_endpoint
from batchflow.batch.handle import BatchHandle
from batchflow.batch.options import check_no_instance_options
from batchflow.batch.paginate import PaginateLayer
from batchflow.batch.payloads import TriggerRequest
from batchflow.batch.retry import Retries, RetryRequest, RetryResult
from batchflow.batch.runtime import WorkflowRuntime
from batchflow.batch.scheduling import declared_schedule, schedule_params
from batchflow.batch.status import BatchSummary
from batchflow.batch.trigger import open_prepared, prepare_batch, scheduled_batch, trigger_messages
from batchflow.batch.workflow import BatchWorkflow
from batchflow.core.batch import Batch
from batchflow.core.codec import NO_SIZE_LIMIT
from batchflow.core.duration import Duration
from batchflow.core.failure_budget import FailureBudget
from batchflow.core.flow import LIMIT_WORDS, FlowControl
from batchflow.core.ports import Client, LogNames
from batchflow.core.retry import RETRIES_WORDS
from batchflow.core.schedule import NewSchedule, ScheduledStart
from batchflow.core.settlement import Effect, OpenBatch
from batchflow.errors import ConfigurationError, InputError
from batchflow.serve.children import ChildOptions, ParentLink
from batchflow.serve.endpoint import DurableFunction, Endpoint
from batchflow.serve.runs import validate_label_filter
from batchflow.serve.trigger import Dedup
from batchflow.serve.validation import check_no_unknown_options, format_value

Params = TypeVar("Params", bound=BaseModel)
Result = TypeVar("Result")
P = TypeVar("P", bound=BaseModel)
R = TypeVar("R")


_WORDS_OF_TRIGGER = {
    "run_id": "batch_id=…",
    "dry_run": "await workflow.dry_run(params)",
    **dict.fromkeys(("retries", *RETRIES_WORDS), "retry = RetryPolicy(retries=…) in the class"),
    **{word: f"execute_flow = FlowControl({limit}) in the class" for word, limit in LIMIT_WORDS.items()},
    "retry_delay": "retry = RetryPolicy(…) in the class",
    "flow_control": "execute_flow = FlowControl(…) in the class",
    "flow": "execute_flow = FlowControl(…) in the class",
    "timeout": "item_timeout = … in the class",
}


class Workflow(Generic[Params, Result]):
    """A workflow bound to an engine: trigger it, dry-run it, find its batches."""

    def __init__(self, runtime: WorkflowRuntime) -> None:
        self._runtime = runtime
        self.definition = runtime.definition
        self.name = runtime.definition.name
        self.instance: BatchWorkflow[Any, Any, Any] = runtime.workflow
        """The object of the user's class that was added."""
        self.endpoints: tuple[Endpoint, ...] = layer_endpoints(runtime)
        """The layers, each at its route; `complete` is the end of a batch. The last is that of `on_item_failure`."""
        self.declared_flows: tuple[FlowControl, ...] = runtime.definition.flows
        """The limits the code gives to the keys of the layers."""
        self.declared_schedule: NewSchedule | None = declared_schedule(runtime.definition, runtime.payloads.read_params)
        """The schedule that its class declares."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}('{self.name}')"

    async def trigger(
        self,
        params: Params | None = None,
        *,
        force: bool = False,
        ids: Sequence[Id] | None = None,
        limit: int | None = None,
        dedup_id: str | None = None,
        dedup: Dedup = "kept",
        label: str | None = None,
        batch_id: str | None = None,
        canary: int | None = None,
        approve_under: float | None = None,
        delay: Duration | None = None,
        not_before: datetime | int | None = None,
        headers: Mapping[str, str] | None = None,
        notify_url: str | None = None,
        priority: int | None = None,
        failure_budget: FailureBudget | None = None,
        **unknown: Never,
    ) -> BatchHandle[Result]:
        """Start a batch, durable when this returns.

        `force` also runs items that are already processed. `ids` runs exactly these, unfiltered, instead of those from
        `fetch`; numbers and UUIDs are converted to strings. `limit` stops after so many items: a small batch before the
        full one. A second trigger of the workflow with the same `dedup_id` starts nothing and returns the handle of the
        first batch, with `deduplicated` set; its other arguments are ignored. This applies as long as the first batch
        is kept, with `dedup="open"` only until it has ended. `batch_id` sets the id, which begins with `bat_`; an id
        that exists starts nothing either. With `canary` the first so many items run, and all others wait until the
        batch is approved: by `batch.approve()`, or by itself if at most `approve_under` of them (0.05: 5 %) have
        failed. Batches can be listed by `label`. The batch starts after `delay`, or at
        `not_before`: a datetime with its time zone, or ms since the epoch. `ctx.headers` of its items and
        `self.headers` of its hooks have the `headers`; they appear nowhere else. `notify_url` takes the place of the
        class's: it gets a POST when the batch has ended. So does `failure_budget`: too many failed items pause the
        batch, or cancel it. Of the batches of the workflow, those with the highest `priority`, from 0 to 9, start their
        pages and items first; None is that of the class.

        Raises:
            InputError: parameters of another type, no or repeated ids, a limit below 1, an invalid id, label or
                priority, or the id of another workflow's batch. `TooLarge`: the parameters are too large. Nothing was
                started.
            ConfigurationError: a time, a header or the URL is invalid.
            UnserializableError: the parameters do not survive JSON.
        """
        check_no_unknown_options("trigger", unknown, self.trigger, _WORDS_OF_TRIGGER)
        options = BatchTrigger(
            force=force,
            ids=ids,
            limit=limit,
            dedup_id=dedup_id,
            dedup=dedup,
            label=label,
            batch_id=batch_id,
            canary=canary,
            approve_under=approve_under,
            delay=delay,
            not_before=not_before,
            headers=headers,
            notify_url=notify_url,
            priority=priority,
            failure_budget=failure_budget,
        )
        return await self.start(params, options)

    async def start(self, params: Params | None, options: BatchTrigger) -> BatchHandle[Result]:
        """Start a batch like `trigger`, with the options as one object."""
        opened = await open_prepared(self._runtime, prepare_batch(self._runtime, params, options))
        return BatchHandle(opened.id, self._runtime, deduplicated=opened.deduplicated)

    async def dry_run(self, params: Params | None = None, *, force: bool = False) -> Statistics:
        """Count exactly what `trigger` with these parameters would do now. Nothing is written or started.

        Raises:
            InputError: the parameters are of another type, or the workflow has no source of ids.
            NonRetryable: `fetch` or `filter` returned an invalid value, or the pages would never end.
        """
        check_source(self.definition)
        return await dry_runs.dry_run(self._runtime, check_params(self.definition, params), force=force)

    # The ledger

    # With `processed_per` there is one ledger for each value of these parameters; `params` selects it.

    async def processed(self, ids: Sequence[Id], params: Params | None = None) -> frozenset[str]:
        """Return those of `ids` that count as processed.

        Raises:
            InputError: an id is invalid, or the workflow has `processed_per`, and `params` is missing.
        """
        return await self._runtime.client.marks.processed(self._ledger_name(params), parse_ids(ids))

    async def mark(self, ids: Sequence[Id], params: Params | None = None) -> None:
        """Mark `ids` as processed, for `processed_ttl`: items that were processed before, or elsewhere.

        Raises:
            InputError: as for `processed`.
        """
        await self._runtime.client.marks.mark(self._ledger_name(params), parse_ids(ids), self.definition.ledger_ttl)

    async def forget(self, ids: Sequence[Id] | None = None, params: Params | None = None) -> int:
        """Mark `ids` as not processed, all for None; return how many were marked as processed.

        Raises:
            InputError: as for `processed`.
        """
        return await self._runtime.client.marks.forget(
            self._ledger_name(params), None if ids is None else parse_ids(ids)
        )

    def _ledger_name(self, params: Params | None) -> str:
        return self.definition.ledger_name(check_ledger_params(self.definition, params))

    # As a child (`batchflow.serve.children.Invocable`)

    @property
    def title(self) -> str:
        """Its name."""
        return self.name

    def child_effects(self, payload: Params, link: ParentLink, options: ChildOptions) -> tuple[Effect, ...]:
        """Return the effects that open a batch for the run that waits for it."""
        why = "a batch's retries and limits are its class's"
        options.reject(self.title, why, "retries", "retry_delay", "flow_control")
        options_of_batch = BatchTrigger(
            force=False if options.force is None else options.force,
            ids=options.ids,
            limit=options.limit,
            label=options.label,
            delay=options.delay,
            not_before=options.not_before,
            headers=options.headers,
            priority=options.priority,
            failure_budget=options.failure_budget,
        )
        start = prepare_batch(self._runtime, payload, options_of_batch, link)
        messages = [message for portion in trigger_messages(self._runtime, start) for message in portion]
        return (OpenBatch(start.batch, tuple(messages)),)

    def decode_result(self, text: str) -> BatchSummary:
        """Decode the summary of the batch."""
        return answers.read_summary(text)

    # By a schedule (`batchflow.core.ports.ScheduleTarget`)

    @property
    def schedule_route(self) -> str:
        """The route of its entry."""
        return self.definition.routes.process

    @property
    def schedule_starts(self) -> Literal["batch"]:
        """A fire opens a batch."""
        return "batch"

    def schedule_payload(self, params: object, payload: object) -> str:
        """Check the parameters of a schedule and return their JSON text."""
        return schedule_params(self.definition, params, payload, self._runtime.payloads.read_params)

    def scheduled_start(self, schedule: NewSchedule, at: int) -> ScheduledStart:
        """Return the batch of a fire, with its first messages."""
        return scheduled_batch(self._runtime, schedule, at)

    def batch(self, id: str) -> BatchHandle[Result]:
        """Return the handle of one of the workflow's batches."""
        return BatchHandle(id, self._runtime)

    async def retry(self, batch: Batch, request: RetryRequest) -> RetryResult:
        """Retry a part of one of the workflow's batches like `BatchHandle.retry`, with the arguments as one object."""
        return await Retries(self._runtime.client, self._runtime).retry(batch, request)

    async def batches(
        self, *, label: str | None = None, open_only: bool = False, limit: int = 50
    ) -> list[BatchHandle[Result]]:
        """Return the handles of the latest batches, or of those with `label`, newest first.

        Raises:
            InputError: the label is not a string.
        """
        label_filter = validate_label_filter(label, "batch")
        found = await self._runtime.client.store.batches(
            workflow=self.name, label=label_filter, open_only=open_only, limit=limit, params=False
        )
        return [self.batch(it.id) for it in found]

    def read_request(self, fields: Mapping[str, JsonValue]) -> TriggerRequest[Params]:
        """A trigger, from the fields of its JSON object: `{"dryRun": true, "paidOnly": true}`.

        Raises:
            InputError: a field is unknown or does not fit.
        """
        return self._runtime.payloads.read_entry(fields)

    async def handle_request(self, request: TriggerRequest[Params]) -> Statistics | BatchHandle[Result]:
        """Carry out a request: a dry run, or a trigger.

        Raises:
            InputError: as for `trigger`; a dry run names ids, or the batch is above `confirm_above` and not confirmed.
        """
        if request.dry_run:
            check_dry_run(request.options.ids)
            return await self.dry_run(request.params, force=request.options.force)
        if not request.confirm and (size := await self.find_large_size(request.params, request.options)) is not None:
            raise InputError(
                f"a batch of {size} has to be confirmed, since confirm_above is {self.definition.confirm_above:,}; "
                f'count it with "dryRun": true, or send "confirm": true',
                field="confirm",
            )
        return await self.start(request.params, request.options)

    async def find_large_size(self, params: Params | None, options: BatchTrigger) -> str | None:
        """Return the size of such a batch for people, if it is above `confirm_above`; None otherwise.

        Raises:
            InputError: the parameters, ids or limit are not valid.
            Exception: `count` or `fetch` has failed.
        """
        if self.definition.confirm_above is None:
            return None
        return await find_large_size(self._runtime, check_params(self.definition, params), options)

    @property
    def request_model(self) -> type[BaseModel]:
        """The shape of a trigger over the wire, for its documentation."""
        return self._runtime.payloads.entry_model


def bind(workflow: BatchWorkflow[P, Any, R], client: Client) -> Workflow[P, R]:
    """Make a workflow ready to be served and triggered.

    Raises:
        ConfigurationError: it is a class or another object, its class is a base for others, or options were set on the
            object.
    """
    if not isinstance(cast("object", workflow), BatchWorkflow):
        raise ConfigurationError(_not_an_object(workflow))
    if "__batch__" not in vars(type(workflow)):
        raise ConfigurationError(f"{type(workflow).__name__} is a base for workflows; add an object of a subclass")
    check_no_instance_options(workflow)
    return Workflow(WorkflowRuntime(workflow, client))


def _not_an_object(given: object) -> str:
    if isinstance(given, type):
        return f"flow.add takes an object, not its class; write flow.add({given.__name__}(…))"
    if isinstance(given, Workflow):
        return f"'{given.name}' is added already; flow.add takes an object of a BatchWorkflow"
    instead = "@flow.batch above it" if callable(given) else "an object of a class of BatchWorkflow"
    return f"flow.add cannot take {format_value(given)}; write {instead}"


def layer_endpoints(runtime: WorkflowRuntime) -> tuple[Endpoint, ...]:
    """Three endpoints, a fourth for the end of a batch (`on_complete`, or a run that waits), and `on_item_failure`."""
    layers = tuple(
        Endpoint(
            route=route,
            name=f"{runtime.definition.name}:{layer}",
            function=handler,
            payload=runtime.params_of,
            flow=flow,
            retry=runtime.definition.retry,
            timeout_ms=runtime.definition.timeout_ms,
            declared_timeout_ms=runtime.definition.declared_timeout_ms,
            # What the layers above the items record is pages of ids, which their sizes bound.
            limit=runtime.client.limit if layer == "execute" else NO_SIZE_LIMIT,
            log=_log_names(runtime.definition.name, layer),
        )
        for route, layer, handler, flow in _layers_with_routes(runtime)
    )
    failures = item_failure_endpoint(runtime)
    return layers if failures is None else (*layers, failures)


def _log_names(workflow: str, layer: str) -> LogNames:
    match layer:
        case "complete":
            return LogNames(f"{workflow}:process", "on_complete failed for good")
        case "execute":
            return LogNames(f"{workflow}:{layer}")
        case _:
            return LogNames(f"{workflow}:{layer}", "The walk failed for good")


def _layers_with_routes(runtime: WorkflowRuntime) -> Iterator[tuple[str, str, DurableFunction, FlowControl]]:
    definition, routes = runtime.definition, runtime.definition.routes
    yield routes.process, "process", EntryLayer(runtime).handle, definition.entry_flow
    yield routes.paginate, "paginate", PaginateLayer(runtime).handle, definition.paginate_flow
    yield routes.execute, "execute", ExecuteLayer(runtime).handle, definition.execute_flow
    yield routes.complete, "complete", CompleteLayer(runtime).handle, definition.complete_flow
