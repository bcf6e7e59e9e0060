"""`Batchflow`: the workflows of one program, the engine that runs them, and what can be done with their runs."""

import asyncio
import os
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Never, ParamSpec, TypeVar, Unpack, cast, overload

from pydantic import BaseModel

from batchflow.batch import operations
from batchflow.batch.bound import Workflow, bind
from batchflow.batch.function import BatchDecorator, BatchFunction, IdSource, bind_function, check_function_options
from batchflow.batch.handle import BatchHandle
from batchflow.batch.item_failure import ItemFailure
from batchflow.batch.logs import BatchEndLog, ProgressLog
from batchflow.batch.names import kebab_case
from batchflow.batch.operations import BatchSelection, Selection, as_ids
from batchflow.batch.schedules import ScheduleAdmin
from batchflow.batch.workflow import BatchWorkflow, NoParams
from batchflow.core.codec import SizeLimit
from batchflow.core.duration import Duration
from batchflow.core.failure_budget import FailureBudget
from batchflow.core.flow import FlowControl
from batchflow.core.message import WorkerStatus
from batchflow.core.ports import Clock, Entropy, ScheduleTarget
from batchflow.core.retry import RetryPolicy
from batchflow.core.run import RunState, Waiter
from batchflow.core.schedule import Schedule, as_schedule
from batchflow.core.store import Ledger, Store
from batchflow.core.suggestions import did_you_mean, explains_options
from batchflow.engine.callbacks import CallbackSettings, CodeFailureUrl
from batchflow.engine.clock import SystemClock, SystemEntropy
from batchflow.engine.engine import Engine
from batchflow.engine.observers import VerboseLog
from batchflow.engine.options import EngineOptions
from batchflow.engine.signals import on_signal, on_stop_signals
from batchflow.engine.sync_calls import run_sync
from batchflow.errors import ConfigurationError, DuplicateNameError, InputError, NotFoundError, StoreUnavailable
from batchflow.http.notifications import notification_body
from batchflow.http.reserved_routes import check_not_reserved
from batchflow.logs import set_level
from batchflow.qstash.options import ON_QSTASH, QStash, UpstashClient, UpstashReceiver, find_account
from batchflow.qstash.receiver import Receiver
from batchflow.resources import Resource, Resources
from batchflow.serve import runs
from batchflow.serve.app_url import PublicUrl, RouterPath
from batchflow.serve.context import WorkflowContext
from batchflow.serve.dead_letters import DeadLetters
from batchflow.serve.declaration import (
    WORDS_OF_SERVE,
    check_route,
    check_serve_options,
    serve_function,
    serve_retry_policy,
)
from batchflow.serve.endpoint import Endpoint
from batchflow.serve.failure_functions import RunFailure
from batchflow.serve.functions import ServedFunction
from batchflow.serve.limits import LimitAdmin
from batchflow.serve.plugged import check_plugged
from batchflow.serve.runs import RunHandle, RunPage, validate_label_filter
from batchflow.serve.trigger import TriggerOptions
from batchflow.serve.validation import (
    check_flag,
    check_no_unknown_options,
    check_served,
    format_value,
    parse_timeout,
    validate_run_id,
)
from batchflow.serve.waits import any_codec

if TYPE_CHECKING:
    from fastapi import APIRouter, Request

    from batchflow.http.router import Routers
    from batchflow.qstash.account import QStashAccount
    from batchflow.qstash.deliveries import QStashDeliveries
    from batchflow.server.app import QStashServer

P = ParamSpec("P")
Params = TypeVar("Params", bound=BaseModel)
Payload = TypeVar("Payload")
Result = TypeVar("Result")
T = TypeVar("T")
Bound = TypeVar("Bound", bound=Workflow[Any, Any])


@explains_options(
    url="the URL without a name: Batchflow('sqlite:///batchflow.db')",
    redis="the URL without a name: Batchflow('redis://…')",
    lifespan="@flow.resource on each thing to open and close",
    workers="worker=True or False, and concurrency=…",
    threads="BATCHFLOW_THREADS=… in the environment",
)
class Batchflow:
    """An app: the workflows and durable functions of one program, and the engine that runs them.

        flow = Batchflow()                                # BATCHFLOW_URL, else sqlite:///batchflow.db
        welcome = flow.add(WelcomePlaceholder(users, model))
        app = FastAPI(lifespan=flow.lifespan)
        app.include_router(flow.router, prefix="/api/workflows")

    Outside of FastAPI, `async with flow:` starts and stops it. `store` is a URL or a store object. With `worker=False`
    nothing runs in this process: it triggers and reads, and a `batchflow worker` does the work. `ledger`, a URL or a
    ledger object, records which items are processed; by default the store does. Options that are None come from the
    environment (`batchflow.settings.Settings`).

    Raises:
        ConfigurationError: a setting has an invalid value, or the URL names no store.
    """

    def __init__(
        self,
        store: "str | Store | QStash | None" = None,
        *,
        ledger: "str | Ledger | None" = None,
        worker: bool = True,
        concurrency: int | None = None,
        grace: timedelta | None = None,
        retention: timedelta | None = None,
        token: str | None = None,
        admin_access: Literal["loopback", "app"] | None = None,
        clock: Clock | None = None,
        entropy: Entropy | None = None,
    ) -> None:
        # pydantic-settings takes as long to import as pydantic itself.
        from batchflow.settings import Settings, open_ledger, open_store

        check_flag("worker", worker)
        check_plugged("clock", clock, "now", "write a clock, such as ManualClock() in tests")
        check_plugged("entropy", entropy, "bytes", "write what yields random bytes, such as FixedEntropy() in tests")
        url, beside = (it if isinstance(it, str) else None for it in (store, ledger))
        if isinstance(store, QStash):
            url = ON_QSTASH
        elif url is None:
            check_plugged("store", store, "claim_one", "write a URL such as redis://HOST:PORT, a store, or QStash()")
        if beside is None:
            check_plugged("ledger", ledger, "mark", "write a URL such as redis://HOST:PORT, or a ledger")
        self.settings = Settings.load(
            url=url,
            ledger=beside,
            concurrency=concurrency,
            grace=grace,
            retention=retention,
            token=token,
            admin_access=admin_access,
        )
        set_level(self.settings.log_level)
        self.worker = worker
        clock = clock or SystemClock()
        self._workflows: dict[str, Workflow[Any, Any]] = {}
        self._served: dict[str, ServedFunction[Any, Any]] = {}
        self._endpoints: dict[str, Endpoint] = {}
        self._limits: list[FlowControl] = []
        self._verbose: dict[str, str] = {}
        self.resources = Resources()
        """The declarations of `flow.resource`."""
        self._router_path = RouterPath()
        self._routers: Routers | None = None
        self._server: QStashServer | None = None
        qstash = store if isinstance(store, QStash) else None
        if self.settings.url == ON_QSTASH and isinstance(store, str | None):
            qstash = QStash()
        kind = Engine
        if qstash is not None:
            # Imported only by the apps that use it.
            from batchflow.qstash.connection import store_of
            from batchflow.qstash.engine import QStashEngine

            kind, store = QStashEngine, store_of(qstash, self.settings, clock)
        self.engine: Engine = kind(
            open_store(self.settings, clock) if store is None or isinstance(store, str | QStash) else store,
            self._endpoints,
            self._limits,
            clock=clock,
            entropy=entropy or SystemEntropy(),
            options=EngineOptions(
                concurrency=self.settings.concurrency,
                grace_s=self.settings.grace.total_seconds(),
                retention_ms=int(self.settings.retention.total_seconds() * 1000),
                threads=self.settings.threads,
                always_replay=self.settings.always_replay,
                name=self.settings.worker_name,
                limit=SizeLimit(self.settings.max_value),
            ),
        )
        self._start_lock: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None
        self._deliveries: QStashDeliveries | None = None
        if qstash is not None:
            from batchflow.qstash.connection import connect

            self.worker = False
            self._deliveries = connect(self.engine, qstash, self.settings, self._endpoints, self._router_path)
        self.engine.callbacks = CallbackSettings(notification_body, self.settings.qstash_current_signing_key)
        self._schedules = ScheduleAdmin(self.engine)
        self._limit_admin = LimitAdmin(self.engine)
        self.engine.report_progress = ProgressLog(self.engine, self._workflows).write
        end_log = BatchEndLog(self.engine)
        self.engine.observers.add(end_log)
        self.engine.finish_log = end_log.finish
        self.engine.ledger = open_ledger(self.settings) if ledger is None or isinstance(ledger, str) else ledger

    def __repr__(self) -> str:
        names = [*self._workflows, *self._served]
        more = f", … and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        return f"<Batchflow: {', '.join(names[:_SHOWN]) or 'no workflows'}{more}>"

    # Workflows and functions

    def add(self, workflow: BatchWorkflow[Params, Any, Result]) -> Workflow[Params, Result]:
        """Add a batch workflow; the bound workflow that this returns can be triggered.

        Raises:
            DuplicateNameError: there is a workflow of that name already.
        """
        return self._add(bind(workflow, self.engine))

    def _add(self, bound: Bound) -> Bound:
        if self._deliveries is not None:
            self._deliveries.check_batch(bound.definition)
        if bound.name in self._workflows:
            raise DuplicateNameError(
                f"two workflows are named '{bound.name}'; "
                f"give one of them another `name` (in {bound.definition.class_name})"
            )
        self._register_endpoints(bound.endpoints)
        self._limits.extend(bound.declared_flows)
        self._workflows[bound.name] = bound
        self._add_schedule_target(bound)
        if self._routers is not None:
            self._routers.add(bound)
        return bound

    # A `str` is a sequence of them, too: functions of many ids come first.
    @overload
    def batch(
        self, fn: Callable[[list[str]], Awaitable[Sequence[Result | Exception | BaseException]]], /
    ) -> BatchFunction[Result, Awaitable[Sequence[Result | Exception | BaseException]], list[str]]: ...
    @overload
    def batch(
        self, fn: Callable[[list[str]], Sequence[Result | Exception | BaseException]], /
    ) -> BatchFunction[Result, Sequence[Result | Exception | BaseException], list[str]]: ...
    @overload
    def batch(self, fn: Callable[[str], Awaitable[Result]], /) -> BatchFunction[Result, Awaitable[Result]]: ...
    @overload
    def batch(self, fn: Callable[[str], Result], /) -> BatchFunction[Result, Result]: ...
    @overload
    def batch(
        self,
        *,
        ids: IdSource | None = None,
        name: str | None = None,
        entity: str | None = None,
        entity_plural: str = ...,
        execute_verb: str = ...,
        page_size: int = ...,
        chunk_size: int = ...,
        flow: FlowControl | None = ...,
        entry_flow: FlowControl | None = ...,
        paginate_flow: FlowControl | None = None,
        retry: RetryPolicy = ...,
        timeout: Duration = ...,
        processed_ttl: Duration | None = None,
        processed_per: tuple[str, ...] = (),
        walk_first: bool = False,
        priority: int = 0,
        confirm_above: int | None = None,
        group_size: int = ...,
        group_wait: Duration = ...,
        group_parallelism: int | None = None,
        item_flow: Callable[[str], FlowControl | None] | None = None,
        on_item_failure: Callable[[ItemFailure[NoParams]], Any] | None = None,
        schedule: Schedule | str | None = None,
        failure_budget: FailureBudget | None = None,
        notify_url: str | None = None,
    ) -> BatchDecorator: ...
    def batch(self, fn: Any = None, **options: Any) -> Any:
        """The shortest batch: a function of one id, `@flow.batch` or `@flow.batch(ids=source)`.

        A function of many ids, `async def embed(ids: list[str]) -> list[Vector]`, is called for up to `group_size` of
        them at once, as `execute_many` of a class is.

        `ids` is a sequence, or a function that returns one, a generator or an async generator; without it every
        trigger names its ids. `flow` limits the items (None: unlimited) and `timeout` an attempt; they are
        `execute_flow` and `item_timeout` of a class. `item_flow` is a function of an id, `on_item_failure` one of an
        `ItemFailure`; the other options are those of a class, too. Pages have no limits without `paginate_flow`.

        Calling what this returns calls the function itself: `await greet("ada")`.
        """
        check_function_options(options)
        if fn is not None and not callable(fn):
            of_id = "; the batch of an id is that of its workflow: greet.batch(id)" if isinstance(fn, str) else ""
            raise ConfigurationError(
                f"flow.batch cannot take {format_value(fn)}; write @flow.batch above a function of one id{of_id}"
            )

        def take(function: Callable[..., Any]) -> BatchFunction[Any, Any, Any]:
            return self._add(bind_function(function, self.engine, options))

        return take if fn is None else take(fn)

    def serve(
        self,
        route: str,
        *,
        retry: RetryPolicy | None = None,
        retries: int | None = None,
        retry_delay: RetryPolicy | Duration | None = None,
        flow_control: FlowControl | None = None,
        timeout: Duration | None = None,
        failure_function: Callable[[RunFailure[Any]], Any] | None = None,
        failure_url: str | None = None,
        initial_payload_parser: Callable[[str], Any] | None = None,
        label: str | None = None,
        verbose: bool = False,
        schedule: Schedule | str | None = None,
        url: str | None = None,
        base_url: str | None = None,
        env: Mapping[str, str] | None = None,
        qstash_client: QStash | UpstashClient | None = None,
        receiver: Receiver | UpstashReceiver | Literal["app"] | None = "app",
        disable_telemetry: bool = False,
        **unknown: Never,
    ) -> Callable[[Callable[[WorkflowContext[Payload]], Awaitable[Result]]], ServedFunction[Payload, Result]]:
        """Serve `async def f(ctx: WorkflowContext[Payload]) -> Result` at `route`: `@flow.serve("/onboarding")`.

        Its runs wait under the key of `flow_control`, by default the route's words joined by dots. `retry` is the
        policy of its steps and of itself; instead of it `retries` and `retry_delay` say as much: a duration, or
        QStash's expression in ms, such as "pow(2, retried) * 1000". `timeout` is how long one attempt may take (1 hour;
        durable waits do not count). `failure_function`, an `async def` or `def`, is called with a `RunFailure` once a
        run has failed for good, in a message of its own that is retried; without one, `failure_url` gets a POST of the
        same in QStash's JSON. `initial_payload_parser` makes a payload of a request's body that is not JSON.
        `label` is that of runs that are triggered without one. `verbose` logs what the engine does, event by event.
        `schedule` starts runs by itself: a cron expression in UTC, or a `Schedule` with time zone and payload.
        `url` is the function's own public URL, or `base_url` the app's, for webhooks; else UPSTASH_WORKFLOW_URL or
        APP_URL of `env`, which is what `ctx.env` shows (os.environ), else the request's.

        On QStash `qstash_client` names another account than the app's, as the QSTASH_ variables of `env` do;
        `receiver` has its signing keys, and None verifies nothing; `disable_telemetry` sends none.

        Raises:
            ConfigurationError: a signature or an option is wrong.
            DuplicateNameError: the route is served already.
        """
        check_route(route)
        check_no_unknown_options("flow.serve", unknown, self.serve, WORDS_OF_SERVE)
        policy = serve_retry_policy(retry, retries, retry_delay)
        timeout_ms = parse_timeout(timeout)
        check_serve_options(flow_control, failure_function, failure_url, initial_payload_parser, label, verbose, env)
        find = self._deliveries and self._deliveries.find_account
        account = find_account(find, qstash_client, receiver, env, disable_telemetry)
        declared = as_schedule(schedule)
        environment = os.environ if env is None else env
        public_url = PublicUrl(route=route, url=url, base_url=base_url, env=environment)

        def take(fn: Callable[[WorkflowContext[Payload]], Awaitable[Result]]) -> ServedFunction[Payload, Result]:
            served = serve_function(
                fn,
                route,
                client=self.engine,
                retry=policy,
                flow_control=flow_control,
                timeout_ms=timeout_ms,
                initial_payload_parser=initial_payload_parser,
                label=label,
                verbose=verbose,
                failure_function=failure_function,
                failure_url=failure_url,
                public_url=public_url,
                env=environment,
            )
            if declared is not None:
                served = served.with_schedule(declared)
            self._register_endpoints(served.endpoints, account)
            if served.endpoint.failure_url is not None:
                public = self._endpoints[route].public_url
                known = CodeFailureUrl(served.endpoint.failure_url, partial(public.url_of, route))
                self.engine.callbacks.failure_urls[route] = known
            self._limits.append(served.endpoint.flow)
            if served.endpoint.verbose:
                if not self._verbose:
                    self.engine.observers.add(VerboseLog(self._verbose, self.engine.now))
                self._verbose[route] = served.endpoint.name
            self._served[route] = served
            self._add_schedule_target(served)
            if self._routers is not None:
                self._routers.add(served)
            return served

        return take

    def _add_schedule_target(self, target: ScheduleTarget) -> None:
        declared = target.declared_schedule
        if declared is not None:
            self.engine.check_schedule(declared)
        for other in self.engine.schedule_targets.values():
            if declared and other.declared_schedule and other.declared_schedule.id == declared.id:
                raise DuplicateNameError(
                    f"'{target.schedule_route}' and '{other.schedule_route}' both declare the schedule "
                    f"'{declared.id}', which is their name; give one of them another"
                )
        self.engine.schedule_targets[target.schedule_route] = target

    def _register_endpoints(self, endpoints: "tuple[Endpoint, ...]", account: "QStashAccount | None" = None) -> None:
        for endpoint in endpoints:
            check_not_reserved(endpoint.route)
            if endpoint.route in self._endpoints:
                raise DuplicateNameError(f"the route '{endpoint.route}' is served twice; give one of them another")
        for it in endpoints:
            hooks = None
            if self._deliveries is not None and account is not None:
                self._deliveries.add_account(it, account)
                hooks = self._deliveries.webhooks_of(it)
            url = replace(it.public_url, router=self._router_path, hooks=hooks)
            self._endpoints[it.route] = replace(it, public_url=url)
            self.engine.log_names[it.route] = it.log

    @overload
    def resource(self, opener: Callable[[], AbstractAsyncContextManager[T]], /) -> Resource[T]: ...
    @overload
    def resource(self, opener: Callable[[], AbstractContextManager[T]], /) -> Resource[T]: ...
    @overload
    def resource(self, opener: Callable[[], AsyncIterator[T]], /) -> Resource[T]: ...
    @overload
    def resource(self, opener: Callable[[], Iterator[T]], /) -> Resource[T]: ...
    def resource(self, opener: Any = None, /) -> Resource[Any]:
        """Declare a resource of the process, such as an HTTP client or a pool; calling it returns the open one.

            @flow.resource
            async def client() -> AsyncGenerator[httpx.AsyncClient]:
                async with httpx.AsyncClient(base_url="https://api.example.com") as opened:
                    yield opened

            @flow.batch
            async def crawl(path: str) -> int:
                return (await client().get(path)).status_code

        `opener` is a generator of one value, sync or async, or returns a context manager: `flow.resource(AsyncClient)`.
        Every start of the app, with or without a worker, opens all resources on its event loop, after the store and in
        the order of their declaration; its stop closes them in reverse, after the work.

        Raises:
            ConfigurationError: `opener` takes arguments or does not yield, or the app runs already.
        """
        return self.resources.declare(opener)

    @property
    def workflows(self) -> Mapping[str, Workflow[Any, Any]]:
        """The batch workflows, by name."""
        return self._workflows

    def find_workflow(self, name: str) -> Workflow[Any, Any]:
        """The workflow of that name, which may be written as its function or class is: `sync_block`, `SyncBlock`.

        Raises:
            NotFoundError: there is no such workflow; the message has the name that may be meant.
        """
        folded = {kebab_case(it): workflow for it, workflow in self._workflows.items()}
        found = self._workflows.get(name) or folded.get(kebab_case(name))
        if found is None:
            raise NotFoundError(f"there is no workflow '{name}'{did_you_mean(name, self._workflows)}")
        return found

    @property
    def served(self) -> Mapping[str, ServedFunction[Any, Any]]:
        """The plain durable functions, by route."""
        return self._served

    # Runs, batches and workers

    async def trigger(
        self, function: ServedFunction[Payload, Result], payload: Payload, **options: Unpack[TriggerOptions]
    ) -> RunHandle[Result]:
        """Start a run of a served function: as `function.trigger`, which says what the options are."""
        check_served(function, "trigger")
        (handle,) = await function.trigger_many([payload], **options)
        return handle

    async def trigger_many(
        self, function: ServedFunction[Payload, Result], payloads: Sequence[Payload], **options: Unpack[TriggerOptions]
    ) -> list[RunHandle[Result]]:
        """Start a run of each payload, all of them or none; their handles, in the same order.

        The options are those of `trigger` but for `run_id` and `dedup_id`, which name one run.
        """
        check_served(function, "trigger_many")
        return await function.trigger_many(payloads, **options)

    def trigger_sync(
        self, function: ServedFunction[Payload, Result], payload: Payload, **options: Unpack[TriggerOptions]
    ) -> RunHandle[Result]:
        """`trigger` for code that is not async: a plain script, a view of another framework, a sync step.

        If the app runs in another thread of this process, that one is used; otherwise its store is opened, and closed
        after the run is stored.

        Raises:
            InputError: this thread runs an event loop, which the call would block; or the app does not run and keeps
                its state in memory, so that the run would be lost.
        """
        return run_sync(self.engine, "trigger", lambda: self.trigger(function, payload, **options))

    def run(self, id: str) -> RunHandle[Any]:
        """The handle of any run: `await flow.run(id).status()` returns its state, its steps and their times.

        Its result is plain data; `function.run(id)` returns it in its type.
        """
        return RunHandle(validate_run_id(id, "id"), any_codec(), self.engine)

    async def runs(
        self,
        *,
        state: RunState | None = None,
        function: ServedFunction[Any, Any] | str | None = None,
        label: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> RunPage:
        """A page of runs, the latest first, filtered by function (itself, or its route), state and label.

        Raises:
            InputError: the cursor, the limit or the state is not valid.
            NotFoundError: there is no such function.
        """
        return await runs.list_runs(
            self.engine, state=state, destination=self._route(function), label=label, cursor=cursor, limit=limit
        )

    async def batches(
        self, *, label: str | None = None, open_only: bool = False, limit: int = 50
    ) -> list[BatchHandle[Any]]:
        """The handles of the latest batches of this app's workflows, newest first, filtered by `label`.

        Raises:
            InputError: the label is not text.
        """
        sought = validate_label_filter(label, "batch")
        found = await self.engine.store.batches(label=sought, open_only=open_only, limit=limit, params=False)
        # A store may hold batches of other apps' workflows.
        return [self._workflows[it.workflow].batch(it.id) for it in found if it.workflow in self._workflows]

    @property
    def dead_letters(self) -> DeadLetters:
        """The dead letters of the app: search, groups, resume, restart, callback, delete.

        page = await flow.dead_letters.list(workflow="welcome")
        await flow.dead_letters.resume(group=page.letters[0].fingerprint, canary=5)
        """
        return DeadLetters(self.engine)

    @property
    def schedules(self) -> ScheduleAdmin:
        """The schedules of workflows and functions: to make, list, pause, fire and delete them."""
        return self._schedules

    @property
    def limits(self) -> LimitAdmin:
        """The limits of flow keys: to list, show, pin, pause and reset them."""
        return self._limit_admin

    async def cancel(
        self,
        ids: str | Iterable[str] = (),
        *,
        label: str | None = None,
        function: ServedFunction[Any, Any] | str | None = None,
        workflow: Workflow[Any, Any] | str | None = None,
    ) -> int:
        """Cancel runs and batches, and what they wait for, by id or by label, function or workflow; returns how many.

        A label alone selects both, runs and batches. A run that waits ends at once, a running one at its next step.

        Raises:
            InputError: nothing is selected, or ids are given beside something else, or a function beside a workflow.
            NotFoundError: there is no such function or workflow.
        """
        which = Selection(as_ids(ids), label, self._route(function), self._workflow_name(workflow))
        return await operations.cancel(self.engine, which)

    async def pause(
        self,
        ids: str | Iterable[str] = (),
        *,
        label: str | None = None,
        workflow: Workflow[Any, Any] | str | None = None,
    ) -> int:
        """Pause batches, by id or all open ones by label and workflow; returns the number of those that had not ended.

        No item of them starts until `resume`; those under way go on to their end. Batches that are triggered later are
        not paused.

        Raises:
            InputError: nothing is selected, or ids are given beside a label or a workflow.
            NotFoundError: there is no such workflow.
        """
        which = BatchSelection(as_ids(ids), label, self._workflow_name(workflow))
        return await operations.pause_batches(self.engine, which)

    async def resume(
        self,
        ids: str | Iterable[str] = (),
        *,
        label: str | None = None,
        workflow: Workflow[Any, Any] | str | None = None,
    ) -> int:
        """Undo `pause` for the selected batches; returns the number of those that were paused.

        Raises:
            InputError, NotFoundError: as for `pause`.
        """
        which = BatchSelection(as_ids(ids), label, self._workflow_name(workflow))
        return await operations.resume_batches(self.engine, which)

    async def notify(self, event_id: str, data: object = None, run_id: str | None = None) -> Sequence[str]:
        """Give `data` to the runs that wait for `event_id`; returns their ids.

        With `run_id` only that run gets it, and it is kept until the run waits for it; () if there is no such run.

        Raises:
            InputError: the event id is not valid, or a run that waits could not read the data, as far as this process
                knows the types of the waits; nobody is notified. Its subclass `TooLarge`: the data is too large.
            UnserializableError: the data has no JSON form.
        """
        return await runs.notify_event(self.engine, event_id, data, run_id)

    async def waiters(self, event_id: str) -> Sequence[Waiter]:
        """The runs that wait for an event, those that have waited longest first."""
        return await runs.list_waiters(self.engine, event_id)

    async def workers(self) -> Sequence[WorkerStatus]:
        """The workers of this app's store, by name, each with its start, its last heartbeat, its claims and the number
        of its threads that hang.

        One that died is `lost` until its claims are reclaimed, and then no longer listed.
        """
        return await self.engine.store.workers()

    # Life

    async def start(self, *, worker: bool | None = None, schedules: bool = True) -> None:
        """Open the store and the resources and, unless `worker` is False, start to work; safe to repeat, and at once.

        A worker without `schedules` fires none.

        A worker waits for a store that is unavailable, logs that once, and continues when it is available.

        Raises:
            StoreUnavailable: the store is unavailable, and this process does not work.
            StoreIncompatible: this program cannot use the store; waiting would not help.
            ResourceError: a resource cannot be opened; nothing is left open.
        """
        works = self.worker if worker is None else worker
        async with self._starting():
            if (loop := self.engine.loop) is not None and loop.is_closed():
                # The loop has ended without a stop, and a store that is open there is of no use here.
                await self.stop()
            await self.engine.open(wait=works)
            try:
                await self.resources.open()
            except BaseException:
                await self.engine.close()
                raise
            if works:
                await self.engine.start(schedules=schedules)

    def _starting(self) -> asyncio.Lock:
        """Held while the app starts: a second start waits for the first one, on the same event loop."""
        loop = asyncio.get_running_loop()
        if self._start_lock is None or self._start_lock[0] is not loop:
            self._start_lock = loop, asyncio.Lock()
        return self._start_lock[1]

    async def stop(self) -> None:
        """Stop within the grace: running work may end, the rest is released; then close. Safe to repeat.

        This does not wait for a store that is unavailable: other workers reclaim the work when the lease ends.
        """
        await self.engine.stop()
        await self.resources.close()
        await self.engine.close()

    async def __aenter__(self) -> "Batchflow":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncGenerator[None]:
        """Start and stop with an ASGI app, `FastAPI(lifespan=flow.lifespan)`, and find the router's prefix in it."""
        if self._routers is not None and (path := self._routers.prefix_in(app)) is not None:
            self._router_path.path = path
        await self._start_with_server()
        await self._schedule_deliveries()
        try:
            yield
        finally:
            with on_signal(self.engine.skip_grace):
                await self.stop()

    async def _start_with_server(self) -> None:
        starting = asyncio.ensure_future(self.start())
        try:
            with on_stop_signals(starting.cancel):
                await starting
        except asyncio.CancelledError:
            starting.cancel()
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            raise StoreUnavailable("the app was stopped while it waited for its store") from None

    async def _start_for(self, request: "Request") -> None:
        if self._routers is not None and (path := self._routers.prefix_of(request)) is not None:
            self._router_path.path = path
        await self.start()
        await self._schedule_deliveries()

    async def _schedule_deliveries(self) -> None:
        if self._deliveries is not None and self._workflows:
            await self._deliveries.schedule()

    @property
    def router(self) -> "APIRouter":
        """All endpoints, those of workflows and functions that are added later too, for `app.include_router`.

        Its three parts can be included on their own: `triggers_router`, `webhooks_router` and `admin_router`.
        """
        return self._build_routers().whole

    @property
    def triggers_router(self) -> "APIRouter":
        """The part of `router` that starts work: the endpoints of workflows and functions; on QStash of workflows."""
        return self._build_routers().triggers

    @property
    def webhooks_router(self) -> "APIRouter":
        """The part of `router` that anybody may call: webhooks, whose URLs are secrets, and the health of the app.

        On QStash functions too, and where it delivers the messages of batches: it signs its requests.
        """
        return self._build_routers().webhooks

    @property
    def admin_router(self) -> "APIRouter":
        """The part of `router` for operators: batches, runs, events and workers."""
        return self._build_routers().admin

    def _build_routers(self) -> "Routers":
        if self._routers is None:
            from batchflow.http.access import Access
            from batchflow.http.openings import RequestOpening
            from batchflow.http.router import Routers
            from batchflow.http.triggers import TriggerLimits

            settings = self.settings
            opening = RequestOpening(self._start_for, self.stop, lambda: self.engine.is_open)
            self._routers = Routers(
                self.engine,
                self._workflows,
                self._schedules,
                access=Access(
                    token=None if settings.token is None else settings.token.get_secret_value(),
                    guarded=settings.admin_access == "app",
                    origins=settings.allowed_origins,
                    app_url=settings.app_url,
                ),
                limits=TriggerLimits(
                    # A limit for larger payloads is meant for those that come over HTTP too.
                    max_body=settings.max_body or settings.max_value,
                    max_ids=settings.max_ids,
                    declared=self._limits,
                ),
                trust_prefix=settings.trust_forwarded_prefix,
                deliveries=self._deliveries,
                # Where there is a worker to start, a program has to do that.
                opening=None if self._deliveries is None else opening,
            )
            for it in (*self._workflows.values(), *self._served.values()):
                self._routers.add(it)
        return self._routers

    @property
    def server(self) -> "QStashServer":
        """A QStash over the store of this app, as an ASGI app: `app.mount("/qstash", flow.server)`.

        Ask for it before the app starts: from then on the worker of this app delivers its messages.

        Raises:
            ConfigurationError: this app is on QStash itself, and has no worker.
        """
        if self._deliveries is not None:
            raise ConfigurationError(
                "an app on QStash has no worker, which would deliver the messages of its own QStash; "
                'serve that by another app, such as Batchflow("sqlite:///qstash.db").server'
            )
        if self._server is None:
            from batchflow.server.app import QStashServer

            self.engine.enable_push(self.settings.push)
            self._server = QStashServer(self.engine)
        return self._server

    def _workflow_name(self, workflow: Workflow[Any, Any] | str | None) -> str | None:
        if workflow is None:
            return None
        if not isinstance(cast("object", workflow), str | Workflow):
            want = "write the workflow that flow.add returned, or its name"
            raise InputError(option="workflow", got=format_value(workflow), want=want)
        return self.find_workflow(workflow if isinstance(workflow, str) else workflow.name).name

    def _route(self, function: ServedFunction[Any, Any] | str | None) -> str | None:
        if function is None:
            return None
        if not isinstance(function, str):
            check_served(function, "endpoint")
        route = function if isinstance(function, str) else function.endpoint.route
        if route not in self._served:
            known = ", ".join(sorted(self._served)) or "none"
            raise NotFoundError(f"no function is served at '{route}'; there are: {known}", field="function")
        return route


_SHOWN = 5
