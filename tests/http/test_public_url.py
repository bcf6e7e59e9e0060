"""The URL of a webhook reaches its run, from every way of starting it and every place of the router."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi import APIRouter, FastAPI
from httpx import ASGITransport, AsyncClient
from starlette.applications import Starlette
from starlette.routing import Mount

from batchflow import Batchflow, BatchWorkflow, NoParams, Page, WorkflowContext
from batchflow.errors import RunFailed
from tests.http.conftest import webhook_of

HOST = "https://jobs.example.org"


def serving() -> Batchflow:
    """`/hooked` returns the request to its webhook."""
    flow = Batchflow("sqlite://")

    @flow.serve("/hooked")
    async def hooked(ctx: WorkflowContext[None]) -> str:
        webhook = await ctx.create_webhook("make")
        return (await ctx.wait_for_webhook("request", webhook)).data.text

    assert hooked.endpoint.route == "/hooked"
    return flow


@asynccontextmanager
async def started(app: Any, flow: Batchflow) -> AsyncGenerator[AsyncClient]:
    """The app as a server starts it, and a client that reaches it under every host."""
    async with flow.lifespan(app), AsyncClient(transport=ASGITransport(app), base_url="http://test") as http:
        yield http


@pytest.mark.parametrize("over_http", [True, False], ids=["over HTTP", "from Python"])
@pytest.mark.parametrize(
    ("app_url", "public"),
    [
        (HOST, f"{HOST}/api"),
        (f"{HOST}/", f"{HOST}/api"),
        (f"{HOST}/api", f"{HOST}/api"),
        (f"{HOST}/api/", f"{HOST}/api"),
        (f"{HOST}/behind", f"{HOST}/behind/api"),
        (f"{HOST}/behind/api", f"{HOST}/behind/api"),
    ],
)
async def test_one_app_url_is_right_for_both_ways_of_starting_a_run(
    app_url: str, public: str, over_http: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In full or as far as the prefix, and with the root path that a proxy cuts off."""
    monkeypatch.setenv("APP_URL", app_url)
    flow = serving()
    app = FastAPI()
    app.include_router(flow.router, prefix="/api")
    async with started(app, flow) as http:
        if over_http:
            answer = (await http.post("/api/hooked")).json()
            run = answer["workflowRunId"]
            assert answer["statusUrl"] == f"{public}/runs/{run}"
        else:
            run = (await flow.trigger(flow.served["/hooked"], None)).id
        url = await webhook_of(flow, run)
        assert url.startswith(f"{public}/webhooks/{run}.")
        assert (await http.post(urlsplit(url).path.removeprefix("/behind"), content="paid")).status_code == 202
        assert await flow.run(run).wait(30) == "paid"


def plain(flow: Batchflow) -> Any:
    app = FastAPI()
    app.include_router(flow.router)
    return app


def nested(flow: Batchflow) -> Any:
    api, app = APIRouter(prefix="/v1"), FastAPI()
    api.include_router(flow.router, prefix="/jobs")
    app.include_router(api, prefix="/api")
    return app


def mounted(flow: Batchflow) -> Any:
    return Starlette(routes=[Mount("/x", app=FastAPI()), Mount("/sub dir", app=nested(flow), name="sub")])


def beside_another(flow: Batchflow) -> Any:
    app = FastAPI()
    app.include_router(serving().router, prefix="/other")
    app.include_router(flow.router, prefix="/{tenant}/jobs")
    app.include_router(flow.router, prefix="/mine")
    app.include_router(flow.router, prefix="/mine-too")
    return app


PLACES = {plain: "", nested: "/api/v1/jobs", mounted: "/sub%20dir/api/v1/jobs", beside_another: "/mine"}


@pytest.mark.parametrize("place", PLACES, ids=lambda it: it.__name__)
async def test_a_run_from_python_has_the_path_of_the_router(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first prefix without parameters."""
    monkeypatch.setenv("APP_URL", HOST)
    flow = serving()
    app = place(flow)
    async with started(app, flow) as http:
        run = await flow.trigger(flow.served["/hooked"], None)
        url = await webhook_of(flow, run.id)
        assert url.startswith(f"{HOST}{PLACES[place]}/webhooks/{run.id}.")
        assert (await http.put(url, content="paid")).status_code == 202
        assert await run.wait(30) == "paid"


class Hooked(BatchWorkflow[NoParams, str, str]):
    """Its items wait for their webhooks."""

    name = "hooked-items"

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page(ids=["a"])

    async def process(self, ctx: WorkflowContext[Any], item: str) -> str:
        return (await ctx.create_webhook("make")).url

    async def execute(self, item_id: str) -> str:
        return item_id


async def test_the_items_of_a_batch_have_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """For every way of starting the batch."""
    monkeypatch.setenv("APP_URL", HOST)
    flow = Batchflow("sqlite://")
    items = flow.add(Hooked())
    app = FastAPI()
    app.include_router(flow.router, prefix="/api")
    async with started(app, flow):
        batch = await items.trigger()
        await batch.wait(30)
        (item,) = [it async for it in batch.items()]
    assert item.result is not None
    assert item.result.startswith(f"{HOST}/api/webhooks/")


@pytest.mark.parametrize("includes", [True, False])
async def test_an_unknown_path_is_reported_and_not_guessed(includes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a worker without the app: the run would wait in vain behind a wrong URL."""
    monkeypatch.setenv("APP_URL", HOST)
    flow = serving()
    app = FastAPI()
    if includes:
        app.include_router(flow.router, prefix="/{tenant}")
    async with started(app, flow):
        run = await flow.trigger(flow.served["/hooked"], None)
        with pytest.raises(RunFailed, match="does not know the path of the router there; write it too: https://jobs"):
            await run.wait(30)
    monkeypatch.setenv("APP_URL", f"{HOST}/api")
    async with flow:
        run = await flow.trigger(flow.served["/hooked"], None)
        assert (await webhook_of(flow, run.id)).startswith(f"{HOST}/api/webhooks/")
        await run.cancel()


@pytest.mark.parametrize("app_url", [None, HOST, f"{HOST}/public", f"{HOST}/behind"])
async def test_each_part_of_the_router_has_its_own_url(app_url: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The status of a run is where operators are, its webhook where webhooks are, however the run was started."""
    if app_url is not None:
        monkeypatch.setenv("APP_URL", app_url)
    flow = serving()
    app = FastAPI()
    app.include_router(flow.triggers_router, prefix="/public")
    app.include_router(flow.webhooks_router, prefix="/hooks")
    app.include_router(flow.admin_router, prefix="/ops")
    base = "http://test" if app_url is None else app_url.removesuffix("/public")
    async with started(app, flow) as http:
        answer = (await http.post("/public/hooked")).json()
        assert answer["statusUrl"] == f"{base}/ops/runs/{answer['workflowRunId']}"
        url = await webhook_of(flow, answer["workflowRunId"])
        assert url.startswith(f"{base}/hooks/webhooks/")
        assert (await http.post(urlsplit(url).path.removeprefix("/behind"), content="paid")).status_code == 202
        status_url: str = answer["statusUrl"]
        assert (await http.get(urlsplit(status_url).path.removeprefix("/behind"))).status_code == 200


async def test_a_part_that_the_app_does_not_have_has_no_url(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another app serves it; APP_URL says where, for webhooks."""
    flow = serving()
    app = FastAPI()
    app.include_router(flow.triggers_router)
    async with started(app, flow) as http:
        response = await http.post("/hooked")
        assert response.json()["statusUrl"] is None
        assert "Location" not in response.headers
        with pytest.raises(RunFailed, match="set APP_URL"):
            await flow.run(response.json()["workflowRunId"]).wait(30)
        monkeypatch.setenv("APP_URL", f"{HOST}/hooks")
        run = (await http.post("/hooked")).json()["workflowRunId"]
        assert (await webhook_of(flow, run)).startswith(f"{HOST}/hooks/webhooks/")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "203.0.113.9", "localhost.evil.example"])
@pytest.mark.parametrize("prefix", ["", "/api"])
async def test_no_url_is_built_from_a_foreign_host(host: str, prefix: str) -> None:
    """Status URLs have only their path, and no third party gets a webhook that leads elsewhere."""
    flow = serving()
    app = FastAPI()
    app.include_router(flow.router, prefix=prefix)
    async with started(app, flow) as http:
        response = await http.post(f"{prefix}/hooked", headers={"Host": host})
        run = response.json()["workflowRunId"]
        assert response.json()["statusUrl"] == response.headers["Location"] == f"{prefix}/runs/{run}"
        with pytest.raises(RunFailed, match="a host that may not be its own; set APP_URL"):
            await flow.run(run).wait(30)


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "web:8000", "[::1]:80", "test", "a.localhost"])
async def test_the_names_of_development_are_the_servers_own(host: str) -> None:
    """Loopback, the server's own address, and a name without a dot, as in a container network."""
    flow = serving()
    app = FastAPI()
    app.include_router(flow.router)
    async with started(app, flow) as http:
        answer = (await http.post("/hooked", headers={"Host": host})).json()
        assert answer["statusUrl"].startswith(f"http://{host}/runs/")
        assert (await webhook_of(flow, answer["workflowRunId"])).startswith(f"http://{host}/webhooks/")


async def test_a_request_cannot_name_the_url_of_its_webhooks() -> None:
    """The header in which batchflow keeps it is its own."""
    flow = serving()
    app = FastAPI()
    app.include_router(flow.triggers_router)
    async with started(app, flow) as http:
        run = (await http.post("/hooked", headers={"Upstash-Forward-batchflow-root": "http://evil.example"})).json()
        with pytest.raises(RunFailed, match="set APP_URL"):
            await flow.run(run["workflowRunId"]).wait(30)


async def test_a_prefix_that_a_proxy_cuts_off_is_in_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the setting says that the header is the proxy's; and only if it is a path."""
    for trusted, header, expected in (
        ("true", "/svc", "/svc"),
        ("true", "/svc/v1/", "/svc/v1"),
        ("true", "//evil.example", ""),
        ("true", "/a/../b c", ""),
        ("true", "https://evil.example", ""),
        ("false", "/svc", ""),
    ):
        monkeypatch.setenv("BATCHFLOW_TRUST_FORWARDED_PREFIX", trusted)
        flow = serving()
        app = FastAPI()
        app.include_router(flow.router, prefix="/api")
        async with started(app, flow) as http:
            answer = (await http.post("/api/hooked", headers={"X-Forwarded-Prefix": header})).json()
            assert answer["statusUrl"].startswith(f"http://test{expected}/api/runs/")
            assert (await webhook_of(flow, answer["workflowRunId"])).startswith(f"http://test{expected}/api/webhooks/")
