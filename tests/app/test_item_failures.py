"""`on_item_failure`: called once for each item that has failed for good."""

from collections.abc import Iterator
from typing import Any

import pytest

from batchflow import (
    Batchflow,
    BatchWorkflow,
    ItemFailure,
    NonRetryable,
    NoParams,
    Page,
    RetryPolicy,
    WorkflowContext,
)
from batchflow.errors import ConfigurationError
from batchflow.testing import FlowEnv
from tests.stores.redis_server import Server, served


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture(params=[None, "fakeredis", "redis"])
def place(request: Any) -> str | None:
    return request.getfixturevalue("server").url if request.param == "redis" else request.param


class Reviews(BatchWorkflow[NoParams, str, str]):
    """One item succeeds, one is missing, one fails."""

    name = "reviews"
    entry_flow = paginate_flow = execute_flow = None
    retry = RetryPolicy(retries=1)

    def __init__(self) -> None:
        self.seen: list[tuple[ItemFailure[NoParams], str, NoParams, str | None]] = []

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page(ids=["bad", "gone", "ok"])

    async def load(self, item_id: str) -> str | None:
        return None if item_id == "gone" else item_id

    async def execute(self, item: str) -> str:
        if item == "bad":
            raise ValueError("unreadable")
        return item

    def on_item_failure(self, failure: ItemFailure[NoParams]) -> dict[str, str]:
        self.seen.append((failure, self.item_id, self.params, self.headers.get("x-tenant")))
        return {"told": failure.item_id}


async def test_on_item_failure_gets_each_failed_item_once(flow_env: FlowEnv, place: str | None) -> None:
    """With the item, the parameters and headers of its batch; not for one that `load` does not find."""
    flow, workflow = Batchflow("sqlite://"), Reviews()
    reviews = flow.add(workflow)
    async with flow_env(flow, store=place) as env:
        batch = await env.run(reviews, headers={"x-tenant": "t1"})
        ((failure, item_id, params, tenant),) = workflow.seen
        assert (failure.item_id, failure.batch_id, failure.params) == ("bad", batch.id, NoParams())
        assert (item_id, params, tenant) == ("bad", NoParams(), "t1")
        assert (failure.status, failure.error, failure.response) == (500, "ValueError", "unreadable")
        assert (failure.attempts, failure.headers, failure.url) == (2, {"x-tenant": "t1"}, "/reviews/execute-item")
        (letter,) = await flow.engine.store.dead_letters()
        assert letter.failure is not None
        assert (letter.failure.state, letter.failure.result) == ("succeeded", '{"told":"bad"}')
        assert (batch.summary.counts.failed, batch.summary.counts.succeeded) == (2, 1)
        env.assert_ran("reviews:on_item_failure", times=1)


async def test_an_on_item_failure_that_fails_is_not_the_items_failure(flow_env: FlowEnv) -> None:
    """It is not among the errors of the batch, whose counts and end do not wait for it."""
    flow, workflow = Batchflow("sqlite://"), Reviews()
    reviews = flow.add(workflow)
    async with flow_env(flow) as env:
        env.fail("reviews:on_item_failure", RuntimeError("channel closed"), times=None)
        batch = await env.run(reviews)
        env.assert_ran("reviews:on_item_failure", times=4)
        status = await batch.handle.status()
        assert not [group for group in status.errors if group.type == "RuntimeError"]
        (item,) = [it async for it in batch.handle.items("failed") if it.id == "bad"]
        assert (item.attempts, (item.error or "").partition("\n")[0]) == (2, "ValueError: unreadable")
        (letter,) = await flow.engine.store.dead_letters()
        assert letter.failure is not None
        assert (letter.failure.state, letter.error.partition("\n")[0]) == ("failed", "ValueError: unreadable")


async def test_cancelled_items_call_no_on_item_failure(flow_env: FlowEnv) -> None:
    """Neither those that wait for a retry, nor those that had not begun."""
    flow, workflow = Batchflow("sqlite://"), Reviews()
    reviews = flow.add(workflow)
    async with flow_env(flow) as env:
        batch = await env.trigger(reviews)
        await env.advance("0s")
        await batch.handle.cancel()
        await env.drive()
        assert (await batch.handle.status()).counts.cancelled == 1
    assert workflow.seen == []


async def test_the_short_form_takes_on_item_failure(flow_env: FlowEnv) -> None:
    """As a function of an `ItemFailure`, sync or async."""
    flow, told = Batchflow("sqlite://"), list[str]()

    async def failed(failure: ItemFailure) -> None:
        told.append(f"{failure.item_id}: {failure.response}")

    @flow.batch(ids=["a"], on_item_failure=failed)
    async def crawl(page: str) -> None:
        raise NonRetryable("gone")

    async with flow_env(flow) as env:
        await env.run(crawl)
    assert told == ["a: gone"]


def test_an_on_item_failure_of_another_signature_is_refused() -> None:
    """When the class is created."""
    with pytest.raises(ConfigurationError, match="on_item_failure cannot be called with 1 argument"):

        class Wrong(Reviews):  # pyright: ignore[reportUnusedClass]
            def on_item_failure(self) -> None: ...  # pyright: ignore[reportIncompatibleMethodOverride]

    with pytest.raises(ConfigurationError, match="on_item_failure of 'crawl' cannot be 5"):

        @Batchflow("sqlite://").batch(on_item_failure=5)  # pyright: ignore[reportArgumentType]
        async def crawl(page: str) -> None: ...


async def test_items_of_an_invoked_batch_call_on_item_failure(flow_env: FlowEnv) -> None:
    """As those of a triggered one."""
    flow, workflow = Batchflow("sqlite://"), Reviews()
    reviews = flow.add(workflow)

    @flow.serve("/nightly")
    async def nightly(ctx: WorkflowContext[None]) -> int:
        return (await ctx.invoke("reviews", reviews, NoParams())).counts.failed

    async with flow_env(flow) as env:
        run = await env.run(nightly, None)
        assert run.result == 2
    assert len(workflow.seen) == 1
