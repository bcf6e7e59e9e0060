"""The size of a batch that somebody has to confirm, and the option that asks for it."""

from collections.abc import Sequence
from typing import Any

import pytest

from batchflow import Batchflow, BatchWorkflow, NoParams, Page
from batchflow.batch.arguments import BatchTrigger
from batchflow.errors import ConfigurationError, InputError


class Counted(BatchWorkflow[NoParams]):
    """A source that says how many items it has."""

    entity = "user"
    confirm_above = 3
    page_size = 2
    size = 5

    async def count(self, params: NoParams) -> int:
        assert self.params == params
        return self.size

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        raise AssertionError("the pages are not read")

    async def execute(self, user_id: str) -> None:
        pass


class Paged(BatchWorkflow[NoParams]):
    """A source that has to be read."""

    entity = "user"
    confirm_above = 3
    page_size = 2

    def __init__(self, size: int) -> None:
        self.size = size
        self.fetched = 0

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        self.fetched += 1
        start = int(cursor or 0)
        ids = [f"u{number}" for number in range(start, min(start + limit, self.size))]
        return Page(ids=ids, next_cursor=str(start + limit) if start + limit < self.size else None)

    async def execute(self, user_id: str) -> None:
        pass


@pytest.mark.parametrize(
    ("options", "size"),
    [
        (BatchTrigger(), "5 users"),
        (BatchTrigger(limit=4), "4 users"),
        (BatchTrigger(limit=3), None),
        (BatchTrigger(ids=["a", "b", "c", "d"]), "4 users"),
        (BatchTrigger(ids=["a", "b", "c"]), None),
    ],
)
async def test_a_batch_above_the_limit_has_to_be_confirmed(options: BatchTrigger, size: str | None) -> None:
    """By what `count` says, by its own limit or by the ids that it names."""
    flow = Batchflow("sqlite://")
    assert await flow.add(Counted()).find_large_size(None, options) == size


@pytest.mark.parametrize(
    ("size", "said", "pages"), [(3, None, 2), (4, "more than 3 users", 2), (900, "more than 3 users", 2)]
)
async def test_a_source_without_count_is_read_until_there_are_too_many(size: int, said: str | None, pages: int) -> None:
    """And no further."""
    source = Paged(size)
    assert await Batchflow("sqlite://").add(source).find_large_size(None, BatchTrigger()) == said
    assert source.fetched == pages


async def test_functions_have_the_option_too() -> None:
    """Whether a trigger names the ids or a source does."""

    async def greet(user_id: str) -> None: ...

    flow = Batchflow("sqlite://")
    named = flow.batch(confirm_above=2, name="named")(greet)
    assert await named.find_large_size(None, BatchTrigger(ids=["a", "b", "c"])) == "3 users"
    ids: Sequence[str] = ["a", "b", "c"]
    sourced = flow.batch(ids=ids, confirm_above=2, name="sourced")(greet)
    assert await sourced.find_large_size(None, BatchTrigger()) == "more than 2 users"


async def test_python_is_not_asked() -> None:
    """Code has decided already; wrong ids are said as by `trigger`."""
    async with Batchflow("sqlite://", worker=False) as flow:
        bound = flow.add(Counted())
        assert await bound.trigger(ids=["a", "b", "c", "d"])
        with pytest.raises(InputError, match="ids"):
            await bound.find_large_size(None, BatchTrigger(ids=["a", "a"]))


@pytest.mark.parametrize("wrong", [0, -1, "10", True, 2.5])
def test_a_limit_that_cannot_be_is_refused(wrong: Any) -> None:
    """When the class is made."""
    with pytest.raises(ConfigurationError, match=r"Large\.confirm_above cannot be"):

        class Large(Counted):
            confirm_above = wrong

        del Large
