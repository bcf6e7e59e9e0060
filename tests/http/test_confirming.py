"""Large batches over HTTP: those above `confirm_above` start only with `"confirm": true`."""

from collections.abc import AsyncGenerator

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient

from batchflow import Batchflow, BatchWorkflow, NoParams, Page
from tests.http.samples import assert_error


class Reviews(BatchWorkflow[NoParams]):
    """Five reviews."""

    entity = "review"
    confirm_above = 3

    async def count(self, params: NoParams) -> int:
        return 5

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page(ids=["r1", "r2", "r3", "r4", "r5"])

    async def execute(self, review_id: str) -> None:
        pass


@pytest.fixture
async def http() -> AsyncGenerator[AsyncClient]:
    """The app of the reviews."""
    flow = Batchflow("sqlite://", worker=False)
    flow.add(Reviews())
    app = FastAPI(lifespan=flow.lifespan)
    app.include_router(flow.router)
    async with flow, AsyncClient(transport=ASGITransport(app), base_url="http://localhost") as client:
        yield client


async def test_a_large_batch_is_refused_without_confirm(http: AsyncClient) -> None:
    """Nothing is started; a dry run needs no confirmation."""
    response = await http.post("/reviews/process-reviews", json={})
    assert_error(response, (422, "a batch of 5 reviews has to be confirmed", "confirm"))
    named = {"reviewIds": ["r1", "r2", "r3", "r4"]}
    assert_error(await http.post("/reviews/paginate-reviews", json=named), (422, "a batch of 4 reviews", "confirm"))
    assert (await http.get("/batches")).json()["batches"] == []
    assert (await http.post("/reviews/process-reviews", json={"dryRun": True})).json()["totalEligible"] == 5


async def test_a_large_batch_starts_with_confirm(http: AsyncClient) -> None:
    """And a small one without."""
    for path, body in (
        ("process-reviews", {"confirm": True}),
        ("process-reviews", {"limit": 3}),
        ("paginate-reviews", {"reviewIds": ["r1", "r2", "r3", "r4"], "confirm": True}),
        ("paginate-reviews", {"reviewIds": ["r1"]}),
        ("execute-review", {"reviewId": "r1"}),
    ):
        assert (await http.post(f"/reviews/{path}", json=body)).status_code == 202, path


async def test_a_wrong_confirm_is_422(http: AsyncClient) -> None:
    """A text that says yes is a slip; one item has nothing to confirm."""
    response = await http.post("/reviews/process-reviews", json={"confirm": "yes"})
    assert_error(response, (422, "'confirm' does not fit", "confirm"))
    response = await http.post("/reviews/execute-review", json={"reviewId": "r1", "confirm": True})
    assert_error(response, (422, "'confirm' cannot be given here", "confirm"))
