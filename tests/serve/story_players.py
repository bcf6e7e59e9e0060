"""Plays stories as durable functions, and notes what is seen from inside."""

import asyncio
import copy
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, ClassVar, Protocol, TypeAlias

from pydantic import BaseModel

from batchflow import Batchflow, WorkflowContext
from batchflow.core.retry import RetryPolicy
from batchflow.errors import NonRetryable, StepFailed
from batchflow.serve.functions import ServedFunction
from batchflow.testing import ManualClock
from tests.serve.stories import AMPLE, Call, Child, Do, Event, Fork, Limit, Nap, Node, Story, Trip

OF_STEPS = RetryPolicy(retries=2, first="1s", factor=2)
OF_RUNS = RetryPolicy(retries=20, first="1s", factor=1)


_LIMITS = {"ample": AMPLE, "endless": 20, "tight": 3}
_SEEN: ContextVar[list[str]] = ContextVar("seen")


class Part(BaseModel):
    """Which part of the story a run plays."""

    path: str = ""
    fails: bool = False


class Letter(BaseModel):
    """An event to be sent to one run."""

    run: str
    event: str


class Tripped(Exception):
    """An exception outside of steps."""


Context: TypeAlias = WorkflowContext[Part]
Way: TypeAlias = Callable[[Context, Story, str], Coroutine[Any, Any, str]]


class StoryStage(Protocol):
    """The app that plays a story, and what is known of it from outside."""

    flow: Batchflow
    clock: ManualClock

    async def failures_of(self, run: str, step: str) -> int:
        """Return the failures of the step that executes now, of which a crash undoes none."""
        ...

    def is_recorded(self, run: str, step: str) -> bool:
        """Return whether whoever executes the step now can know that its outcome is durable."""
        ...


class Players:
    """A story on a stage: one served function plays it and, as its own child, the parts of it that children play."""

    def __init__(self, stage: StoryStage, story: Story) -> None:
        self.stage = stage
        self.parts: dict[str, Story] = {"": story}
        self.seen: dict[str, list[list[str]]] = {}
        self.executed: dict[tuple[str, str], int] = {}
        self.trips: dict[tuple[str, str], int] = {}
        self.play_part, self.send = _served(stage.flow, self)

    def on(self, flow: Batchflow) -> "Players":
        """The same on another app, with what has been seen until then."""
        others = copy.copy(self)
        others.play_part, others.send = _served(flow, others)
        return others

    async def part(self, ctx: Context) -> str:
        """Runs a story as a run does."""
        seen: list[str] = []
        self.seen.setdefault(ctx.run_id, []).append(seen)
        _SEEN.set(seen)
        path = ctx.payload.path
        result = await self._guarded(ctx, self.parts[path], path)
        if ctx.payload.fails:
            raise NonRetryable("as it is written")
        return result

    async def _play(self, ctx: Context, story: Story, path: str) -> str:
        return f"[{' '.join([await self._one(ctx, node, f'{path}{place}') for place, node in enumerate(story)])}]"

    async def _one(self, ctx: Context, node: Node, path: str) -> str:
        result = await self._ways[type(node)](self, ctx, node, path)
        self._see(ctx, path, result)
        return result

    def _see(self, ctx: Context, path: str, result: str) -> None:
        # Time and chance are part of it: they are the same on every replay.
        _SEEN.get().append(f"{path} {result} at {ctx.now():%H:%M:%S.%f} with {ctx.random():.6f}")

    async def _do(self, ctx: Context, node: Do, path: str) -> str:
        key = ctx.run_id, path

        async def step() -> str:
            assert not self.stage.is_recorded(*key), "what is recorded is not executed again"
            self.executed[key] = self.executed.get(key, 0) + 1
            for _ in range(node.turns):
                await asyncio.sleep(0)
            # So that no two steps are recorded at the same time, and timers become due while steps execute.
            self.stage.clock.advance(timedelta(milliseconds=1 + 25 * node.turns))
            failed = await self.stage.failures_of(*key)
            if failed < node.fails:
                raise ConnectionError(f"down for the {failed + 1}. time")
            return f"done after {node.fails}"

        return await ctx.step(retry=OF_STEPS).run(path, step)

    async def _nap(self, ctx: Context, node: Nap, path: str) -> str:
        await ctx.sleep(path, node.seconds)
        return "slept"

    async def _event(self, ctx: Context, node: Event, path: str) -> str:
        if node.after == "before":
            await ctx.notify(f"{path}:send", path, path, run_id=ctx.run_id)
        elif node.after >= 0:
            await ctx.run(f"{path}:arrange", self._arrange, ctx.run_id, path, node.after)
        limit = "7s" if node.after == -1 else AMPLE
        waited = await ctx.wait_for_event(path, path, timeout=limit, data=str)
        if waited.timed_out:
            return "timed out"
        assert waited.data == path
        return "came"

    async def _arrange(self, run: str, event: str, delay: int) -> None:
        await self.send.trigger(Letter(run=run, event=event), delay=delay, dedup_id=f"{run} {event}")

    async def _call(self, ctx: Context, node: Call, path: str) -> str:
        url = f"https://calls.test/{node.fails}/{'answered' if node.answered else 'silent'}"
        answer = await ctx.call(path, url, retries=2)
        return f"{answer.status} {answer.text}".strip()

    async def _child(self, ctx: Context, node: Child, path: str) -> str:
        part = f"{path}/"
        self.parts[part] = node.program
        return await ctx.invoke(path, self.play_part, Part(path=part, fails=node.fails))

    async def _limit(self, ctx: Context, node: Limit, path: str) -> str:
        try:
            async with ctx.timeout(path, _LIMITS[node.how]):
                if node.how == "endless":
                    await self._endless(ctx, node.program, f"{path}.")
                return await self._play(ctx, node.program, f"{path}.")
        except TimeoutError:
            return "too late"

    async def _trip(self, ctx: Context, node: Trip, path: str) -> str:
        key = ctx.run_id, path
        self.trips[key] = self.trips.get(key, 0) + 1
        if self.trips[key] <= node.times:
            raise Tripped(path)
        # A step of its own, so that what follows is decided by what is recorded.
        return await ctx.run(path, _stand_up)

    async def _fork(self, ctx: Context, node: Fork, path: str) -> str:
        match node.how:
            case "gather":
                # What is no failure of a step is not waited with: the attempt has failed.
                return " ".join(await asyncio.gather(*self._branches(self._guarded, ctx, node, path)))
            case "group":
                return await self._group(ctx, node, path)
            case "first" | "race":
                place, result = await ctx.first(*self._branches(self._play, ctx, node, path))
                return f"{place} was first with {result}"

    def _branches(self, play: Way, ctx: Context, node: Fork, path: str) -> Iterator[Coroutine[Any, Any, str]]:
        for number, branch in enumerate(node.branches):
            endless = node.how == "first" and number != node.winner
            yield (self._endless if endless else play)(ctx, branch, f"{path}.{number}.")

    async def _guarded(self, ctx: Context, story: Story, path: str) -> str:
        result = "failed"
        try:
            result = await self._play(ctx, story, path)
        except* StepFailed:
            pass
        return result

    async def _group(self, ctx: Context, node: Fork, path: str) -> str:
        result = "group failed"
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(play) for play in self._branches(self._play, ctx, node, path)]
            result = " ".join(task.result() for task in tasks)
        except* StepFailed:
            pass
        return result

    async def _endless(self, ctx: Context, story: Story, path: str) -> str:
        await self._guarded(ctx, story, path)
        await ctx.wait_for_event(f"{path}never", "never")
        raise AssertionError("nobody sends this")

    _ways: ClassVar[dict[type, Callable[..., Awaitable[str]]]] = {
        Do: _do,
        Nap: _nap,
        Event: _event,
        Call: _call,
        Child: _child,
        Limit: _limit,
        Trip: _trip,
        Fork: _fork,
    }


async def _stand_up() -> str:
    return "up again"


def _served(flow: Batchflow, players: Players) -> tuple[ServedFunction[Part, str], ServedFunction[Letter, None]]:
    @flow.serve("/part", retry=OF_RUNS)
    async def part(ctx: WorkflowContext[Part]) -> str:
        return await players.part(ctx)

    @flow.serve("/send", retry=OF_RUNS)
    async def send(ctx: WorkflowContext[Letter]) -> None:
        await ctx.notify("send", ctx.payload.event, ctx.payload.event, run_id=ctx.payload.run)

    return part, send
