"""The routers of an app, with all endpoints."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Depends, Request

from batchflow.batch.bound import Workflow
from batchflow.batch.schedules import ScheduleAdmin
from batchflow.core.ports import Client
from batchflow.http.access import Access
from batchflow.http.batch_operations import BatchOperations
from batchflow.http.batch_retries import RetryEndpoint
from batchflow.http.batches import BatchEndpoints
from batchflow.http.dead_letters import DeadLetterEndpoints
from batchflow.http.deliveries import Deliveries, DeliveryEndpoint
from batchflow.http.errors import ErrorHandlingRoute, check_query_params
from batchflow.http.events import EventEndpoints, WebhookEndpoint
from batchflow.http.flow_keys import FlowKeyEndpoints
from batchflow.http.health import HealthEndpoints
from batchflow.http.openapi import error_responses
from batchflow.http.openings import RequestOpening
from batchflow.http.runs import RunEndpoints, WorkerEndpoints
from batchflow.http.schedules import ScheduleEndpoints
from batchflow.http.triggers import FunctionEndpoint, TriggerLimits, WorkflowEndpoints
from batchflow.http.urls import Urls, router_prefix
from batchflow.serve.functions import ServedFunction


class Routers:
    """Three routers: `triggers` starts work, `webhooks` answers everybody, `admin` is for operators.

    With `deliveries` the routes of functions are among the `webhooks`: the engine that calls them has no token. Of what
    is in the app's own store only batches have routes then. Requests open the app by `opening`.

    `whole` has all three. Each can be included in several apps and under several prefixes. Workflows and functions that
    are added later are served wherever `triggers` or `whole` has been included.
    """

    def __init__(
        self,
        client: Client,
        workflows: Mapping[str, Workflow[Any, Any]],
        schedules: ScheduleAdmin,
        *,
        access: Access,
        limits: TriggerLimits,
        trust_prefix: bool,
        deliveries: Deliveries | None = None,
        opening: RequestOpening | None = None,
    ) -> None:
        self._limits = limits
        self._access = access
        self._deliveries = deliveries
        self._functions: set[str] = set()
        opened = [] if opening is None else [Depends(opening.opened)]
        self.triggers = _router([*access.trigger_rules, *opened], access.statuses)
        self.webhooks = _router(opened, ())
        self.admin = _router([*access.admin_rules, *opened], access.statuses)
        self._urls = Urls(self.admin, self.webhooks, app_url=access.app_url, trust_prefix=trust_prefix)
        RunEndpoints(client, self._functions, max_body=limits.max_body).add_routes(self.admin)
        EventEndpoints(client, max_body=limits.max_body).add_routes(self.admin)
        DeadLetterEndpoints(client, max_body=limits.max_body).add_routes(self.admin)
        FlowKeyEndpoints(client, max_body=limits.max_body).add_routes(self.admin)
        always = deliveries is not None
        ScheduleEndpoints(client, schedules, max_body=limits.max_body, always_served=always).add_routes(self.admin)
        HealthEndpoints(client, access).add_routes(self.webhooks)
        self._add_batches(client, workflows)
        if deliveries is not None:
            DeliveryEndpoint(deliveries).add_routes(self.webhooks)
        self.whole = APIRouter()
        # Routes are tried one after the other: those of operators, which are many and seldom asked for, come last.
        for part in (self.webhooks, self.triggers, self.admin):
            self.whole.include_router(part)

    def _add_batches(self, client: Client, workflows: Mapping[str, Workflow[Any, Any]]) -> None:
        """Add the routes of batches, whose state is in the app's own store on every engine."""
        max_body = self._limits.max_body
        BatchEndpoints(client, workflows).add_routes(self.admin)
        BatchOperations(client, workflows, max_body=max_body).add_routes(self.admin)
        RetryEndpoint(client, workflows, max_body=max_body).add_routes(self.admin)
        WorkerEndpoints(client).add_routes(self.admin)
        WebhookEndpoint(client, max_body=max_body).add_routes(self.webhooks)

    def add(self, served: Workflow[Any, Any] | ServedFunction[Any, Any]) -> None:
        """Add the three routes of a workflow, or the one of a function."""
        if isinstance(served, Workflow):
            WorkflowEndpoints(served, limits=self._limits, urls=self._urls).add_routes(self.triggers)
        elif self._deliveries is None:
            FunctionEndpoint(served, limits=self._limits, urls=self._urls).add_routes(self.triggers)
            self._functions.add(served.endpoint.route)
        else:
            FunctionEndpoint(
                served,
                limits=self._limits,
                urls=self._urls,
                deliveries=self._deliveries,
                check_start=self._access.check_start,
            ).add_routes(self.webhooks)
            self._functions.add(served.endpoint.route)

    def prefix_in(self, app: object) -> str | None:
        """The prefix of the webhooks in an app; None if it does not include them, or only under parameters."""
        return router_prefix(app, self.webhooks)

    def prefix_of(self, request: Request) -> str | None:
        """The prefix of the webhooks in the app that a request has reached, with the path where that one is mounted."""
        root = str(request.scope.get("root_path", ""))
        mount = root.removeprefix(str(request.scope.get("app_root_path", root)))
        prefix = self.prefix_in(request.scope.get("app"))
        return None if prefix is None else mount + prefix


def _router(rules: Sequence[Any], statuses: Sequence[int]) -> APIRouter:
    return APIRouter(
        route_class=ErrorHandlingRoute,
        dependencies=[*rules, Depends(check_query_params)],
        responses=error_responses(*statuses),
    )
