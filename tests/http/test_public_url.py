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
    assert f'"{HOST}/api/webhooks/' in item.result


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
