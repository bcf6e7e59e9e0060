"""The steps of batch layers: a known codec, a step that is written with the settlement, effects."""

from typing import Any

from batchflow.core.codec import Codec
from batchflow.core.retry import RetryPolicy
from batchflow.core.settlement import Publish
from batchflow.serve.context import LayerContext
from tests.serve.store_model import Calls, Model, endpoint

Context = LayerContext[Any]
TEXT = Codec.of(str)


async def shout(word: str) -> str:
    return word.upper()


async def test_the_last_step_rides_with_the_settlement() -> None:
    """It is not recorded on its own, and a run that is done drops it."""
    model = Model()

    async def run(ctx: Context) -> str:
        first = await ctx.run_with_codec("first", TEXT, shout, "a")
        return first + await ctx.run_with_codec("save", TEXT, shout, "b", defer_to_settlement=True)

    ending = await model.drive(endpoint(run))
    assert (ending.result, ending.steps, model.records) == ('"AB"', (), 1)


async def test_the_last_step_is_kept_when_the_run_is_not_done() -> None:
    """Its outcome is in the settlement's steps, and is not executed again."""
    calls = Calls()
    attempts: list[int] = []

    async def run(ctx: Context) -> str:
        attempts.append(1)
        result = await ctx.run_with_codec("save", TEXT, calls("save", "b"), defer_to_settlement=True)
        if len(attempts) == 1:
            raise ValueError
        return result

    model = Model()
    ending = await model.drive(endpoint(run))
    assert (ending.result, calls.made, model.records) == ('"b"', ["save"], 0)
    first = model.endings[0]
    assert first is not None
    assert [(step.name, step.position, step.value) for step in first.steps] == [("save", 1, '"b"')]


async def test_the_last_step_fails_as_any_other() -> None:
    """It is tried again, and its final failure stands in the dead letter's journal."""
    calls = Calls()

    async def run(ctx: Context) -> str:
        return await ctx.run_with_codec("save", TEXT, calls("save", "b", fails=9), defer_to_settlement=True)

    model = Model()
    ending = await model.drive(endpoint(run, retry=RetryPolicy(retries=1)))
    assert (ending.ending, calls.made) == ("dead", ["save", "save"])
    assert [(step.name, step.state, step.failures) for step in ending.steps] == [("save", "failed", 2)]


async def test_nothing_follows_the_last_step() -> None:
    """No step may follow an outcome that is not durable yet."""

    async def run(ctx: Context) -> str:
        await ctx.run_with_codec("save", TEXT, shout, "b", defer_to_settlement=True)
        return await ctx.run_with_codec("more", TEXT, shout, "b")

    ending = await Model().drive(endpoint(run))
    assert ending.error is not None
    assert ending.error.startswith(
        "ReplayError: step 'more' is asked for after step 'save', which was asked for as the last one"
    )


async def test_effects_go_with_the_settlement_of_a_done_run() -> None:
    """The effects of an abandoned attempt are discarded."""

    async def run(ctx: Context) -> None:
        ctx.effects += (Publish(()),)
        await ctx.run("a", Calls()("a"))
        ctx.effects += (Publish(()),)

    ending = await Model(faults={1: "reply lost"}).drive(endpoint(run))
    assert ending.effects == (Publish(()), Publish(()))
