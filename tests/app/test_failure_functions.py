"""Failure functions: called once for each run and item that has failed for good, in a message of their own."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

from batchflow import (
    Batchflow,
    FlowControl,
    NonRetryable,
    RunFailure,
    WorkflowContext,
)
from batchflow.core.message import LOSS_LIMIT
from batchflow.core.settlement import dead
from batchflow.engine.worker import LEASE_MS
from batchflow.errors import ChildFailed, ConfigurationError, InputError
from batchflow.testing import FlowEnv
from tests.stores.redis_server import Server, served
from tests.waiting import DEADLINE_S


class Order(BaseModel):
    """A payload."""

    id: str
    card: SecretStr = SecretStr("4242-4242")


class Shop:
    """An app that keeps what its failure functions were called with. `act` is what a run does, `told` what they do."""

    def __init__(self, act: Callable[[], Any] | None = None, told: Callable[[], Any] = lambda: "told") -> None:
        self.flow = Batchflow("sqlite://")
        self.act = act or decline
        self.failures: list[RunFailure[Any]] = []
        self.told = told

        async def failed(failure: RunFailure[Order]) -> Any:
            self.failures.append(failure)
            return self.told()

        @self.flow.serve("/orders", failure_function=failed, retries=1, timeout="1m")
        async def order(ctx: WorkflowContext[Order]) -> None:
            await ctx.run("charge", self._charge)

        @self.flow.serve("/parents")
        async def parent(ctx: WorkflowContext[str]) -> str:
            try:
                await ctx.invoke("child", order, Order(id=ctx.payload))
            except ChildFailed:
                return "went on"
            return "well"

        self.order, self.parent = order, parent

    async def _charge(self) -> None:
        self.act()


def decline() -> None:
    raise ValueError("card declined")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture(params=[None, "fakeredis", "redis"])
def place(request: Any) -> str | None:
    return request.getfixturevalue("server").url if request.param == "redis" else request.param


async def test_a_failure_function_gets_the_failed_run_once_and_its_result_is_kept(
    flow_env: FlowEnv, place: str | None
) -> None:
    """The context of the run without steps, the error in the terms of HTTP, the traceback, the attempts."""
    shop = Shop(told=lambda: {"ticket": 7})
    async with flow_env(shop.flow, store=place) as env:
        run = await env.run(shop.order, Order(id="o1"), headers={"x-tenant": "t1"})
        (failure,) = shop.failures
        assert (failure.run_id, failure.payload, failure.headers) == (run.id, Order(id="o1"), {"x-tenant": "t1"})
        assert (failure.status, failure.error, failure.response) == (500, "ValueError", "card declined")
        assert failure.url == "/orders"
        assert failure.response_headers == {"Content-Type": "application/json"}
        assert 'raise ValueError("card declined")' in failure.stack
        assert failure.attempts == 2
        assert run.failure is not None
        assert (run.failure.state, run.failure.result, run.failure.error) == ("succeeded", '{"ticket":7}', None)
        assert [it.id for it in env.runs] == [run.id]
        assert f"batchflow:failure/orders {run.id}.x" in str(env)


async def test_a_failure_function_is_called_again_for_the_next_death_alone(
    flow_env: FlowEnv, place: str | None
) -> None:
    """A redriven run that succeeds calls none, one that dies again calls it once more."""
    shop = Shop()
    async with flow_env(shop.flow, store=place) as env:
        run = await env.run(shop.order, Order(id="o1"))
        assert len(shop.failures) == 1
        assert await shop.flow.engine.store.redrive(run.id)
        await env.drive()
        assert len(shop.failures) == 2
        shop.act = lambda: None
        assert await shop.flow.engine.store.redrive(run.id)
        await env.drive()
        assert len(shop.failures) == 2


async def test_a_failure_function_is_called_after_ten_lost_workers(flow_env: FlowEnv, place: str | None) -> None:
    """The store declares this death, and no worker that serves the function is alive."""
    shop = Shop()
    async with flow_env(shop.flow, store=place) as env:
        run = await env.trigger(shop.order, Order(id="o1"))
        store = shop.flow.engine.store
        for number in range(LOSS_LIMIT):
            env.clock.advance(60_000)
            await store.register(f"w{number}", LEASE_MS)
            assert (await store.claim(f"w{number}", ["/orders"], 1)).claims
            env.clock.advance(LEASE_MS + 1)
            await store.expire()
        await env.drive()
        (failure,) = shop.failures
        assert (failure.run_id, failure.status, failure.error) == (run.id, 503, "WorkerLost")
        assert failure.attempts == LOSS_LIMIT


@pytest.mark.parametrize(
    ("act", "status", "error"),
    [
        (lambda: (_ for _ in ()).throw(NonRetryable("closed")), 489, "NonRetryable"),
        (lambda: (_ for _ in ()).throw(TimeoutError("too slow")), 504, "TimeoutError"),
    ],
)
async def test_a_failure_has_the_status_of_its_error(
    flow_env: FlowEnv, act: Callable[[], Any], status: int, error: str
) -> None:
    """`NonRetryable` is 489, as QStash has it, and a time limit 504."""
    shop = Shop(act)
    async with flow_env(shop.flow) as env:
        await env.run(shop.order, Order(id="o1"))
        (failure,) = shop.failures
        assert (failure.status, failure.error) == (status, error)
        assert failure.response_headers.get("Upstash-NonRetryable-Error") == ("true" if status == 489 else None)


async def test_a_payload_that_does_not_fit_calls_the_failure_function(flow_env: FlowEnv) -> None:
    """Only reading the payload raises, so that a function which does not need it can tell."""
    shop = Shop()
    async with flow_env(shop.flow) as env:
        run = await env.trigger(shop.order, Order(id="o1"))
        store = shop.flow.engine.store
        await store.register("w1", LEASE_MS)
        (claim,) = (await store.claim("w1", ["/orders"], 1)).claims
        await store.settle(dead(claim, "InputError: the payload does not fit"))
        await env.drive()
        assert run.failure is not None
        assert run.failure.state == "succeeded"
    lazy = RunFailure[Order](
        run_id="run_1",
        url="/orders",
        headers={},
        status=400,
        error="InputError",
        response="it does not fit",
        response_headers={},
        stack="",
        attempts=1,
        read_payload=lambda: Order.model_validate({}),
    )
    with pytest.raises(ValueError, match="id"):
        _ = lazy.payload


async def test_a_cancelled_run_calls_no_failure_function(flow_env: FlowEnv) -> None:
    """Neither one that waits, nor one that fails once it was cancelled."""
    shop = Shop()
    async with flow_env(shop.flow) as env:
        waiting = await env.trigger(shop.order, Order(id="o1"), delay="1h")
        assert await shop.flow.cancel(waiting.id) == 1
        running = await env.trigger(shop.order, Order(id="o2"))
        store = shop.flow.engine.store
        await store.register("w1", LEASE_MS)
        (claim,) = (await store.claim("w1", ["/orders"], 1)).claims
        await shop.flow.cancel(running.id)
        await store.settle(dead(claim, "NonRetryable: cancelled meanwhile"))
        await env.drive()
        assert (await shop.flow.run(running.id).status()).state == "cancelled"
    assert shop.failures == []


async def test_a_child_that_fails_calls_its_own_failure_function(flow_env: FlowEnv, place: str | None) -> None:
    """Its parent goes on with `ChildFailed`, and has none."""
    shop = Shop()
    async with flow_env(shop.flow, store=place) as env:
        parent = await env.run(shop.parent, "o1")
        (failure,) = shop.failures
        assert parent.result == "went on"
        assert failure.run_id.startswith(f"{parent.id}.")
        assert failure.payload == Order(id="o1")


async def test_a_failure_function_that_fails_is_tried_again_and_then_kept_as_failed(
    flow_env: FlowEnv, place: str | None
) -> None:
    """It has 3 retries of its own, is no dead letter, and the run's attempts stay what they were."""
    shop = Shop(told=lambda: 1 / 0)
    async with flow_env(shop.flow, store=place) as env:
        run = await env.run(shop.order, Order(id="o1"))
        assert len(shop.failures) == 4
        letters = await shop.flow.engine.store.dead_letters()
        assert [(letter.id, letter.attempts) for letter in letters] == [(run.id, 2)]
        assert run.failure is not None
        assert run.failure.state == "failed"
        assert (run.failure.error or "").startswith("ZeroDivisionError: division by zero\nTraceback")
        assert run.failure.result is None


async def test_a_failure_function_that_fails_once_succeeds(flow_env: FlowEnv) -> None:
    """Between its attempts it is in progress."""
    shop = Shop(told=lambda: 1 / (len(shop.failures) - 1))
    async with flow_env(shop.flow) as env:
        run = await env.trigger(shop.order, Order(id="o1"))
        await env.advance("1s")
        assert run.failure is not None
        assert run.failure.state == "in_progress"
        await env.drive()
        assert (len(shop.failures), run.failure.state, run.failure.result) == (2, "succeeded", "1.0")


async def test_a_result_of_a_failure_function_that_is_not_json_is_its_failure(flow_env: FlowEnv) -> None:
    """It is not tried again, and the sentence names the function."""
    shop = Shop(told=object)
    async with flow_env(shop.flow) as env:
        run = await env.run(shop.order, Order(id="o1"))
        assert len(shop.failures) == 1
        assert run.failure is not None
        assert run.failure.state == "failed"
        assert "UnserializableError" in (run.failure.error or "")
        assert "failure-function" in (run.failure.error or "")


async def test_an_error_of_a_failure_function_quotes_no_secret_of_the_run(flow_env: FlowEnv) -> None:
    """Those of the payload and of the headers are masked in what is kept of it."""

    def leak() -> None:
        (failure, *_) = shop.failures
        raise NonRetryable(f"{failure.payload.card.get_secret_value()} {failure.headers['authorization']}")

    shop = Shop(told=leak)
    async with flow_env(shop.flow) as env:
        run = await env.run(shop.order, Order(id="o1"), headers={"authorization": "Bearer s3cr3t-token"})
        error = (run.failure and run.failure.error) or ""
        assert "NonRetryable: ********** **********" in error
        assert "4242" not in error
        assert "s3cr3t" not in error


async def test_a_sync_failure_function_runs_in_a_thread_and_has_the_resources() -> None:
    """It is called like any other code of the user, under a flow key of its own."""
    flow, called = Batchflow("sqlite://"), asyncio.Event()
    loop = asyncio.get_running_loop()
    seen: list[tuple[bool, str]] = []

    @flow.resource
    async def channel() -> AsyncGenerator[str]:
        yield "#alerts"

    def failed(failure: RunFailure) -> None:
        seen.append((threading.current_thread() is threading.main_thread(), channel()))
        loop.call_soon_threadsafe(called.set)

    @flow.serve("/orders", failure_function=failed, flow_control=FlowControl(parallelism=1))
    async def order(ctx: WorkflowContext[str]) -> None:
        raise NonRetryable("closed")

    async with flow:
        await order.trigger("o1")
        async with asyncio.timeout(DEADLINE_S):
            await called.wait()
        assert {it.limits.key for it in await flow.engine.store.flows()} >= {"orders", "batchflow.failure.orders"}
    assert seen == [(False, "#alerts")]


async def test_strict_tests_answer_the_failure_function(flow_env: FlowEnv) -> None:
    """A stub of its step takes its place, and nothing of the app is called."""
    shop = Shop()
    async with flow_env(shop.flow, strict=True) as env:
        env.fail("charge", ValueError("card declined"), times=None)
        env.answer("failure-function", "stubbed")
        run = await env.run(shop.order, Order(id="o1"))
        env.assert_ran("failure-function", times=1)
        assert run.failure is not None
        assert run.failure.result == '"stubbed"'
    assert shop.failures == []


# Nobody outside


async def test_nobody_outside_can_call_a_failure_function(flow_env: FlowEnv) -> None:
    """It has no route, no trigger and no run of it can be started by its name."""
    import httpx
    from fastapi import FastAPI

    shop = Shop()
    async with flow_env(shop.flow) as env:
        app = FastAPI()
        app.include_router(shop.flow.router)
        transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            for destination in ("batchflow:failure/orders", "batchflow:failure-url", "orders/failure"):
                assert (await client.post(f"/{destination}", json="run_1")).status_code == 404
            assert not [path for path in (await client.get("/openapi.json")).json()["paths"] if "failure/" in path]
        assert list(shop.flow.served) == ["/orders", "/parents"]
        inviting = shop.order.failure_endpoint

        @shop.flow.serve("/inviting")
        async def invite(ctx: WorkflowContext[str]) -> None:
            await ctx.invoke("call", inviting, ctx.payload)  # pyright: ignore[reportArgumentType]

        assert "cannot invoke" in ((await env.run(invite, "run_1")).error or "")
        with pytest.raises(InputError):
            await shop.flow.trigger("batchflow:failure/orders", "run_1")  # pyright: ignore[reportArgumentType]
        with pytest.raises(ConfigurationError, match="'route' cannot be"):
            shop.flow.serve("batchflow:failure/orders")
    assert shop.failures == []


# Options


def two(failure: RunFailure[Order], more: str) -> None: ...
def of_context(ctx: WorkflowContext[Order]) -> None: ...
def of_text(failure: RunFailure[str]) -> None: ...
def yields(failure: RunFailure[Order]) -> Iterator[str]:
    yield failure.response


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (5, "'failure_function' cannot be 5; write a function"),
        (Order, "'failure_function' cannot be"),
        (two, "called with the failure and nothing else, and takes 'failure', 'more'; write 'async def two"),
        (of_context, "'of_context' is given a RunFailure; write 'async def of_context"),
        (of_text, "declares a payload of str, and the function's is Order"),
        (yields, "yields where it has to return"),
    ],
)
def test_a_failure_function_that_cannot_be_called_is_refused_when_it_is_declared(function: Any, message: str) -> None:
    """The sentence says what to write."""
    flow = Batchflow("sqlite://")

    async def order(ctx: WorkflowContext[Order]) -> None: ...

    with pytest.raises(ConfigurationError, match=message):
        flow.serve("/orders", failure_function=function)(order)
