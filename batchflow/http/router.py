"""The router of an app: everything that can be asked of it over HTTP."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Depends

from batchflow.batch.bound import Workflow
from batchflow.core.ports import Client
from batchflow.http.batches import BatchEndpoints
from batchflow.http.events import EventEndpoints
from batchflow.http.functions import FunctionEndpoint
from batchflow.http.parameters import known_parameters
from batchflow.http.places import path_in
from batchflow.http.refusals import RefusingRoute
from batchflow.http.runs import RunEndpoints
from batchflow.http.triggers import WorkflowEndpoints
from batchflow.http.webhooks import WebhookEndpoint
from batchflow.http.workers import WorkerEndpoints
from batchflow.serve.functions import ServedFunction


class Mounting:
    """One router, and what is mounted on it.

    It can be included in several apps and under several prefixes, and before the workflows are there: what is added
    later is served wherever it has been included.
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
        self.router = APIRouter(route_class=RefusingRoute, dependencies=[Depends(known_parameters)])
        BatchEndpoints(client, workflows).mount(self.router)
        RunEndpoints(client, self._functions, max_body=max_body).mount(self.router)
        EventEndpoints(client, max_body=max_body).mount(self.router)
        WebhookEndpoint(client, max_body=max_body).mount(self.router)
        WorkerEndpoints(client).mount(self.router)

    def add(self, what: Workflow[Any, Any] | ServedFunction[Any, Any]) -> None:
        """Mount a workflow's three endpoints, or a function's one."""
        if isinstance(what, Workflow):
            WorkflowEndpoints(what, max_body=self._max_body, app_url=self._app_url).mount(self.router)
        else:
            FunctionEndpoint(what, max_body=self._max_body, app_url=self._app_url).mount(self.router)
            self._functions.add(what.endpoint.route)

    def path_in(self, app: object) -> str | None:
        """The prefix of the router in an app, where it has one that is always the same."""
        return path_in(app, self.router)
