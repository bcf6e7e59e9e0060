"""A journal that does not fit the code, and code that breaks the rules: found, and told."""

import asyncio
from typing import Any

import pytest

from batchflow.core.run import Step
from batchflow.serve.context import WorkflowContext
from tests.serve.store_model import Calls, Model, endpoint

Context = WorkflowContext[Any]


def recorded(number: int, name: str, position: int, value: str = "null") -> Step:
    return Step(number, name, "run", "done", position, value)


async def dead(fn: Any, *journal: Step) -> str:
    """The first line of what a run that does not fit its journal dies of."""
    ending = await Model(journal=journal).drive(endpoint(fn))
    assert ending.ending == "dead"
    assert ending.error is not None
    return ending.error.splitlines()[0]


async def test_a_step_that_has_gone_is_a_mismatch() -> None:
    """Found as soon as the code is at rest; nothing new is executed, and `except Exception` does not hide it."""
    calls = Calls()

    async def run(ctx: Context) -> None:
        try:
            await ctx.run("new", calls("new"))
        except Exception:
            calls.made.append("swallowed")

    error = await dead(run, recorded(1, "old", 1))
    assert error.startswith(
        "ReplayError: step 'old' is recorded next, at position 1, "
        "but the code does not ask for it and waits for 'new'; "
    )
    assert calls.made == []


async def test_a_function_that_ends_too_early_is_a_mismatch() -> None:
    """A recorded step that nobody has asked for at the end."""

    async def run(ctx: Context) -> None:
        await ctx.run("a", Calls()("a"))

    error = await dead(run, recorded(1, "a", 1), recorded(2, "b", 2))
    assert error.startswith("ReplayError: step 'b' is recorded, but the function returned without asking for it; ")


async def test_a_failure_before_the_journal_is_through_is_tried_again() -> None:
    """A passing fault between steps is no mismatch; one that stays is told as such."""
    attempts: list[int] = []

    async def run(ctx: Context) -> None:
        attempts.append(1)
        if len(attempts) < 3:
            raise ConnectionError("for now")
        if len(attempts) > 3:
            raise ConnectionError("for good")
        await ctx.run("a", Calls()("a"))

    journal = (recorded(1, "a", 1),)
    assert (await Model(journal=journal).drive(endpoint(run))).ending == "done"
    error = await dead(run, *journal)
    assert error.startswith("ReplayError: step 'a' is recorded, but the function raised without asking for it; ")
    assert len(attempts) == 7


async def test_a_recorded_result_of_another_type_is_a_mismatch() -> None:
    """The sentence shows what is recorded and what is declared."""

    async def count() -> int:
        return 1

    async def run(ctx: Context) -> None:
        await ctx.run("count", count)

    assert await dead(run, recorded(1, "count", 1, '"many"')) == (
        "ReplayError: step 'count' is recorded as '\"many\"', which is not a valid int as the code declares it now; "
        "keep reading what is recorded, or give the new step another name"
    )


async def test_a_name_used_twice_ends_the_run() -> None:
    """Wherever the second request comes from."""

    async def run(ctx: Context) -> None:
        await asyncio.gather(ctx.run("a", Calls()("a")), ctx.run("a", Calls()("a")))

    assert (await dead(run)).startswith("ReplayError: step 'a' is asked for twice in one run; ")


@pytest.mark.parametrize("how", ["directly", "in a task", "in a sibling"])
async def test_steps_do_not_nest(how: str) -> None:
    """Asked for by the function of another step, or by a task that it has made."""

    async def run(ctx: Context) -> None:
        async def inner() -> None:
            await ctx.run("inner", Calls()("inner"))

        async def outer() -> None:
            await (asyncio.gather(inner()) if how == "in a task" else inner())

        if how == "in a sibling":
            await asyncio.gather(ctx.run("other", Calls()("other", turns=5)), ctx.run("outer", outer))
        await ctx.run("outer", outer)

    assert await dead(run) == (
        "ReplayError: step 'inner' is asked for inside step 'outer', and steps do not nest; "
        "let 'outer' return, and ask for 'inner' in the durable function itself"
    )
