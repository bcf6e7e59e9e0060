"""The short form: a function of one id becomes a workflow."""

import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from batchflow import Batchflow, WorkflowContext
from batchflow.batch.function import function_workflow
from batchflow.batch.options import OPTION_NAMES
from batchflow.batch.workflow import BatchWorkflow, NoParams
from batchflow.core.flow import FlowControl
from batchflow.core.retry import RetryPolicy
from batchflow.errors import ConfigurationError, InputError
from batchflow.testing import FlowEnv
from tests.batch.model import Model
from tests.batch.samples import bound

IDS = [f"u{number}" for number in range(130)]


async def greet_user(user_id: str) -> str:
    """Say hello."""
    return f"Hello, {user_id}!"


def greet_only() -> BatchWorkflow[NoParams, str, None]:
    def greet_only(id: str) -> None: ...

    return function_workflow(greet_only)


def test_a_function_names_its_workflow() -> None:
    """Its own name, and what its parameter is an id of."""
    made = function_workflow(greet_user).__batch__
    assert (made.name, made.routes.process, made.wire.id) == ("greet-user", "/greet-user/process-users", "userId")
    assert (made.result_codec.annotation, made.class_name) == (str, "greet_user")
    assert made.execute_flow == FlowControl(parallelism=10, rate=5, key="greet-user.execute")
    other = function_workflow(greet_user, name="hello", flow=None, retry=RetryPolicy.none(), timeout="5s").__batch__
    assert (other.name, other.execute_flow, other.retry, other.timeout_ms) == (
        "hello",
        FlowControl(key="hello.execute"),
        RetryPolicy.none(),
        5_000,
    )


def test_a_function_has_every_option_of_a_class() -> None:
    """`flow` and `timeout` are those of its items; the others have the names and, but for pages, the defaults."""
    renamed = {"execute_flow": "flow", "item_timeout": "timeout"}
    taken = inspect.signature(function_workflow).parameters
    assert [it for it in OPTION_NAMES if renamed.get(it, it) not in taken] == []
    plain = function_workflow(greet_user).__batch__
    assert (plain.page_size, plain.chunk_size, plain.retry) == (50, 20, RetryPolicy())
    assert plain.paginate_flow == FlowControl(key="greet-user.paginate")
    assert plain.entry_flow == FlowControl(parallelism=1, rate=1, key="greet-user.process")
    given = function_workflow(
        greet_user,
        entity="person",
        entity_plural="people",
        execute_verb="greet",
        page_size=7,
        chunk_size=3,
        entry_flow=None,
        paginate_flow=FlowControl(rate=9),
        processed_ttl="1d",
        walk_first=True,
    ).__batch__
    assert (given.routes.process, given.routes.execute) == ("/greet-user/process-people", "/greet-user/greet-person")
    assert (given.page_size, given.chunk_size, given.walk_first, given.ledger_ttl) == (7, 3, True, 86_400_000)
    assert (given.entry_flow.rate, given.paginate_flow.rate) == (None, 9)


async def test_pages_of_a_function_are_not_limited(flow_env: FlowEnv) -> None:
    """Without a limit of the items, 2,000 take no time but that of the trigger."""
    flow = Batchflow("sqlite://")
    every = flow.batch(ids=[str(number) for number in range(2_000)], flow=None)(greet_user)
    async with flow_env(flow) as env:
        begun = env.now
        batch = await env.run(every)
        assert batch.summary.counts.succeeded == 2_000
        assert (env.now - begun).total_seconds() < 1


async def test_calling_a_batch_function_calls_the_function() -> None:
    """Async or not, as it is written; it has its name and its docstring."""
    flow = Batchflow("sqlite://")

    @flow.batch
    def size(item_id: str) -> int:
        return len(item_id)

    greet = flow.batch(greet_user)
    assert await greet("ada") == "Hello, ada!"
    assert size("ada") == 3
    assert (greet.function, greet.__doc__) == (greet_user, "Say hello.")
    assert inspect.unwrap(greet) is greet_user
    assert repr(size) == "BatchFunction('size')"


async def test_a_batch_function_may_be_a_step(flow_env: FlowEnv) -> None:
    """Of a durable function; its result keeps its type."""
    flow = Batchflow("sqlite://")
    greet = flow.batch(greet_user)

    @flow.serve("/twice")
    async def twice(ctx: WorkflowContext[str]) -> list[str]:
        return [await ctx.run("first", greet, ctx.payload), await greet(ctx.payload)]

    async with flow_env(flow) as env:
        run = await env.run(twice, "ada")
    assert run.result == ["Hello, ada!", "Hello, ada!"]


async def test_named_ids_are_run(model: Model) -> None:
    """Without a source every trigger names its ids."""
    workflow = bound(model, function_workflow(greet_user))
    batch = await workflow.trigger(ids=["u1", "u2"])
    await model.drive()
    assert [pair async for pair in batch.results()] == [("u1", "Hello, u1!"), ("u2", "Hello, u2!")]
    with pytest.raises(InputError) as raised:
        await workflow.trigger()
    assert "'greet-user' has no source of ids" in str(raised.value)


async def test_a_plain_function_runs_in_a_thread(model: Model) -> None:
    """And returns its result like any other."""

    def double(item_id: str) -> int:
        return int(item_id) * 2

    batch = await bound(model, function_workflow(double, ids=["1", "2"])).trigger()
    await model.drive()
    assert [pair async for pair in batch.results()] == [("1", 2), ("2", 4)]


begun: list[str] = []


def called() -> list[str]:
    begun.append("list")
    return IDS


def generated() -> Iterator[str]:
    begun.append("generator")
    yield from IDS


async def awaited_type() -> list[str]:
    begun.append("coroutine")
    return IDS


async def streamed() -> AsyncIterator[str]:
    begun.append("stream")
    for id in IDS:
        yield id


@pytest.mark.parametrize("source", [IDS, tuple(IDS), called, generated, awaited_type, streamed])
async def test_every_source_is_read_once_in_its_order(model: Model, source: Any) -> None:
    """A generator is not begun again for every page."""
    begun.clear()
    batch = await bound(model, function_workflow(greet_user, ids=source)).trigger()
    await model.drive()
    assert [item.id async for item in batch.items()] == IDS
    assert len(begun) <= 1


@pytest.mark.parametrize("source", [called, generated, streamed])
async def test_a_page_asked_for_again_is_the_same(model: Model, source: Any) -> None:
    """A source that is not open, after a crash or in another process, is restarted and skipped forward."""
    begun.clear()
    workflow = function_workflow(greet_user, ids=source)
    fetch: Any = getattr(workflow, "fetch")  # noqa: B009
    stats = await bound(model, workflow).dry_run()
    assert stats.to_process == 130
    from batchflow.batch.hook_scope import CURRENT_HOOK, HookScope

    token = CURRENT_HOOK.set(HookScope(model, "greet-user", NoParams()))
    try:
        assert (await fetch(NoParams(), "120", 50)).ids == IDS[120:]
        assert (await fetch(NoParams(), "200", 50)).ids == []
        page = await fetch(NoParams(), "50", 50)
    finally:
        CURRENT_HOOK.reset(token)
    assert (page.ids, page.next_cursor) == (IDS[50:100], "100")
    assert len(begun) == 4


async def test_a_list_that_fills_its_last_page_ends_there(model: Model) -> None:
    """No empty page follows where the end can be seen."""
    batch = await bound(model, function_workflow(greet_user, ids=IDS[:100])).trigger()
    await model.drive()
    assert model.jobs[batch.id].batch.pages == 2


async def two(a: str, b: str) -> None: ...
async def none() -> None: ...
async def number(item_id: int) -> None: ...
async def numbers(item_ids: list[int]) -> list[int]: ...  # pyright: ignore[reportReturnType]
async def total(item_ids: list[str]) -> int: ...  # pyright: ignore[reportReturnType]
async def embed(item_ids: list[str]) -> list[int]: ...  # pyright: ignore[reportReturnType]
async def silent(item_id: str):
    pass


@pytest.mark.parametrize(
    ("function", "options", "sentence"),
    [
        (two, {}, "'two' has to take one argument, the id of an item; write two(item_id: str)"),
        (none, {}, "'none' has to take one argument, the id of an item; write none(item_id: str)"),
        (
            number,
            {},
            "'number' declares 'item_id: int' and is given an id; write item_id: str, or a BatchWorkflow whose load "
            "makes more of it",
        ),
        (
            numbers,
            {},
            "'numbers' declares 'item_ids: list[int]' and is given an id; write item_ids: str, or a BatchWorkflow "
            "whose load makes more of it",
        ),
        (
            total,
            {},
            "'total' takes many ids and declares that it returns int; write the type of one result for each id, "
            "such as -> list[str]",
        ),
        (
            greet_user,
            {"group_size": 20},
            "'greet_user' takes one id at a time, so that group_size does nothing; write "
            "greet_user(item_ids: list[str]) -> list[…], which returns one result for each id",
        ),
        (
            embed,
            {"flow": FlowControl(parallelism=20)},
            "embed.group_size is 50 and execute_flow lets 20 items be under way at once, so that no group can ever be "
            "full; write execute_flow = FlowControl(parallelism=100, …), which counts items, or group_size = 20",
        ),
        (silent, {}, "'silent' has no return type; write one, such as -> None"),
        (
            greet_user,
            {"ids": 5},
            "the ids of 'greet_user' cannot be 5; write a sequence of ids, or a function that gives them",
        ),
        (
            greet_user,
            {"name": "a b"},
            "greet_user.name cannot be 'a b'; write letters and digits, with '-', '_' or '.' between them",
        ),
        (
            greet_user,
            {"flow": 3},
            "greet_user.execute_flow cannot be 3; write FlowControl(parallelism=10, rate=5), or None for no limits",
        ),
    ],
)
def test_a_wrong_function_is_refused(function: Any, options: dict[str, Any], sentence: str) -> None:
    """When it is decorated, with what to write."""
    with pytest.raises(ConfigurationError) as raised:
        function_workflow(function, **options)
    assert str(raised.value) == sentence
