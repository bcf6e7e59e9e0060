"""The router of an app, with all endpoints."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Depends

from batchflow.batch.bound import Workflow
from batchflow.core.ports import Client
from batchflow.http.batches import BatchEndpoints
from batchflow.http.errors import ErrorHandlingRoute, check_query_params
from batchflow.http.events import EventEndpoints, WebhookEndpoint
from batchflow.http.runs import RunEndpoints, WorkerEndpoints
from batchflow.http.triggers import FunctionEndpoint, WorkflowEndpoints
from batchflow.http.urls import router_prefix
from batchflow.serve.functions import ServedFunction


class RouterBuilder:
    """Builds one router from endpoints.

    The router can be included in several apps and under several prefixes. Workflows and functions that are added later
    are served wherever it has been included.
    """

    def __init__(
        self,
        client: Client,
        workflows: Mapping[str, Workflow[Any, Any]],
        *,
        max_body: int,
        app_url: str | None,
    ) -> None:
        self._max_body = max_body
        self._app_url = app_url
        self._functions: set[str] = set()
        self.router = APIRouter(route_class=ErrorHandlingRoute, dependencies=[Depends(check_query_params)])
        BatchEndpoints(client, workflows).add_routes(self.router)
        RunEndpoints(client, self._functions, max_body=max_body).add_routes(self.router)
        EventEndpoints(client, max_body=max_body).add_routes(self.router)
        WebhookEndpoint(client, max_body=max_body).add_routes(self.router)
        WorkerEndpoints(client).add_routes(self.router)

    def add(self, served: Workflow[Any, Any] | ServedFunction[Any, Any]) -> None:
        """Add the three routes of a workflow, or the one of a function."""
        if isinstance(served, Workflow):
            WorkflowEndpoints(served, max_body=self._max_body, app_url=self._app_url).add_routes(self.router)
        else:
            FunctionEndpoint(served, max_body=self._max_body, app_url=self._app_url).add_routes(self.router)
            self._functions.add(served.endpoint.route)

    def prefix_in(self, app: object) -> str | None:
        """The prefix of the router in an app; None if there is none, or it has parameters."""
        return router_prefix(app, self.router)
