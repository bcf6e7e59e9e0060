"""Random durable functions: what they are made of, how they run, and what is noted while they do."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

from hypothesis import strategies as st

from batchflow.core.retry import RetryPolicy
from batchflow.errors import StepFailed
from batchflow.serve.context import WorkflowContext
from tests.serve.store_model import Model

POLICY = RetryPolicy(retries=2, first="1s", factor=2)


@dataclass(frozen=True)
class Do:
    """A step that takes so many turns and fails so often; `guarded` by `except Exception`."""

    turns: int
    fails: int
    guarded: bool


@dataclass(frozen=True)
class Wait:
    """A sleep of so many seconds."""

    seconds: int


@dataclass(frozen=True)
class Fork:
    """Branches at the same time, and what becomes of them."""

    how: Literal["gather", "group", "race, cancel", "race, leave", "race, join"]
    branches: "tuple[Program, ...]"


Program: TypeAlias = "tuple[Do | Wait | Fork, ...]"


def _forks(programs: st.SearchStrategy[Program], ways: Sequence[str]) -> st.SearchStrategy[Program]:
    branches = st.lists(programs, min_size=2, max_size=3).map(tuple)
    fork = st.builds(Fork, st.sampled_from(ways), branches)
    return st.lists(st.one_of(_STEPS, fork), min_size=1, max_size=3).map(tuple)


_STEPS = st.one_of(
    st.builds(Do, st.sampled_from([0, 0, 1, 3, 40]), st.sampled_from([0, 0, 0, 1, 2, 5]), st.booleans()),
    st.builds(Wait, st.sampled_from([0, 1, 2, 5])),
)
_SEQUENCES: st.SearchStrategy[Program] = st.lists(_STEPS, min_size=1, max_size=3).map(tuple)


def programs(*ways: str) -> st.SearchStrategy[Program]:
    """Programs whose branches come together in these ways."""
    return st.recursive(_SEQUENCES, lambda inner: _forks(inner, ways), max_leaves=6)


@dataclass
class Notes:
    """What was seen from inside: per attempt the outcomes in the order the code saw them; every call of a step."""

    seen: list[list[str]] = field(default_factory=list[list[str]])
    winners: dict[str, str] = field(default_factory=dict[str, str])
    calls: dict[str, int] = field(default_factory=dict[str, int])


class Performance:
    """A program as a durable function over a model store."""

    def __init__(self, program: Program, model: Model) -> None:
        self.program = program
        self.model = model
        self.notes = Notes()

    async def __call__(self, ctx: WorkflowContext[Any]) -> str:
        self.notes.seen.append([])
        result = "failed"
        try:
            result = await self._play(ctx, self.program, "")
        except* StepFailed:
            pass
        return result

    async def _play(self, ctx: WorkflowContext[Any], program: Program, path: str) -> str:
        results = [await self._one(ctx, node, f"{path}{place}") for place, node in enumerate(program)]
        return f"[{' '.join(results)}]"

    async def _one(self, ctx: WorkflowContext[Any], node: Do | Wait | Fork, path: str) -> str:
        match node:
            case Wait(seconds):
                await ctx.sleep(path, seconds)
                self._see(path)
                return "slept"
            case Do(_, _, guarded):
                try:
                    result = await ctx.run(path, self._step, node, path)
                except Exception:
                    self._see(f"{path} failed")
                    if not guarded:
                        raise
                    return "failed"
                self._see(path)
                return result
            case Fork(how, branches):
                plays = [self._play(ctx, branch, f"{path}.{number}.") for number, branch in enumerate(branches)]
                return await self._ways[how](self, plays, path)

    async def _step(self, node: Do, path: str) -> str:
        assert path not in self.model.names, "what is recorded is not executed again"
        self.notes.calls[path] = self.notes.calls.get(path, 0) + 1
        for _ in range(node.turns):
            await asyncio.sleep(0)
        # Counted by what is durable, so that a call that a crash undid does not make the next one succeed.
        failed = sum(step.failures for step in self.model.journal if step.name == path)
        if failed < node.fails:
            raise ConnectionError(f"down for the {failed + 1}. time")
        return f"done after {failed}"

    def _see(self, what: str) -> None:
        self.notes.seen[-1].append(what)

    async def _gather(self, plays: list[Awaitable[str]], path: str) -> str:
        return " ".join(str(result) for result in await asyncio.gather(*plays, return_exceptions=True))

    async def _group(self, plays: list[Any], path: str) -> str:
        result = "group failed"
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(play) for play in plays]
            result = " ".join(task.result() for task in tasks)
        except* StepFailed:
            pass
        return result

    async def _race(self, plays: list[Any], path: str) -> "tuple[str, set[asyncio.Task[str]]]":
        tasks = [asyncio.create_task(play, name=str(number)) for number, play in enumerate(plays)]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        winner = " ".join(sorted(task.get_name() for task in done))
        failed = [task for task in done if task.exception()]
        assert self.notes.winners.setdefault(path, winner) == winner, "a race is decided as it was"
        return f"won by {winner}{' with a failure' if failed else ''}", pending

    async def _race_and_cancel(self, plays: list[Any], path: str) -> str:
        result, pending = await self._race(plays, path)
        for task in pending:
            task.cancel()
        self._hush(pending)
        return result

    async def _race_and_leave(self, plays: list[Any], path: str) -> str:
        result, pending = await self._race(plays, path)
        self._hush(pending)
        return result

    def _hush(self, tasks: "set[asyncio.Task[str]]") -> None:
        for task in tasks:
            task.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _race_and_join(self, plays: list[Any], path: str) -> str:
        result, pending = await self._race(plays, path)
        return result + await self._gather([*pending], path)

    _ways: ClassVar[dict[str, "Callable[[Performance, list[Any], str], Awaitable[str]]"]] = {
        "gather": _gather,
        "group": _group,
        "race, cancel": _race_and_cancel,
        "race, leave": _race_and_leave,
        "race, join": _race_and_join,
    }
