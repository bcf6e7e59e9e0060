"""The router of an app: everything that can be asked of it over HTTP."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute

from batchflow.batch.bound import Workflow
from batchflow.core.ports import Client
from batchflow.errors import DuplicateNameError
from batchflow.http.batches import BatchEndpoints
from batchflow.http.events import EventEndpoints
from batchflow.http.functions import FunctionEndpoint
from batchflow.http.refusals import RefusingRoute
from batchflow.http.runs import RunEndpoints
from batchflow.http.triggers import WorkflowEndpoints
from batchflow.http.webhooks import WebhookEndpoint
from batchflow.http.workers import WorkerEndpoints
from batchflow.serve.served import ServedFunction


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
        self.router = APIRouter(route_class=RefusingRoute)
        BatchEndpoints(client, workflows).mount(self.router)
        RunEndpoints(client, self._functions, max_body=max_body).mount(self.router)
        EventEndpoints(client, max_body=max_body).mount(self.router)
        WebhookEndpoint(client, max_body=max_body).mount(self.router)
        WorkerEndpoints(client).mount(self.router)
        self._own = [route for route in self.router.routes if isinstance(route, APIRoute)]

    def add(self, what: Workflow[Any, Any] | ServedFunction[Any, Any]) -> None:
        """Mount a workflow's three endpoints, or a function's one.

        Raises:
            DuplicateNameError: a route is one of batchflow's own, and requests would never come to it.
        """
        for endpoint in what.endpoints if isinstance(what, Workflow) else (what.endpoint,):
            self._refuse_own(endpoint.route)
        if isinstance(what, Workflow):
            WorkflowEndpoints(what, max_body=self._max_body, app_url=self._app_url).mount(self.router)
        else:
            FunctionEndpoint(what, max_body=self._max_body, app_url=self._app_url).mount(self.router)
            self._functions.add(what.endpoint.route)

    def _refuse_own(self, path: str) -> None:
        for route in self._own:
            if (not route.methods or "POST" in route.methods) and route.path_regex.match(path):
                raise DuplicateNameError(
                    f"a POST to '{path}' is one to batchflow's own route '{route.path_format}'; "
                    f"give the function another route, or the workflow another name"
                )
