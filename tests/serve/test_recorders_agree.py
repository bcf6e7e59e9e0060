"""Random programs end alike through all recorders, whatever is lost on the way."""

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from itertools import pairwise
from operator import itemgetter
from typing import Any, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflow.core.retry import RetryPolicy
from batchflow.errors import StepFailed
from batchflow.serve.context import WorkflowContext
from tests.serve.simulated_worlds import Direct, World
from tests.serve.store_model import endpoint, first_line
from tests.serve.stories import (
    AMPLE,
    CERTAIN_OF_ONE_RUN,
    OPEN_OF_ONE_RUN,
    Call,
    Child,
    Do,
    Event,
    Fork,
    Limit,
    Nap,
    Node,
    Story,
    Trip,
    expected,
)
from tests.serve.wire_model import Mishap, Wire

Context: TypeAlias = WorkflowContext[Any]
Way: TypeAlias = Callable[[Context, Story, str], Coroutine[Any, Any, str]]

POLICY = RetryPolicy(retries=2, first="1s", factor=2)
MISHAPS: Sequence[Mishap] = ("killed", "refused", "reply lost")
_LIMITS = {"ample": AMPLE, "endless": 20, "tight": 3}


class Play:
    """A story as a durable function in a world; notes what is seen from inside."""

    def __init__(self, world: World, story: Story) -> None:
        self.world = world
        self.story = story
        self.calls: dict[str, int] = {}
        self.values: dict[str, str] = {}
        self.seen: list[list[str]] = []

    async def __call__(self, ctx: Context) -> str:
        self.seen.append([])
        return await self._play(ctx, self.story, "")

    async def _play(self, ctx: Context, story: Story, path: str) -> str:
        return f"[{' '.join([await self._one(ctx, node, f'{path}{place}') for place, node in enumerate(story)])}]"

    async def _one(self, ctx: Context, node: Node, path: str) -> str:
        result = await self._result(ctx, node, path)
        self.seen[-1].append(f"{path} {result} at {ctx.now():%H:%M:%S.%f} with {ctx.random():.6f}")
        return result

    async def _result(self, ctx: Context, node: Node, path: str) -> str:
        match node:
            case Do():
                return await self._do(ctx, node, path)
            case Nap(seconds):
                await ctx.sleep(path, seconds)
                return "slept"
            case Event():
                return await self._event(ctx, node, path)
            case Call(fails, answered):
                url = f"https://calls.test/{fails}/{'answered' if answered else 'silent'}"
                answer = await ctx.call(path, url, retries=2)
                return f"{answer.status} {answer.text}".strip()
            case Limit():
                return await self._limit(ctx, node, path)
            case Fork():
                return await self._fork(ctx, node, path)
            case Trip() | Child():
                raise AssertionError("not of these stories")

    async def _do(self, ctx: Context, node: Do, path: str) -> str:
        async def step() -> str:
            assert not self.world.is_recorded(path), "what is recorded is not executed again"
            self.calls[path] = self.calls.get(path, 0) + 1
            for _ in range(node.turns):
                await asyncio.sleep(0)
            # So that no two steps are recorded at the same time, and timers become due while steps execute.
            self.world.clock.time += 1 + 25 * node.turns
            failed = self.world.failures_of(path)
            if failed < node.fails:
                raise ConnectionError(f"down for the {failed + 1}. time")
            return f"done after {failed}, call {self.calls[path]}"

        value = await ctx.run(path, step)
        assert self.values.setdefault(path, value) == value, "the value that was recorded first is the one that counts"
        return value.partition(",")[0]

    async def _event(self, ctx: Context, node: Event, path: str) -> str:
        if node.after == "before":
            await ctx.notify(f"{path}:send", path, path, run_id=ctx.run_id)
        elif node.after >= 0:
            await ctx.run(f"{path}:arrange", self._arrange, path, node.after * 1000)
        waited = await ctx.wait_for_event(path, path, timeout="7s" if node.after == -1 else AMPLE, data=str)
        assert waited.timed_out or waited.data == path
        return "timed out" if waited.timed_out else "came"

    async def _arrange(self, event: str, delay_ms: int) -> None:
        self.world.arrange(event, delay_ms)

    async def _limit(self, ctx: Context, node: Limit, path: str) -> str:
        try:
            async with ctx.timeout(path, _LIMITS[node.how]):
                if node.how == "endless":
                    await self._endless(ctx, node.program, f"{path}.")
                return await self._play(ctx, node.program, f"{path}.")
        except TimeoutError:
            return "too late"

    async def _fork(self, ctx: Context, node: Fork, path: str) -> str:
        match node.how:
            case "gather":
                return " ".join(await asyncio.gather(*self._branches(self._guarded, ctx, node, path)))
            case "group":
                return await self._group(self._branches(self._play, ctx, node, path))
            case "first" | "race":
                place, result = await ctx.first(*self._branches(self._play, ctx, node, path))
                return f"{place} was first with {result}"

    def _branches(self, play: Way, ctx: Context, node: Fork, path: str) -> Iterator[Coroutine[Any, Any, str]]:
        for number, branch in enumerate(node.branches):
            endless = node.how == "first" and number != node.winner
            yield (self._endless if endless else play)(ctx, branch, f"{path}.{number}.")

    async def _group(self, branches: Iterator[Coroutine[Any, Any, str]]) -> str:
        result = "group failed"
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(branch) for branch in branches]
            result = " ".join(task.result() for task in tasks)
        except* StepFailed:
            pass
        return result

    async def _guarded(self, ctx: Context, story: Story, path: str) -> str:
        result = "failed"
        try:
            result = await self._play(ctx, story, path)
        except* StepFailed:
            pass
        return result

    async def _endless(self, ctx: Context, story: Story, path: str) -> str:
        await self._guarded(ctx, story, path)
        await ctx.wait_for_event(f"{path}never", f"{path}never")
        raise AssertionError("nobody sends this")


class Run:
    """The ending of a story in a world."""

    def __init__(self, world: World, story: Story) -> None:
        self.world = world
        self.play = Play(world, story)

    async def result(self) -> str:
        """The result; "failed" if a step failed and no code handled it."""
        ending = await self.world.drive(endpoint(self.play, retry=POLICY))
        if ending.ending == "dead":
            assert first_line(ending).startswith("StepFailed: "), ending
            return "failed"
        assert (ending.ending, type(ending.result)) == ("done", str), ending
        return json.loads(ending.result or "")


async def through_the_store(story: Story, mishaps: Mapping[int, Mishap], *, stops: bool) -> str:
    """Through the direct recorder; `stops`: with the attempt ending after each step."""
    world = Direct(faults=dict(mishaps), stops=stops)
    run = Run(world, story)
    result = await run.result()
    for step, calls in run.play.calls.items():
        assert calls <= 3 + len(mishaps), f"'{step}' is executed once an attempt"
    for before, after in pairwise(run.play.seen):
        shared = min(len(before), len(after))
        assert before[:shared] == after[:shared], "outcomes are handed out as they were"
    return result


async def over_the_wire(
    story: Story, mishaps: Mapping[int, Mishap], unanswered: frozenset[int], seed: int, *, keeps_the_rule: bool = True
) -> str:
    """Through the recorder of the wire, whose deliveries come in an order that `seed` decides."""
    world = Wire(mishaps=dict(mishaps), unanswered=unanswered, seed=seed, keeps_the_rule=keeps_the_rule)
    run = Run(world, story)
    result = await run.result()
    recorded = {step.name: step for step in world.journal(len(world.entries))}
    for step, calls in run.play.calls.items():
        places = world.unlocked_by[step]
        assert len(places) == 1, f"'{step}' is started by one entry, however often that is delivered"
        assert calls <= world.delivered[min(places)], f"'{step}' is executed once a delivery"
        if step in recorded and not mishaps and not unanswered:
            assert calls == recorded[step].failures + (recorded[step].state == "done"), f"'{step}' is executed once"
    for (_, before), (_, after) in pairwise(sorted(zip(world.order, run.play.seen, strict=True), key=itemgetter(0))):
        shared = min(len(before), len(after))
        assert before[:shared] == after[:shared], "a longer prefix is seen as a shorter one, and goes on"
    return result


mishaps_of_a_run = st.dictionaries(st.integers(1, 25), st.sampled_from(MISHAPS), max_size=4)
unanswered_deliveries = st.frozensets(st.integers(1, 25), max_size=4)


@settings(deadline=None, max_examples=1_000)
@given(CERTAIN_OF_ONE_RUN, mishaps_of_a_run, unanswered_deliveries, st.integers(0, 2**32))
async def test_all_recorders_come_to_the_same(
    story: Story, mishaps: dict[int, Mishap], unanswered: frozenset[int], seed: int
) -> None:
    """The store's, the same with the attempt ending after each step, and the wire's."""
    ends = expected(story)
    assert await through_the_store(story, mishaps, stops=False) == ends
    assert await through_the_store(story, mishaps, stops=True) == ends
    assert await over_the_wire(story, {}, frozenset(), seed) == ends
    assert await over_the_wire(story, mishaps, unanswered, seed) == ends


@settings(deadline=None, max_examples=200)
@given(OPEN_OF_ONE_RUN, mishaps_of_a_run, unanswered_deliveries, st.integers(0, 2**32))
async def test_an_open_race_is_decided_once_over_the_wire(
    story: Story, mishaps: dict[int, Mishap], unanswered: frozenset[int], seed: int
) -> None:
    """In whatever order deliveries come; a longer prefix decides nothing otherwise than a shorter one."""
    assert await over_the_wire(story, mishaps, unanswered, seed)


async def test_without_the_rule_of_the_wire_steps_are_started_twice() -> None:
    """The outcome of one branch would start the other, whose plan is delivered as well; and this is seen."""
    story = (Fork("gather", ((Do(0, 0),), (Do(0, 0),))),)
    assert await over_the_wire(story, {}, frozenset(), seed=1) == expected(story)
    with pytest.raises(AssertionError, match="started by one entry"):
        await over_the_wire(story, {}, frozenset(), seed=1, keeps_the_rule=False)
