"""`ServedFunction`: a durable function that is served at a route; its triggers, runs, children and schedules."""

import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from datetime import datetime
from typing import Any, Generic, Literal, Never, TypeVar, Unpack, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError, from_json, to_json

from batchflow.core.codec import Codec, type_name
from batchflow.core.duration import Duration
from batchflow.core.flow import FlowControl
from batchflow.core.message import Message
from batchflow.core.ports import RunClient
from batchflow.core.retry import RetryPolicy
from batchflow.core.schedule import (
    NewSchedule,
    Schedule,
    ScheduledStart,
    schedule_key,
    scheduled_headers,
    scheduled_run_id,
)
from batchflow.core.settlement import Effect, Publish
from batchflow.errors import BatchflowError, ConfigurationError, InputError
from batchflow.serve.children import ChildOptions, ParentLink
from batchflow.serve.context import WorkflowContext
from batchflow.serve.endpoint import Endpoint
from batchflow.serve.failure import describe_error
from batchflow.serve.runs import RunHandle
from batchflow.serve.trigger import (
    Dedup,
    TriggerOptions,
    check_trigger_options,
    run_message,
    run_retry_policy,
    start_time,
)
from batchflow.serve.validation import (
    check_no_unknown_options,
    format_value,
    validate_headers,
    validate_label,
    validate_run_id,
)

Payload = TypeVar("Payload")


Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ServedFunction(Generic[Payload, Result]):
    """A durable function at its route: starts runs of it and finds them."""

    function: Callable[[WorkflowContext[Payload]], Awaitable[Result]]
    endpoint: Endpoint
    payload: Codec[Payload]
    result: Codec[Result]
    client: RunClient
    label: str | None = None
    parse: Callable[[str], Payload] | None = None
    """Reads the payload from the body of a request that is not JSON."""
    failure_endpoint: Endpoint | None = None
    """The endpoint of its failure function, which has no route over HTTP."""
    declared_schedule: NewSchedule | None = None
    """The schedule that its code declares."""

    def __repr__(self) -> str:
        return f"ServedFunction('{self.route}')"

    def __call__(self, ctx: WorkflowContext[Payload], /) -> Awaitable[Result]:
        """Call the function itself with a context, as a test with one of its own does: without the engine."""
        return self.function(ctx)

    @property
    def route(self) -> str:
        """The route at which it is served, such as "/onboarding"."""
        return self.endpoint.route

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Its endpoint, and that of its failure function if there is one."""
        return (self.endpoint,) if self.failure_endpoint is None else (self.endpoint, self.failure_endpoint)

    async def trigger(
        self,
        payload: Payload,
        *,
        run_id: str | None = None,
        dedup_id: str | None = None,
        dedup: Dedup = "kept",
        delay: Duration | None = None,
        not_before: datetime | int | None = None,
        label: str | None = None,
        headers: Mapping[str, str] | None = None,
        retries: int | None = None,
        retry_delay: RetryPolicy | Duration | None = None,
        flow_control: FlowControl | None = None,
        **unknown: Never,
    ) -> RunHandle[Result]:
        """Start a run; it is durable when this returns.

        `run_id` is the id of the run; `dedup_id` says what the run is for. A second trigger of the function with the
        same one starts nothing and returns the handle of the first run, with `deduplicated` set: as long as the first
        is kept, or with `dedup="open"` only until it has ended. The run starts after `delay`, or at `not_before`: a
        datetime with a time zone, or ms since the epoch. `headers` are returned by `ctx.headers`, and `label` can be
        searched for. `retries`, `retry_delay` and `flow_control`, with a key, replace those of the function for this
        run.

        Raises:
            InputError: an id or a label is invalid, or the id belongs to a run of another function. Its subclass
                `TooLarge`: the payload is too large.
            ConfigurationError: a time or another option is wrong.
            UnserializableError: the payload changes on its way through JSON.
        """
        check_no_unknown_options("trigger", unknown, self.trigger)
        handles = await self.trigger_many(
            [payload],
            run_id=run_id,
            dedup_id=dedup_id,
            dedup=dedup,
            delay=delay,
            not_before=not_before,
            label=label,
            headers=headers,
            retries=retries,
            retry_delay=retry_delay,
            flow_control=flow_control,
        )
        return handles[0]

    async def trigger_many(
        self, payloads: Sequence[Payload], **options: Unpack[TriggerOptions]
    ) -> list[RunHandle[Result]]:
        """Start a run of each payload, all in one transaction, with the options of `trigger`.

        Raises:
            InputError, ConfigurationError, UnserializableError: see `trigger`; nothing was started.
        """
        check_trigger_options(options, self.client.now())
        return await self.start(payloads, options)

    async def start(self, payloads: Sequence[Payload], options: TriggerOptions) -> list[RunHandle[Result]]:
        """Start runs as `trigger_many` does, but accept a `not_before` of any age."""
        bodies = [self._body(payload) for payload in payloads]
        messages = [run_message(self.endpoint, self.client, body, options, self.label) for body in bodies]
        run_id, dedup_id = options.get("run_id"), options.get("dedup_id")
        if len(messages) > 1 and (run_id or dedup_id):
            raise InputError("name one run", option="run_id", other="dedup_id", want="trigger several without them")
        is_open = options.get("dedup") == "open"
        if is_open and not self.client.replaces_ended_runs:
            return [await self._trigger_open(message) for message in messages]
        named = run_id is not None or dedup_id is not None
        if (
            named
            and not is_open
            and self.client.replaces_ended_runs
            and await self.client.run_store.run(messages[0].id)
        ):
            return [self._handle(messages[0], deduplicated=True)]
        new = await self.client.publish(messages) if messages else ()
        if run_id is not None and not all(new):
            await self._check_is_own_run(run_id)
        return [self._handle(it, deduplicated=named and not is_new) for it, is_new in zip(messages, new, strict=True)]

    async def _trigger_open(self, message: Message) -> RunHandle[Result]:
        """Start a run unless one with the same `open_dedup` has not ended yet."""
        while True:
            (new,) = await self.client.publish([message])
            if new:
                return self._handle(message)
            known = await self.client.run_store.under_way(message.open_dedup or "")
            if known is None and await self.client.run_store.run(message.id) is not None:
                # Publishing did store it, although the reply was lost, and it has ended since.
                known = message.id
            if known is not None:
                return RunHandle(known, self.result, self.client, deduplicated=known != message.id)
            # The other run has ended just now: try again.

    def _handle(self, message: Message, *, deduplicated: bool = False) -> RunHandle[Result]:
        return RunHandle(message.id, self.result, self.client, deduplicated=deduplicated)

    async def _check_is_own_run(self, id: str) -> None:
        run = await self.client.run_store.run(id)
        if run is not None and run.destination != self.endpoint.route:
            raise InputError(f"which is a run of '{run.destination}'", option="run_id", got=f"'{id}'")

    def run(self, id: str) -> RunHandle[Result]:
        """Return the handle of a run of this function."""
        return RunHandle(validate_run_id(id, "id"), self.result, self.client)

    # As a child (`batchflow.serve.children.Invocable`)

    @property
    def title(self) -> str:
        """The name of the function."""
        return self.endpoint.name

    def child_effects(self, payload: Payload, link: ParentLink, options: ChildOptions) -> tuple[Effect, ...]:
        """Return the effect that starts a run for its parent."""
        of_batches = ("ids", "limit", "force", "priority", "failure_budget")
        options.reject(self.title, "that is a batch's, and this is a function", *of_batches)
        not_before = start_time(options.delay, options.not_before, self.client.now(), check_era=True)
        retry = run_retry_policy(self.endpoint, options.retries, options.retry_delay)
        flow, label = options.flow_control or self.endpoint.flow, options.label or self.label
        self.client.check_run(flow, retry, label, options.headers)
        child = Message(
            id=link.id,
            destination=self.endpoint.route,
            flow=flow,
            body=self._body(payload),
            headers=self.endpoint.run_headers(options.headers, not_before, retry),
            not_before=not_before,
            retry=retry,
            keep=True,
            label=label,
            parent=link.parent,
            depth=link.depth,
            on_failure=self.endpoint.on_failure,
        )
        return (Publish((child,)),)

    def decode_result(self, text: str) -> Result:
        """Decode the result for the parent."""
        return self.result.decode(text)

    # By a schedule (`batchflow.core.ports.ScheduleTarget`)

    @property
    def schedule_route(self) -> str:
        """Its route."""
        return self.route

    @property
    def schedule_starts(self) -> Literal["run"]:
        """A fire starts a run."""
        return "run"

    def schedule_payload(self, params: object, payload: object) -> str:
        """Check the payload of a schedule, a value of its type or its JSON, and return the JSON text.

        Without one it is null, or else an empty object, so that a model needs none if it has defaults.

        Raises:
            InputError: it does not fit.
        """
        if params is not None:
            raise InputError(f"belongs to workflows, and '{self.title}' takes 'payload'", option="params")
        is_value = isinstance(payload, BaseModel) or is_dataclass(payload) or self.payload.annotation is Any
        return self._body(cast("Payload", payload) if is_value else self._read_payload(payload))

    def _read_payload(self, json: object) -> Payload:
        try:
            if json is None:
                with contextlib.suppress(ValidationError):
                    return self.payload.decode_input("null")
                return self.payload.decode_input("{}")
            return self.payload.decode_input(to_json(json))
        except ValidationError as error:
            if json is None:
                want = f"write a {type_name(self.payload.annotation)}, or its JSON"
                raise InputError("is missing", option="payload", want=want) from error
            raise InputError(payload_error(self.route, self.payload, error), field="payload") from error
        except PydanticSerializationError as error:
            want = f"write a {type_name(self.payload.annotation)}, or its JSON"
            raise InputError(option="payload", got=format_value(json), want=want) from error

    def scheduled_start(self, schedule: NewSchedule, at: int) -> ScheduledStart:
        """Return the message of the run of a fire.

        Raises:
            InputError: its payload does not fit any more.
        """
        try:
            payload = self.payload.decode(schedule.payload)
        except ValidationError as error:
            raise InputError(payload_error(self.route, self.payload, error)) from error
        options = TriggerOptions(
            run_id=scheduled_run_id(schedule.id, at), label=schedule.label, headers=scheduled_headers(schedule, at)
        )
        message = run_message(self.endpoint, self.client, self._body(payload), options, self.label or schedule.id)
        if schedule.overlap != "allow":
            message = replace(message, open_dedup=schedule_key(schedule.id))
        return ScheduledStart(None, (message,))

    def with_schedule(self, schedule: Schedule) -> "ServedFunction[Payload, Result]":
        """Return it with a schedule that its code declares; its id is the function's name.

        Raises:
            ConfigurationError: the payload or an option does not fit.
        """
        try:
            declared = NewSchedule(
                id=self.title,
                target=self.title,
                destination=self.route,
                cron=schedule.times,
                payload=self.schedule_payload(schedule.params, schedule.payload),
                overlap=schedule.overlap,
                label=validate_label(schedule.label),
                headers=validate_headers(schedule.headers),
                declared=True,
            )
        except BatchflowError as error:
            raise ConfigurationError(f"the schedule of '{self.route}': {error}") from error
        return replace(self, declared_schedule=declared)

    def _body(self, payload: Payload) -> str:
        where = f"the payload of '{self.endpoint.route}'"
        text, _ = self.payload.round_trip(payload, where=where)
        self.client.limit.check(text, where)
        return text


def parse_payload(parser: Callable[[str], Payload], text: str, function: str) -> Payload:
    """Return the payload that the parser of a function makes of a body.

    Raises:
        InputError: the parser raises.
    """
    try:
        return parser(text)
    except Exception as error:
        name = getattr(parser, "__name__", "initial_payload_parser")
        raise InputError(f"the parser '{name}' of '{function}' cannot read this: {describe_error(error)}") from error


def decode_payload(
    payload: Codec[Payload], body: str, parser: Callable[[str], Payload] | None, function: str
) -> Payload:
    """Return the payload that the body of a run has.

    A run that somebody has started past this app may have any body. The parser of the function reads one that is not
    JSON; without a parser it is a text.

    Raises:
        ValidationError: the body does not fit.
        InputError: the parser raises.
    """
    try:
        return payload.decode(body)
    except ValidationError:
        if _is_json(body):
            raise
        if parser is not None:
            return parse_payload(parser, body, function)
        with contextlib.suppress(ValidationError):
            return payload.decode(to_json(body).decode())
        raise


def _is_json(text: str) -> bool:
    try:
        from_json(text)
    except ValueError:
        return False
    return True


def payload_error(route: str, payload: Codec[Any], error: ValidationError) -> str:
    """Return in one sentence why a payload does not fit a function."""
    faults = [
        ": ".join(filter(None, (".".join(map(str, fault["loc"])), fault["msg"])))
        for fault in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
    return f"the payload of '{route}' is not a valid {type_name(payload.annotation)}: {'; '.join(faults[:3])}{more}"
