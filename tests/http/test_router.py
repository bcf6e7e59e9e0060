"""The router: where it can be included, its OpenAPI document, its error responses."""

from collections.abc import Callable
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException
from httpx import ASGITransport, AsyncClient, Response

from batchflow import Batchflow, NonRetryable, RetryAfter
from batchflow.batch.bound import Workflow
from batchflow.errors import StoreIncompatible, StoreUnavailable
from tests.http.conftest import client_of
from tests.http.samples import Limited, Welcome, assert_error, error_of, serve_all


def client_for(app: Any, base: str = "http://test") -> AsyncClient:
    return AsyncClient(transport=ASGITransport(app), base_url=base)


async def status_url(http: AsyncClient, path: str) -> str:
    response = await http.post(path, json={"userIds": ["a"]})
    assert response.status_code == 202, response.text
    return response.json()["statusUrl"]


async def test_one_router_under_two_prefixes(idle: Batchflow) -> None:
    """The URLs of each have its prefix, and work."""
    app = FastAPI()
    app.include_router(idle.router, prefix="/one")
    app.include_router(idle.router, prefix="/two/{tenant}")
    async with client_for(app) as http:
        for prefix in ("/one", "/two/acme", "/two/a b"):
            url = await status_url(http, f"{prefix}/welcome/paginate-users")
            assert url.startswith(f"http://test{prefix.replace(' ', '%20')}/batches/bat_")
            assert (await http.get(url)).status_code == 200


async def test_a_router_inside_a_router_inside_a_mount(idle: Batchflow) -> None:
    """The URL has every part of the path; without a prefix it has none."""
    outer, inner, api = FastAPI(), FastAPI(), APIRouter()
    api.include_router(idle.router, prefix="/jobs")
    inner.include_router(api, prefix="/v1")
    inner.include_router(idle.router)
    outer.mount("/sub", inner)
    async with client_for(outer) as http:
        for prefix in ("/sub/v1/jobs", "/sub"):
            url = await status_url(http, f"{prefix}/welcome/paginate-users")
            assert url.startswith(f"http://test{prefix}/batches/bat_")
            assert (await http.get(url)).status_code == 200


@pytest.mark.parametrize("path", ["/jobs", "/behind/jobs"])
async def test_the_root_path_of_a_proxy_is_in_the_url(path: str, idle: Batchflow) -> None:
    """If the server leaves it in the path, and if not."""
    app = FastAPI()
    app.include_router(idle.router, prefix="/jobs")
    transport = ASGITransport(app, root_path="/behind")
    async with AsyncClient(transport=transport, base_url="https://test") as http:
        url = await status_url(http, f"{path}/welcome/paginate-users")
    assert url.startswith("https://test/behind/jobs/batches/bat_")


async def test_app_url_wins_over_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """It replaces scheme, host and root path; the prefix stays."""
    monkeypatch.setenv("APP_URL", "https://jobs.example.org/public/")
    flow = Batchflow("sqlite://", worker=False)
    serve_all(flow)
    async with flow, client_of(flow) as http:
        url = await status_url(http, "/welcome/paginate-users")
    assert url.startswith("https://jobs.example.org/public/api/workflows/batches/bat_")


async def test_a_wrong_host_header_makes_no_error(idle_http: AsyncClient) -> None:
    """The server's own address takes its place."""
    response = await idle_http.post("/welcome/paginate-users", json={"userIds": ["a"]}, headers={"Host": "[::1"})
    assert response.status_code == 202
    assert "/api/workflows/batches/bat_" in response.headers["Location"]


async def test_two_apps_in_one_process() -> None:
    """Each has its workflows and batches."""
    flows = [Batchflow("sqlite://", worker=False) for _ in "ab"]
    flows[0].add(Welcome())
    flows[1].add(Limited())
    async with flows[0], flows[1], client_of(flows[0]) as first, client_of(flows[1]) as second:
        await status_url(first, "/welcome/paginate-users")
        assert len((await first.get("/batches")).json()["batches"]) == 1
        assert (await second.get("/batches")).json() == {"batches": [], "nextCursor": None}
        assert (await second.post("/welcome/paginate-users")).status_code == 404


async def test_a_workflow_that_is_added_later_is_served() -> None:
    """The router may be included first; there is only one."""
    flow = Batchflow("sqlite://", worker=False)
    http = client_of(flow)
    assert flow.router is flow.router
    serve_all(flow)
    async with flow, http:
        await status_url(http, "/welcome/paginate-users")
        assert (await http.post("/onboarding", json={"email": "a@b"})).status_code == 202


async def test_the_document_shows_every_body_and_answer(flow: Batchflow) -> None:
    """Bodies that are read by hand are documented, without dangling references."""
    app = FastAPI()
    app.include_router(flow.router, prefix="/a")
    app.include_router(flow.router, prefix="/b")
    document = app.openapi()
    text = str(document)
    assert "$defs" not in text
    paths = document["paths"]
    # Batches, runs, dead letters, events, webhooks, workers, schedules, flow keys, health; workflows; functions.
    assert len(paths) == 2 * (19 + 5 + 7 + 2 + 1 + 1 + 5 + 7 + 2 + 9 + 5)

    def body(path: str) -> tuple[bool, dict[str, Any]]:
        found = paths[path]["post"]["requestBody"]
        return found["required"], found["content"]["application/json"]["schema"]

    required, process = body("/a/welcome/process-users")
    anywhere = {"label", "dedupId", "dedup", "batchId", "delay", "notBefore", "headers", "paidOnly", "ratio", "region"}
    anywhere |= {"priority", "notifyUrl", "failureBudget"}
    names = anywhere | {"approveUnder", "canary", "confirm", "dryRun", "force", "limit", "userIds"}
    assert (required, set(process["properties"]), process["additionalProperties"]) == (False, names, False)
    required, single = body("/a/welcome/generate-user")
    assert (required, single["required"]) == (True, ["userId"])
    assert set(single["properties"]) == anywhere | {"userId"}
    required, named = body("/a/welcome/paginate-users")
    assert (required, named["required"]) == (True, ["userIds"])
    assert body("/a/onboarding")[1]["required"] == ["email"]
    assert set(paths["/a/signup"]["post"]["requestBody"]["content"]) == {"application/json", "text/plain"}
    options = {it["name"] for it in paths["/a/onboarding"]["post"]["parameters"]}
    assert {"Upstash-Delay", "Upstash-Workflow-RunId"} < options
    assert set(paths["/a/webhooks/{token}"]) == {"post"}
    required, cancel = body("/a/runs/cancel")
    assert (required, set(cancel["properties"])) == (True, {"ids", "label", "function"})
    answers = paths["/b/welcome/process-users"]["post"]["responses"]
    assert set(answers) == {"200", "202", "400", "403", "413", "415", "422", "503"}
    operations = [it["operationId"] for path in paths.values() for it in path.values()]
    assert len(set(operations)) == len(operations)


async def test_dependencies_of_the_including_app_come_first(idle: Batchflow) -> None:
    """Their error responses are the app's own, and nothing is started."""

    def key(x_key: str = Header()) -> None:
        if x_key != "secret":
            raise HTTPException(401, "no")

    app = FastAPI()
    app.include_router(idle.router, dependencies=[Depends(key)])
    async with client_for(app) as http:
        refused = await http.post("/welcome/process-users", headers={"X-Key": "?"})
        assert (refused.status_code, refused.json()) == (401, {"detail": "no"})
        assert_error(await http.get("/batches"), (422, "'x-key' does not fit", "x-key"))
        taken = await http.post("/welcome/process-users", headers={"X-Key": "secret"})
        assert taken.status_code == 202


def raising(error: Exception) -> Callable[..., Any]:
    async def fail(*_: object, **__: object) -> Any:
        raise error

    return fail


ROUTES = [
    ("POST", "/welcome/process-users"),
    ("POST", "/onboarding"),
    ("GET", "/batches"),
    ("GET", "/batches/x"),
    ("GET", "/batches/x/why"),
    ("GET", "/batches/x/items"),
    ("GET", "/batches/x/export"),
    ("GET", "/batches/x/items/0"),
    ("GET", "/batches/x/progress"),
    ("POST", "/batches/x/cancel"),
    ("POST", "/batches/x/pause"),
    ("POST", "/batches/x/resume"),
    ("POST", "/batches/x/approve"),
    ("POST", "/batches/x/priority"),
    ("POST", "/batches/x/retry"),
    ("POST", "/batches/x/failure-budget"),
    ("POST", "/batches/pause"),
    ("POST", "/batches/resume"),
    ("POST", "/batches/cancel"),
    ("GET", "/runs"),
    ("GET", "/runs/x"),
    ("POST", "/runs/x/cancel"),
    ("POST", "/runs/cancel"),
    ("POST", "/events/x"),
    ("GET", "/events/x/waiters"),
    ("PUT", "/webhooks/x"),
    ("GET", "/workers"),
]
BODIES: dict[str, Any] = {
    "/batches/x/priority": {"priority": 1},
    "/batches/x/failure-budget": {"failureBudget": None},
    "/onboarding": {"email": "a@b"},
    **{path: {"label": "x"} for path in ("/runs/cancel", "/batches/pause", "/batches/resume", "/batches/cancel")},
}
VERBS = (
    *("publish", "open_batch", "batch", "batches", "items", "cancel_batch", "run", "runs", "cancel_run", "cancel_runs"),
    *("notify", "waiters", "webhook", "workers", "pause_batch", "resume_batch", "set_batch_priority"),
    "approve_batch",
    "set_failure_budget",
)


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_a_store_that_is_away_is_503(
    method: str, path: str, idle: Batchflow, idle_http: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Retry-After` only where trying again can help."""
    for error, header in ((StoreUnavailable("it is busy"), "1"), (StoreIncompatible("it is newer"), None)):
        for verb in VERBS:
            monkeypatch.setattr(idle.engine.store, verb, raising(error))
        response = await idle_http.request(method, path, json=BODIES.get(path, {}))
        assert error_of(response) == (503, str(error), None)
        assert response.headers.get("Retry-After") == header


async def test_an_app_that_is_not_started_says_so() -> None:
    """503, and no traceback."""
    flow = Batchflow("sqlite://")
    serve_all(flow)
    async with client_of(flow) as http:
        status, error, _ = error_of(await http.post("/welcome/process-users"))
    assert status == 503
    assert "is not open" in error


def dry_run_fails(flow: Batchflow, error: Exception) -> None:
    workflow: Workflow[Any, Any] = flow.workflows["limited"]
    assert workflow.name == "limited"
    Limited.fault = error


async def dry_run(http: AsyncClient) -> Response:
    return await http.post("/limited/process-items", json={"dryRun": True})


async def test_a_source_that_says_when_is_503(idle: Batchflow, idle_http: AsyncClient) -> None:
    """Its delay is rounded up to whole seconds."""
    dry_run_fails(idle, RetryAfter(2.5, "the source is resting"))
    response = await dry_run(idle_http)
    assert_error(response, (503, "the source is resting", None))
    assert response.headers["Retry-After"] == "3"


async def test_a_source_that_fails_for_good_is_500_in_a_sentence(idle: Batchflow, idle_http: AsyncClient) -> None:
    """500, with a sentence and no traceback."""
    dry_run_fails(idle, NonRetryable("no source any more"))
    assert_error(await dry_run(idle_http), (500, "no source any more", None))


async def test_an_error_of_user_code_is_left_to_the_app(idle: Batchflow, idle_http: AsyncClient) -> None:
    """Its handlers and monitoring see it."""
    dry_run_fails(idle, ZeroDivisionError("oops"))
    with pytest.raises(ZeroDivisionError, match=r"^oops$"):
        await dry_run(idle_http)
