"""Many steps, waits and children of one run: at the same time, and one after the other."""

import asyncio

from batchflow import WorkflowContext
from tests.scenarios.scenario_app import Nothing, Scene
from tests.waiting import DEADLINE_S

MANY = 200


def many_of(scene: Scene, count: int = MANY) -> int:
    """How many: fewer on QStash, each of whose deliveries has all steps of the run."""
    return count // 5 if scene.kind == "qstash" else count


async def test_many_steps_at_the_same_time_are_executed_once_each(both: Scene) -> None:
    """And their results come in the order of the code."""

    count = many_of(both)

    @both.flow.serve("/many")
    async def many(ctx: WorkflowContext[Nothing]) -> int:
        steps = [ctx.run(f"{number}", both.step(f"{number}", number)) for number in range(count)]
        results = await asyncio.gather(*steps)
        assert list(results) == list(range(count))
        return sum(results)

    ended = await both.to_the_end(many.trigger(Nothing()))
    assert ended.result == str(sum(range(count)))
    assert both.executed == {f"{number}": 1 for number in range(count)}


async def test_many_children_events_and_sleeps_at_the_same_time_all_come(scene: Scene) -> None:
    """Two hundred children and a hundred other waits, each with what is its own."""
    count = many_of(scene)

    @scene.flow.serve("/child")
    async def child(ctx: WorkflowContext[int]) -> int:
        return await ctx.run("double", scene.step("double", does=lambda number: 2 * number), ctx.payload)

    @scene.flow.serve("/teller")
    async def teller(ctx: WorkflowContext[str]) -> None:
        await asyncio.gather(*[ctx.notify(f"{n}", f"event {n}", n, run_id=ctx.payload) for n in range(count // 4)])

    @scene.flow.serve("/many")
    async def many(ctx: WorkflowContext[Nothing]) -> list[int]:
        children = [ctx.invoke(f"child {number}", child, number) for number in range(count)]
        events = [ctx.wait_for_event(f"event {number}", f"event {number}", data=int) for number in range(count // 4)]
        sleeps = [ctx.sleep(f"sleep {number}", 3600) for number in range(count // 4)]
        doubled = asyncio.gather(*children)
        told = asyncio.gather(*events)
        await asyncio.gather(*sleeps)
        return [*await doubled, *[event.data for event in await told]]

    run = await scene.start(many.trigger(Nothing()))
    await scene.flow.trigger(teller, run.id, delay="10m")
    await scene.drive()
    assert await run.wait(timeout=DEADLINE_S) == [*range(0, 2 * count, 2), *range(count // 4)]
    assert scene.executed == {"double": count}


async def test_many_steps_one_after_the_other_are_executed_once_each(both: Scene) -> None:
    """A thousand, also where each of them is an attempt that replays all before it."""
    # Which takes a while; on one store it is done for all of them.
    count = many_of(both, 200 if both.always_replay and both.kind != "sqlite" else 1_000)

    @both.flow.serve("/long")
    async def long(ctx: WorkflowContext[Nothing]) -> int:
        total = 0
        for number in range(count):
            total += await ctx.run(f"{number}", both.step(f"{number}", number))
        return total

    ended = await both.to_the_end(long.trigger(Nothing()))
    assert ended.result == str(sum(range(count)))
    assert both.executed == {f"{number}": 1 for number in range(count)}
    assert len(ended.journal) == count
