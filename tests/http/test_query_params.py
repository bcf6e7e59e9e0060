"""Query parameters that a route does not take."""

from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Query
from fastapi.security import APIKeyQuery
from httpx import ASGITransport, AsyncClient
from pydantic import BaseModel

from batchflow import Batchflow
from tests.http.samples import assert_error

NONE_TAKEN = "this route takes none in its URL"
MISSPELT = [
    ("POST", "/events/x:C", "run_id", "did you mean 'runId'?"),
    ("GET", "/events/x:C/waiters", "limit", NONE_TAKEN),
    ("GET", "/runs", "lable", "did you mean 'label'?"),
    ("GET", "/runs/x", "steps", NONE_TAKEN),
    ("POST", "/runs/cancel", "label", NONE_TAKEN),
    ("GET", "/runs/x/progress", "intervall", "did you mean 'interval'?"),
    ("POST", "/runs/x/cancel", "force", NONE_TAKEN),
    ("GET", "/batches", "opne", "did you mean 'open'?"),
    ("GET", "/batches/x", "items", NONE_TAKEN),
    ("GET", "/batches/x/why", "limit", NONE_TAKEN),
    ("GET", "/batches/x/items", "status", "did you mean 'state'?"),
    ("GET", "/batches/x/export", "fromat", "did you mean 'format'?"),
    ("GET", "/batches/x/item", "itemid", "did you mean 'itemId'?"),
    ("GET", "/batches/x/progress", "intervall", "did you mean 'interval'?"),
    ("POST", "/batches/x/cancel", "workflow", NONE_TAKEN),
    ("POST", "/batches/x/pause", "workflow", NONE_TAKEN),
    ("POST", "/batches/x/resume", "workflow", NONE_TAKEN),
    ("POST", "/batches/x/approve", "workflow", NONE_TAKEN),
    ("POST", "/batches/x/priority", "priority", NONE_TAKEN),
    ("POST", "/batches/x/retry", "missing", NONE_TAKEN),
    ("POST", "/batches/x/failure-budget", "failureBudget", NONE_TAKEN),
    ("POST", "/batches/cancel", "workflow", NONE_TAKEN),
    ("POST", "/batches/pause", "workflow", NONE_TAKEN),
    ("POST", "/batches/resume", "workflow", NONE_TAKEN),
    ("GET", "/batches/x/items/0", "results", NONE_TAKEN),
    ("GET", "/items/welcome/x", "limt", "did you mean 'limit'?"),
    ("GET", "/dlq", "lable", "did you mean 'label'?"),
    ("GET", "/dlq/groups", "workflw", "did you mean 'workflow'?"),
    ("GET", "/dlq/x", "steps", NONE_TAKEN),
    ("DELETE", "/dlq/x", "yes", NONE_TAKEN),
    ("POST", "/dlq/resume", "label", NONE_TAKEN),
    ("POST", "/dlq/restart", "label", NONE_TAKEN),
    ("POST", "/dlq/callback", "label", NONE_TAKEN),
    ("POST", "/dlq/delete", "label", NONE_TAKEN),
    ("GET", "/flow", "limt", "did you mean 'limit'?"),
    ("GET", "/flow/x", "holders", NONE_TAKEN),
    ("POST", "/flow/x/pin", "rate", NONE_TAKEN),
    ("POST", "/flow/x/unpin", "rate", NONE_TAKEN),
    ("POST", "/flow/x/pause", "for", NONE_TAKEN),
    ("POST", "/flow/x/resume", "for", NONE_TAKEN),
    ("POST", "/flow/x/reset", "rate", NONE_TAKEN),
    ("GET", "/workers", "state", NONE_TAKEN),
    ("GET", "/schedules", "limt", "did you mean 'limit'?"),
    ("POST", "/schedules", "cron", NONE_TAKEN),
    ("GET", "/schedules/x", "upcoming", NONE_TAKEN),
    ("DELETE", "/schedules/x", "force", NONE_TAKEN),
    ("POST", "/schedules/x/pause", "until", NONE_TAKEN),
    ("POST", "/schedules/x/resume", "now", NONE_TAKEN),
    ("POST", "/schedules/x/trigger", "force", NONE_TAKEN),
    ("GET", "/health", "verbose", NONE_TAKEN),
    ("GET", "/health/live", "verbose", NONE_TAKEN),
    ("POST", "/welcome/process-users", "dryRun", NONE_TAKEN),
    ("POST", "/welcome/paginate-users", "userIds", NONE_TAKEN),
    ("POST", "/welcome/generate-user", "userId", NONE_TAKEN),
    ("POST", "/onboarding", "delay", NONE_TAKEN),
]


@pytest.mark.parametrize(("method", "path", "name", "choice"), MISSPELT)
async def test_an_unknown_parameter_is_refused_everywhere(
    method: str, path: str, name: str, choice: str, idle: Batchflow, idle_http: AsyncClient
) -> None:
    """422 before anything is done: ignoring it could widen the request."""
    body = {"email": "a@b"} if path == "/onboarding" else None
    response = await idle_http.request(method, path, params={name: ""}, json=body)
    assert_error(response, (422, choice, name))
    assert (await idle.runs()).runs == []
    assert await idle.engine.store.batches() == []


async def test_every_route_but_webhooks_is_among_those(idle: Batchflow) -> None:
    """A new route needs a line in this module."""
    app = FastAPI()
    app.include_router(idle.router)
    own = [path for path in app.openapi()["paths"] if path.split("/")[1] not in ("limited", "greet", "nightly")]
    functions = {"/approvals", "/hooked", "/signup"}
    tried = {
        path.replace("/flow/x", "/flow/{key}")
        .replace("/x:C", "/{id}")
        .replace("/x", "/{id}")
        .replace("/0", "/{number}")
        .replace("/items/welcome", "/items/{workflow}")
        for _, path, _, _ in MISSPELT
    }
    assert set(own) - functions - {"/webhooks/{token}"} == tried


async def test_a_webhook_may_be_given_any_parameters(idle_http: AsyncClient) -> None:
    """Third parties add their own."""
    assert (await idle_http.get("/webhooks/run_1.abc?challenge=1")).status_code == 404
    assert (await idle_http.post("/webhooks/run_1.abc?a=1&b=2")).status_code == 404


async def test_parameters_of_the_apps_dependencies_are_known(idle: Batchflow) -> None:
    """Declared ones are accepted; a misspelt one is refused."""

    class Paging(BaseModel):
        page: int = 1

    def tenant(tenant: str, paging: Annotated[Paging, Query()]) -> None:
        assert (tenant, paging.page) == ("acme", 2)

    app = FastAPI()
    key = APIKeyQuery(name="api_key")
    app.include_router(idle.router, prefix="/a", dependencies=[Depends(key), Depends(tenant)])
    query: Any = {"api_key": "k", "tenant": "acme", "page": "2"}
    async with AsyncClient(transport=ASGITransport(app), base_url="http://test/a") as http:
        assert (await http.get("/runs", params={**query, "limit": "1"})).status_code == 200
        assert (await http.post("/onboarding", params=query, json={"email": "a@b"})).status_code == 202
        refused = await http.get("/runs", params={**query, "tennant": "acme"})
    assert_error(refused, (422, "did you mean 'tenant'?", "tennant"))


async def test_a_parameter_that_is_given_twice_is_refused(idle_http: AsyncClient) -> None:
    """Neither of the two values is taken for the one that was meant."""
    assert_error(await idle_http.get("/runs?limit=1&limit=2"), (422, "is given twice", "limit"))
