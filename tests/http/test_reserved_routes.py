"""The routes of batchflow itself are reserved."""

import re

import pytest
from fastapi.routing import APIRoute, iter_route_contexts

from batchflow import Batchflow, BatchWorkflow, NoParams, Page, QStash, WorkflowContext
from batchflow.errors import ConfigurationError, DuplicateNameError
from batchflow.http.reserved_routes import RESERVED_POSTS


async def mine(ctx: WorkflowContext[None]) -> None: ...


class Events(BatchWorkflow[NoParams, str, str]):
    """Its routes begin with /events."""

    name = "events"

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page(ids=[])

    async def execute(self, item_id: str) -> str:
        return item_id


@pytest.mark.parametrize("router_first", [True, False])
@pytest.mark.parametrize(
    "path",
    ["/events/order", "/events/a/b", "/runs/cancel", "/runs/mine/cancel", "/batches/mine/cancel", "/webhooks/me"],
)
def test_a_function_cannot_take_a_route_of_batchflow_itself(path: str, router_first: bool) -> None:
    """The decorator raises, with or without a router."""
    flow = Batchflow("sqlite://")
    if router_first:
        assert flow.router is not None
    with pytest.raises(DuplicateNameError, match=re.escape(f"a POST to '{path}' reaches batchflow's own route")):
        flow.serve(path)(mine)
    assert flow.served == {}
    assert flow.router is not None


@pytest.mark.parametrize("router_first", [True, False])
def test_a_workflow_cannot_take_a_route_of_batchflow_itself(router_first: bool) -> None:
    """`add` raises."""
    flow = Batchflow("sqlite://")
    if router_first:
        assert flow.router is not None
    with pytest.raises(DuplicateNameError, match=r"batchflow's own route '/events/\{id\}'; give the function"):
        flow.add(Events())
    assert flow.workflows == {}


@pytest.mark.parametrize(
    "path", ["/event/order", "/runs/cancelled", "/webhooks/me/too", "/batches/a/b/cancel", "/a/events/x"]
)
def test_other_routes_are_free(path: str) -> None:
    """Similar routes are accepted."""
    flow = Batchflow("sqlite://")
    flow.serve(path)(mine)
    assert list(flow.served) == [path]
    assert flow.router is not None


def test_the_routes_that_take_a_post_are_all_known() -> None:
    """The list has all POST routes of the router, those of an app on QStash too."""
    apps = Batchflow("sqlite://"), Batchflow(QStash(token="e30=", verify=False))
    found = [it.original_route for app in apps for it in iter_route_contexts(app.router.routes)]
    posts = {it.path for it in found if isinstance(it, APIRoute) and (not it.methods or "POST" in it.methods)}
    assert posts == set(RESERVED_POSTS)


@pytest.mark.parametrize("path", ["/../x", "/./x", "/a/..", "/a/.", "/.", "/..", "/a/../b"])
def test_a_route_that_clients_would_shorten_is_refused(path: str) -> None:
    """No request would reach it."""
    with pytest.raises(ConfigurationError, match=re.escape(f"'route' cannot be {path!r}; write a path such as")):
        Batchflow("sqlite://").serve(path)(mine)


@pytest.mark.parametrize("path", ["/.well-known/x", "/...", "/a..b", "/v1.2", "/a/.x"])
def test_a_route_may_hold_dots(path: str) -> None:
    """Unless a part consists of one or two dots."""
    assert Batchflow("sqlite://").serve(path)(mine).endpoint.route == path
