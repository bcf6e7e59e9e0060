"""`Batchflow`: workflows, engine and settings put together."""

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from inspect import signature
from typing import TYPE_CHECKING, Any, Never, ParamSpec, TypeVar, overload

from pydantic import BaseModel

from batchflow.batch.bound import Workflow, bind
from batchflow.batch.function import BatchDecorator, IdSource, function_workflow
from batchflow.batch.logs import ProgressLog
from batchflow.batch.workflow import BatchWorkflow, NoParams
from batchflow.core.codec import SizeLimit
from batchflow.core.duration import Duration
from batchflow.core.flow import FlowControl
from batchflow.core.ports import Clock, Entropy
from batchflow.core.retry import RetryPolicy
from batchflow.core.store import Ledger, Store
from batchflow.core.suggestions import check_options
from batchflow.engine.clock import SystemClock, SystemEntropy
from batchflow.engine.engine import Engine, EngineOptions
from batchflow.engine.observers import VerboseLog
from batchflow.engine.signals import on_signal, on_stop_signals
from batchflow.errors import ConfigurationError, DuplicateNameError, StoreUnavailable
from batchflow.http.reserved_routes import check_not_reserved
from batchflow.operations import Operations
from batchflow.serve.app_url import PublicUrl, RouterPath
from batchflow.serve.context import WorkflowContext
from batchflow.serve.endpoint import Endpoint
from batchflow.serve.functions import (
    ServedFunction,
    check_failure_options,
    check_route,
    serve_function,
    serve_retry_policy,
)
from batchflow.serve.validation import (
    check_flag,
    check_flow,
    check_no_unknown_options,
    check_payload_parser,
    check_string_mapping,
    format_value,
    parse_timeout,
    validate_label,
)

if TYPE_CHECKING:
    from fastapi import APIRouter

    from batchflow.settings import Settings

P = ParamSpec("P")
Params = TypeVar("Params", bound=BaseModel)
Payload = TypeVar("Payload")
Result = TypeVar("Result")


class Batchflow(Operations):
    """An app: the workflows and durable functions of one program, and the engine that runs them.

        flow = Batchflow()                                # BATCHFLOW_URL, else sqlite:///batchflow.db
        welcome = flow.add(WelcomePlaceholder(users, model))
        app = FastAPI(lifespan=flow.lifespan)
        app.include_router(flow.router, prefix="/api/workflows")

    Outside of FastAPI, `async with flow:` starts and stops it. `store` is a URL or a store of one's own. With
    `worker=False` nothing is run in this process: it publishes and asks, and a `batchflow worker` does the work.
    `ledger`, a URL or a ledger of one's own, is where it is kept which items are processed; else the store does that.
    What is not given comes from the environment (`batchflow.settings.Settings`).

    Raises:
        ConfigurationError: a setting holds what it cannot, or the URL names no store.
    """

    def __init__(
        self,
        store: "str | Store | None" = None,
        *,
        ledger: "str | Ledger | None" = None,
        worker: bool = True,
        concurrency: int | None = None,
        grace: timedelta | None = None,
        retention: timedelta | None = None,
        clock: Clock | None = None,
        entropy: Entropy | None = None,
    ) -> None:
        # pydantic-settings takes as long to import as pydantic itself.
        from batchflow.settings import Settings

        url, beside = (it if isinstance(it, str) else None for it in (store, ledger))
        self.settings = Settings.load(url=url, ledger=beside, concurrency=concurrency, grace=grace, retention=retention)
        self.worker = worker
        clock = clock or SystemClock()
        self._workflows: dict[str, Workflow[Any, Any]] = {}
        self._served: dict[str, ServedFunction[Any, Any]] = {}
        self._endpoints: dict[str, Endpoint] = {}
        self._limits: list[FlowControl] = []
        self._verbose: dict[str, str] = {}
        self._site = RouterPath()
        self._router: APIRouter | None = None
        self._path_in: Callable[[object], str | None] = _nowhere
        self._mount: Callable[[Workflow[Any, Any] | ServedFunction[Any, Any]], None] = _nowhere
        self.engine = Engine(
            open_store(self.settings, clock) if store is None or isinstance(store, str) else store,
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
        self.engine.report_progress = ProgressLog(self.engine, self._workflows).write
        self.engine.ledger = open_ledger(self.settings) if ledger is None or isinstance(ledger, str) else ledger

    # What runs

    def add(self, workflow: BatchWorkflow[Params, Any, Result]) -> Workflow[Params, Result]:
        """Take a batch workflow in; what is returned is what one triggers and asks.

        Raises:
            DuplicateNameError: a workflow of that name is there already.
        """
        bound: Workflow[Params, Result] = bind(workflow, self.engine)
        if bound.name in self._workflows:
            raise DuplicateNameError(
                f"two workflows are named '{bound.name}'; "
                f"give one of them another `name` (in {type(workflow).__name__})"
            )
        self._take_in(bound.endpoints)
        self._limits.extend(bound.declared_flows)
        self._workflows[bound.name] = bound
        self._mount(bound)
        return bound

    @overload
    def batch(self, fn: Callable[[str], Awaitable[Result]], /) -> Workflow[NoParams, Result]: ...
    @overload
    def batch(self, fn: Callable[[str], Result], /) -> Workflow[NoParams, Result]: ...
    @overload
    def batch(
        self,
        *,
        ids: IdSource | None = None,
        name: str | None = None,
        flow: FlowControl | None = None,
        retry: RetryPolicy | None = None,
        timeout: Duration | None = None,
        processed_ttl: Duration | None = None,
        processed_per: tuple[str, ...] = (),
        walk_first: bool = False,
    ) -> BatchDecorator: ...
    def batch(self, fn: Any = None, **options: Any) -> Any:
        """The shortest batch: a function of one id, `@flow.batch` or `@flow.batch(ids=source)`.

        `ids` is a sequence, or a function that returns one, a generator or an async generator; without it every
        trigger names its ids. `flow` limits the items (None: unlimited). The others are those of a class: `retry`,
        `item_timeout` as `timeout`, `processed_ttl`, `processed_per`,
        `walk_first`.
        """
        check_options("flow.batch", options, _BATCH_OPTIONS)
        if fn is not None and not callable(fn):
            raise ConfigurationError(
                f"flow.batch cannot take {format_value(fn)}; write @flow.batch above a function of one id"
            )

        def take(function: Callable[[str], Any]) -> Workflow[NoParams, Any]:
            return self.add(function_workflow(function, **options))

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
        failure_function: Callable[..., Any] | None = None,
        failure_url: str | None = None,
        initial_payload_parser: Callable[[str], Any] | None = None,
        label: str | None = None,
        verbose: bool = False,
        url: str | None = None,
        base_url: str | None = None,
        env: Mapping[str, str] | None = None,
        **unknown: Never,
    ) -> Callable[[Callable[[WorkflowContext[Payload]], Awaitable[Result]]], ServedFunction[Payload, Result]]:
        """Serve `async def f(ctx: WorkflowContext[Payload]) -> Result` at `route`: `@flow.serve("/onboarding")`.

        Its runs wait under the key of `flow_control`, by default the route's words joined by dots. `retry` is the
        policy of its steps and of itself; instead of it `retries` and `retry_delay` say as much: a duration, or
        QStash's expression in ms, such as "pow(2, retried) * 1000". `timeout` is how long one attempt may take (1 hour;
        durable waits do not count). `initial_payload_parser` makes a payload of a request's body that is not JSON.
        `label` is that of runs that are triggered without one. `verbose` logs what the engine does, event by event.
        `url` is the function's own public URL, or `base_url` the app's, for webhooks; else UPSTASH_WORKFLOW_URL or
        APP_URL of `env`, which is what `ctx.env` shows (os.environ), else the request's.

        Raises:
            ConfigurationError: the signature or an option is wrong; `failure_function` and `failure_url` are not
                delivered yet.
            DuplicateNameError: the route is served already.
        """
        check_route(route)
        check_no_unknown_options("flow.serve", unknown, self.serve)
        policy = serve_retry_policy(retry, retries, retry_delay)
        check_flow(flow_control)
        timeout_ms = parse_timeout(timeout)
        check_failure_options(failure_function, failure_url)
        check_payload_parser(initial_payload_parser)
        validate_label(label, ConfigurationError)
        check_flag("verbose", verbose)
        check_string_mapping("env", env)
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
                public_url=public_url,
                env=environment,
            )
            self._take_in((served.endpoint,))
            self._limits.append(served.endpoint.flow)
            if served.endpoint.verbose:
                if not self._verbose:
                    self.engine.observers.add(VerboseLog(self._verbose, self.engine.now))
                self._verbose[route] = served.endpoint.name
            self._served[route] = served
            self._mount(served)
            return served

        return take

    def _take_in(self, endpoints: "tuple[Endpoint, ...]") -> None:
        for endpoint in endpoints:
            check_not_reserved(endpoint.route)
            if endpoint.route in self._endpoints:
                raise DuplicateNameError(f"the route '{endpoint.route}' is served twice; give one of them another")
        for it in endpoints:
            self._endpoints[it.route] = replace(it, public_url=replace(it.public_url, router=self._site))

    @property
    def workflows(self) -> Mapping[str, Workflow[Any, Any]]:
        """The batch workflows, by name."""
        return self._workflows

    @property
    def served(self) -> Mapping[str, ServedFunction[Any, Any]]:
        """The plain durable functions, by route."""
        return self._served

    # Life

    async def start(self, *, worker: bool | None = None) -> None:
        """Open the store and, unless `worker` says no, start working; safe to repeat.

        What works waits for a store that is away, says so once, and goes on when it is there.

        Raises:
            StoreUnavailable: the store is away, and nothing is to work here.
            StoreIncompatible: the store is none for this program; nobody waits for that.
        """
        works = self.worker if worker is None else worker
        await self.engine.open(wait=works)
        if works:
            await self.engine.start()

    async def stop(self) -> None:
        """Stop within the grace: what is under way may end, the rest is given back; then close. Safe to repeat.

        A store that is away is not waited for: what was under way is taken back by others when the lease ends.
        """
        await self.engine.close()

    async def __aenter__(self) -> "Batchflow":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncGenerator[None]:
        """Start and stop with an ASGI app: `FastAPI(lifespan=flow.lifespan)`. It is seen where the router is in it."""
        if (path := self._path_in(app)) is not None:
            self._site.path = path
        await self._start_with_server()
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

    @property
    def router(self) -> "APIRouter":
        """The endpoints of everything, for `app.include_router`; what is added later is served there too."""
        if self._router is None:
            from batchflow.http.router import RouterBuilder

            settings = self.settings
            # Whoever allows larger payloads means those that come over HTTP too.
            max_body = settings.max_body or settings.max_value
            mounting = RouterBuilder(self.engine, self._workflows, max_body=max_body, app_url=settings.app_url)
            for what in (*self._workflows.values(), *self._served.values()):
                mounting.add(what)
            self._router, self._mount, self._path_in = mounting.router, mounting.add, mounting.prefix_in
        return self._router


_BATCH_OPTIONS = tuple(signature(function_workflow).parameters)[1:]
_REDIS = frozenset({"redis", "rediss", "unix", "redis+cluster", "rediss+cluster", "redis+sentinel", "rediss+sentinel"})


def open_store(settings: "Settings", clock: Clock) -> Store:
    """The store that a URL names.

    Raises:
        ConfigurationError: it names none.
    """
    scheme, _, rest = settings.url.partition("://")
    if scheme == "sqlite" and "://" in settings.url:
        from batchflow.stores.sqlite import SqliteStore

        path = rest.removeprefix("/") if not rest.startswith("//") else rest[1:]
        return SqliteStore(path or ":memory:", clock=clock, synchronous=settings.synchronous)
    if scheme in _REDIS and "://" in settings.url:
        from batchflow.stores.redis import RedisStore

        return RedisStore(settings.url, namespace=settings.namespace)
    raise ConfigurationError(
        f"'{settings.url}' names no store; write sqlite:///PATH (two more slashes for an absolute path), sqlite:// or "
        "redis://HOST:PORT"
    )


def open_ledger(settings: "Settings") -> Ledger | None:
    """The ledger that a URL names; None where there is none beside the store.

    Raises:
        ConfigurationError: it names none.
    """
    if settings.ledger is None:
        return None
    scheme, found, _ = settings.ledger.partition("://")
    if scheme in _REDIS and found:
        from batchflow.stores.redis import RedisLedger

        return RedisLedger(settings.ledger, namespace=settings.namespace)
    raise ConfigurationError(f"'{settings.ledger}' names no ledger; write redis://HOST:PORT")


def _nowhere(_what: object) -> None:
    """Where things are mounted until a router is asked for."""
