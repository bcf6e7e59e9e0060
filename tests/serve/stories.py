"""Random programs of everything a durable function can wait for: what they are made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from hypothesis import strategies as st

AMPLE = 400 * 86_400
"""Seconds that none of these programs takes, however often it is disturbed."""


@dataclass(frozen=True)
class Do:
    """A step that takes so many turns and fails so often, at most 2 times for one that succeeds at last."""

    turns: int
    fails: int


@dataclass(frozen=True)
class Nap:
    """A sleep of so many seconds."""

    seconds: int


@dataclass(frozen=True)
class Event:
    """A wait for an event that is sent before the wait begins, or so many seconds after; -1: never, it times out."""

    after: int | Literal["before"]


@dataclass(frozen=True)
class Call:
    """An HTTP call that fails so often; `answered` with an error, or not at all."""

    fails: int
    answered: bool


@dataclass(frozen=True)
class Child:
    """A child that plays a program, and then returns or fails."""

    program: "Story"
    fails: bool


@dataclass(frozen=True)
class Limit:
    """A program within `ctx.timeout`: an ample one; one for a program that would never end; or one of few seconds."""

    program: "Story"
    how: Literal["ample", "endless", "tight"]


@dataclass(frozen=True)
class Trip:
    """An exception outside of steps, as often as this: the attempt fails."""

    times: int


@dataclass(frozen=True)
class Fork:
    """Branches at the same time. In a `first` all but one of them would never end; a `race` is an open one."""

    how: Literal["gather", "group", "first", "race"]
    branches: "tuple[Story, ...]"
    winner: int = 0


Node: TypeAlias = Do | Nap | Event | Call | Child | Limit | Trip | Fork
Story: TypeAlias = "tuple[Node, ...]"

_WAITS: st.SearchStrategy[Node] = st.one_of(
    st.builds(Do, st.sampled_from([0, 0, 1, 3, 40]), st.sampled_from([0, 0, 0, 1, 2, 5])),
    st.builds(Nap, st.sampled_from([0, 1, 5])),
    st.builds(Event, st.sampled_from(["before", 0, 2, 3_600, -1])),
    st.builds(Call, st.sampled_from([0, 0, 1, 5]), st.booleans()),
)
_LEAVES = st.one_of(_WAITS, st.builds(Trip, st.sampled_from([1, 2])))


def _story(nodes: st.SearchStrategy[Node]) -> st.SearchStrategy[Story]:
    return st.lists(nodes, min_size=1, max_size=3).map(tuple)


def _stories(
    limits: Sequence[str], forks: Sequence[str], *, of_one_run: bool = False, leaves: int = 7
) -> st.SearchStrategy[Story]:
    nodes = _WAITS if of_one_run else _LEAVES

    def inner(stories: st.SearchStrategy[Story]) -> st.SearchStrategy[Story]:
        branches = st.lists(stories, min_size=2, max_size=3).map(tuple)
        child = nodes if of_one_run else st.builds(Child, stories, st.booleans())
        limit = st.builds(Limit, stories, st.sampled_from(limits))
        fork = st.builds(Fork, st.sampled_from(forks), branches, st.integers(0, 1))
        return _story(st.one_of(nodes, child, limit, fork))

    return st.recursive(_story(nodes), inner, max_leaves=leaves)


CERTAIN = _stories(["ample", "endless"], ["gather", "group", "first"])
"""Stories of which it is known how they end."""


def _of_one_run(limits: Sequence[str], forks: Sequence[str]) -> st.SearchStrategy[Story]:
    alone = _stories(limits, forks, of_one_run=True, leaves=3)
    branches = st.lists(alone, min_size=2, max_size=3).map(tuple)
    forked = st.builds(Fork, st.sampled_from(forks), branches, st.integers(0, 1))
    return st.one_of(st.tuples(forked), alone)


CERTAIN_OF_ONE_RUN = _of_one_run(["ample", "endless"], ["gather", "group", "first"])
"""Of those, such as have no children and fail with a step only; most of them begin with branches."""

OPEN = _stories(["ample", "endless", "tight"], ["gather", "group", "first", "race"])
"""Stories in which it is a matter of time who is first."""

OPEN_OF_ONE_RUN = _of_one_run(["ample", "endless", "tight"], ["gather", "group", "first", "race"])
"""Of those, such as have no children and fail with a step only."""


class Failed(Exception):
    """A step of the story fails for good."""


def expected(story: Story) -> str:
    """What comes out of a story, whatever happens to it on the way: "failed" where a step fails and nobody minds."""
    try:
        return _play(story)
    except Failed:
        return "failed"


def _play(story: Story) -> str:
    return f"[{' '.join([_one(node) for node in story])}]"


def _one(node: Node) -> str:
    match node:
        case Do(_, fails) | Call(fails, False) if fails > 2:
            raise Failed
        case Do(_, fails):
            return f"done after {fails}"
        case Nap():
            return "slept"
        case Event(after):
            return "timed out" if after == -1 else "came"
        case Call(fails):
            return "500" if fails > 2 else "200 hello"
        case Child(_, True):
            raise Failed
        case Child(story):
            return expected(story)
        case Limit(_, "endless"):
            return "too late"
        case Limit(story):
            return _play(story)
        case Trip():
            return "up again"
        case Fork():
            return _fork(node)


def _fork(node: Fork) -> str:
    match node.how:
        case "gather":
            return " ".join(expected(branch) for branch in node.branches)
        case "first" | "race":
            return f"{node.winner} was first with {_play(node.branches[node.winner])}"
        case "group":
            ends = [expected(branch) for branch in node.branches]
            return "group failed" if "failed" in ends else " ".join(ends)
