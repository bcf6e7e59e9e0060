"""Groups of operations that become one transaction: their bounds and their order."""

import asyncio
from collections.abc import Callable
from typing import Any

from batchflow.core.flow import FlowControl
from batchflow.core.message import Message
from batchflow.core.posts import Post
from batchflow.core.settlement import SendPosts, Settlement
from batchflow.stores.base import MAX_GROUP_CHARS, Answers, GroupCommit, Operation, WriteVerbs

MILLION = 1_000_000


class Groups:
    """Writes at once, and keeps the first arguments of each group."""

    def __init__(self) -> None:
        self.written: list[list[Any]] = []

    def submit(self, group: list[Operation], done: Callable[[Answers], None]) -> None:
        """Answer in the next turn of the loop."""
        self.written.append([operation.arguments[0] for operation in group])
        asyncio.get_running_loop().call_soon(done, [(True, None)] * len(group))


async def test_a_group_takes_all_small_operations_that_wait() -> None:
    """However many there are."""
    groups = Groups()
    commit = GroupCommit(groups.submit, lambda: None)
    for number in range(5_000):
        commit.add("record", number)
    await commit.drain()
    assert groups.written == [list(range(5_000))]


async def test_a_group_has_large_values_up_to_a_bound_in_the_order_of_their_operations() -> None:
    """Small operations between them keep their place."""
    groups = Groups()
    commit = GroupCommit(groups.submit, lambda: None)
    for number in range(40):
        commit.add("record", number)
        if number % 2:
            commit.note_large(MILLION)
    await commit.drain()
    assert [number for group in groups.written for number in group] == list(range(40))
    sizes = [MILLION * sum(number % 2 for number in group) for group in groups.written]
    assert max(sizes) <= MAX_GROUP_CHARS
    assert len(sizes) == 3


async def test_settlements_that_send_large_posts_are_written_in_several_groups() -> None:
    """Callbacks have the whole response."""
    groups = Groups()
    commit = GroupCommit(groups.submit, lambda: None)

    class Verbs(WriteVerbs):
        _commit = commit

        def _enqueue(self, verb: str, *arguments: Any) -> "asyncio.Future[Any]":
            raise AssertionError("the store is open")

    message = Message(id="p", destination="work", flow=FlowControl(key="k"), body="x" * MILLION)
    large = SendPosts((Post(message, "acme", "x" * MILLION),))
    for number in range(8):
        Verbs().settle(Settlement(str(number), 1, "done", "null", effects=(large,)))
    await commit.drain()
    assert [len(group) for group in groups.written] == [4, 4]


async def test_a_value_above_the_bound_is_written_by_itself() -> None:
    """It does not wait for ever."""
    groups = Groups()
    commit = GroupCommit(groups.submit, lambda: None)
    for number in range(3):
        commit.add("record", number)
        commit.note_large(2 * MAX_GROUP_CHARS)
    await commit.drain()
    assert groups.written == [[0], [1], [2]]
