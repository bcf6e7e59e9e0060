"""The router of an app: everything that can be asked of it over HTTP."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter

from batchflow.batch.bound import Workflow
from batchflow.core.ports import Client
from batchflow.http.batches import BatchEndpoints
from batchflow.http.refusals import RefusingRoute
from batchflow.http.runs import FunctionEndpoint, RunEndpoints
from batchflow.http.triggers import WorkflowEndpoints
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
        self.router = APIRouter(route_class=RefusingRoute)
        BatchEndpoints(client, workflows).mount(self.router)
        RunEndpoints(client).mount(self.router)

    def add(self, what: Workflow[Any, Any] | ServedFunction[Any, Any]) -> None:
        """Mount a workflow's three endpoints, or a function's one."""
        if isinstance(what, Workflow):
            WorkflowEndpoints(what, max_body=self._max_body, app_url=self._app_url).mount(self.router)
        else:
            FunctionEndpoint(what, max_body=self._max_body, app_url=self._app_url).mount(self.router)
