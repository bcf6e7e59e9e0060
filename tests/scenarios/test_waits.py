"""Waiting for events with a limit, and what is first of several."""

import asyncio

import pytest

from batchflow import WorkflowContext
from batchflow.serve.functions import ServedFunction
from tests.scenarios.scenario_app import DAY, HOUR, Nothing, Scene


def sender(scene: Scene) -> ServedFunction[str, None]:
    @scene.flow.serve("/sender")
    async def send(ctx: WorkflowContext[str]) -> None:
        await ctx.notify("send", ctx.payload, ctx.payload)

    return send


@pytest.mark.parametrize(("delay", "result"), [("1h", '"answer"'), ("3h", "null"), (None, "null")])
async def test_wait_ends_with_the_event_or_with_its_time(both: Scene, delay: str | None, result: str) -> None:
    """An event in time is the result; a later one is not waited for."""

    @both.flow.serve("/wait")
    async def wait(ctx: WorkflowContext[Nothing]) -> str | None:
        await ctx.run("ask", both.step("ask"))
        answer = await ctx.wait_for_event("answer", "answer", timeout="2h", data=str)
        await ctx.run("note", both.step("note"))
        return None if answer.timed_out else answer.data

    send = sender(both)
    run = await both.start(wait.trigger(Nothing()))
    if delay is not None:
        await send.trigger("answer", delay=delay)
    await both.drive()
    assert (await run.status()).result == result
    assert both.executed == {"ask": 1, "note": 1}


@pytest.mark.parametrize("winner", ["event", "sleep", "child"])
async def test_first_goes_on_with_the_wait_that_ends_first(scene: Scene, winner: str) -> None:
    """The others are not waited for: a later event finds nobody, a later child changes nothing."""
    hours = {winner: 1}

    @scene.flow.serve("/child")
    async def child(ctx: WorkflowContext[int]) -> str:
        await ctx.sleep("work", ctx.payload * 3600)
        return await ctx.run("work done", scene.step("child", "child"))

    @scene.flow.serve("/race")
    async def race(ctx: WorkflowContext[Nothing]) -> int:
        place, _ = await ctx.first(
            ctx.wait_for_event("event", "answer"),
            ctx.sleep("sleep", hours.get("sleep", 9) * 3600),
            ctx.invoke("child", child, hours.get("child", 9)),
        )
        await ctx.run(f"after {place}", scene.step("after"))
        await ctx.sleep("long after", "1d")
        assert await scene.flow.waiters("answer") == []
        return place

    send = sender(scene)
    run = await scene.start(race.trigger(Nothing()))
    await send.trigger("answer", delay=hours.get("event", 9) * 3600)
    await scene.drive()
    assert (await run.status()).result == str(["event", "sleep", "child"].index(winner))
    assert scene.executed == {"after": 1, "child": 1}


async def test_first_of_steps_cancels_the_slower_ones(scene: Scene) -> None:
    """A step that executes is cut off in direct mode; where each step ends an attempt, it is recorded, unheard."""

    async def turns(count: int) -> int:
        for _ in range(count):
            await asyncio.sleep(0)
        scene.executed[f"{count}"] += 1
        return count

    @scene.flow.serve("/race")
    async def race(ctx: WorkflowContext[Nothing]) -> int:
        place, _ = await ctx.first(ctx.run("slow", turns, 5_000), ctx.run("fast", turns, 1))
        return place

    ended = await scene.to_the_end(race.trigger(Nothing()))
    assert ended.result == "1"
    assert scene.executed == ({"1": 1, "5000": 1} if scene.always_replay else {"1": 1})


async def test_first_inside_gather_and_timeout_inside_first_keep_to_their_own(scene: Scene) -> None:
    """The code cancels exactly what it says, and nothing else."""
    never = "never"

    @scene.flow.serve("/nested")
    async def nested(ctx: WorkflowContext[Nothing]) -> list[str]:
        async def limited(name: str, hours: int) -> str:
            try:
                async with ctx.timeout(f"{name} limit", f"{hours}h"):
                    await ctx.wait_for_event(f"{name} event", never)
            except TimeoutError as error:
                return str(error)
            return "came"

        async def raced(name: str) -> str:
            place, what = await ctx.first(limited(f"{name} long", 9), limited(f"{name} short", 2))
            await ctx.run(name, scene.step(name))
            return f"{place} {what}"

        return list(await asyncio.gather(raced("a"), raced("b"), limited("c", 5)))

    begun = scene.clock.now()
    ended = await scene.to_the_end(nested.trigger(Nothing()))
    shorts = ",".join(f"\"1 '{name} short limit': took longer than 2h\"" for name in "ab")
    assert ended.result == f"[{shorts},\"'c limit': took longer than 5h\"]"
    assert scene.executed == {"a": 1, "b": 1}
    assert scene.clock.now() - begun == 5 * HOUR


@pytest.mark.parametrize(("inner", "outer", "which"), [("1h", "2h", "inner"), ("2h", "1h", "outer"), ("1h", "1h", "?")])
async def test_timeouts_inside_each_other_end_what_is_theirs(scene: Scene, inner: str, outer: str, which: str) -> None:
    """The shorter one; of two that end at the same moment the one that was asked for first, on every replay."""

    @scene.flow.serve("/nested")
    async def nested(ctx: WorkflowContext[Nothing]) -> str:
        try:
            async with ctx.timeout("outer", outer):
                try:
                    async with ctx.timeout("inner", inner):
                        await ctx.sleep("long", "1d")
                except TimeoutError:
                    await ctx.run("inner was over", scene.step("inner"))
                    return "inner"
        except TimeoutError:
            await ctx.run("outer was over", scene.step("outer"))
            return "outer"
        return "neither"

    ended = await scene.to_the_end(nested.trigger(Nothing()))
    expected = "outer" if which == "?" else which
    assert ended.result == f'"{expected}"'
    assert scene.executed == {expected: 1}


@pytest.mark.parametrize("caught", [False, True])
async def test_timeout_works_after_a_group_whose_task_has_failed(scene: Scene, caught: bool) -> None:
    """A TaskGroup leaves its parent counted as cancelled on Python 3.11; the time is over all the same."""

    @scene.flow.serve("/child")
    async def child(ctx: WorkflowContext[Nothing]) -> None:
        await ctx.run("bad", scene.step("bad", error=ValueError("bad")))

    @scene.flow.serve("/grouped", retries=0)
    async def grouped(ctx: WorkflowContext[Nothing]) -> str:
        try:
            async with ctx.timeout("limit", "1d"):
                if caught:
                    try:
                        async with asyncio.TaskGroup() as group:
                            group.create_task(ctx.invoke("child", child, Nothing(), retries=0))
                    except* Exception:
                        pass
                await ctx.wait_for_event("never", "never")
        except TimeoutError:
            return "over"
        return "came"

    begun = scene.clock.now()
    ended = await scene.to_the_end(grouped.trigger(Nothing()))
    assert (ended.state, ended.result) == ("completed", '"over"')
    assert scene.clock.now() - begun == DAY
