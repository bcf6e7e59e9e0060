"""Definitions that are read from classes, and the messages for invalid ones."""

from collections.abc import Collection, Sequence
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from batchflow.batch.definition import Definition
from batchflow.batch.workflow import BatchWorkflow, MaybeAwaitable, NoParams, Page
from batchflow.core.flow import FlowControl
from batchflow.core.retry import RetryPolicy
from tests.batch.samples import Audience, Greeting, User, Welcome
from tests.batch.test_refusals import made

P = TypeVar("P", bound=BaseModel)
R = TypeVar("R")


def definition(cls: type[BatchWorkflow[Any, Any, Any]]) -> Definition:
    return cls.__batch__


def test_the_defaults_are_those_of_the_pattern() -> None:
    """Two hooks are enough; the rest is as the pattern has it."""
    read = definition(made())
    assert (read.name, read.plural, read.page_size, read.chunk_size) == ("orders", "items", 50, 20)
    assert read.entry_flow == FlowControl(parallelism=1, rate=1, key="orders.process")
    assert read.paginate_flow == FlowControl(parallelism=20, rate=5, key="orders.paginate")
    assert read.execute_flow == FlowControl(parallelism=10, rate=5, key="orders.execute")
    assert (read.retry, read.timeout_ms, read.ledger_ttl, read.walk_first) == (RetryPolicy(), 900_000, None, False)
    assert (read.params, read.keep_results, read.defined_hooks) == (NoParams, False, {"fetch", "execute"})


def test_the_names_are_those_of_the_pattern() -> None:
    """Routes, steps and the item's key carry workflow and entity."""
    read = definition(Welcome)
    assert read.routes.process == "/welcome/process-users"
    assert read.routes.paginate == "/welcome/paginate-users"
    assert read.routes.execute == "/welcome/generate-user"
    assert read.routes.complete == "/welcome/complete"
    assert (read.wire.id, read.wire.ids) == ("userId", "userIds")
    steps = read.steps
    assert (steps.get_all_items, steps.filter_existing, steps.trigger_paginate) == (
        "welcome:get-all-items",
        "welcome:filter-existing",
        "welcome:trigger-paginate",
    )
    assert (steps.get_batch, steps.fanout, steps.execute, steps.next_page) == (
        "welcome:get-batch",
        "welcome:fanout",
        "welcome:execute",
        "welcome:next-page",
    )
    assert (steps.get_item, steps.process_item, steps.save_result) == (
        "welcome:get-item",
        "welcome:process-item",
        "welcome:save-result",
    )


def test_types_are_read_through_bases_of_ones_own() -> None:
    """A generic base in between may fix some of the types and leave others open."""

    class Base(BatchWorkflow[P, User, R], Generic[P, R]):
        async def load(self, user_id: str) -> User | None: ...
        async def fetch(self, params: P, cursor: str | None, limit: int) -> Page: ...

    class Closed(Base[Audience, Greeting]):
        async def execute(self, user: User) -> Greeting: ...

    class Open(Base[P, list[R]], Generic[P, R], abstract=True): ...

    class Deep(Open[Audience, str]):
        async def execute(self, user: User) -> list[str]: ...

    assert not hasattr(Base, "__batch__")
    assert (definition(Closed).params, definition(Closed).result_codec.annotation) == (Audience, Greeting)
    assert definition(Deep).result_codec.annotation == list[str]


def test_hooks_may_be_sync_or_async_and_name_their_parameters() -> None:
    """Only the number of parameters and what is known of their types count."""

    class Free(BatchWorkflow[Audience, User, Greeting]):
        def fetch(self, p: Audience, after: str | None, n: int, more: bool = False) -> Page: ...
        def load(self, key: str) -> User: ...
        def execute(self, user: BaseModel) -> MaybeAwaitable[Greeting]: ...
        def save(self, *args: object) -> None: ...
        def filter(self, p: BaseModel, ids: Collection[str]) -> set[str]: ...

    assert definition(Free).defined_hooks == {"fetch", "load", "execute", "save", "filter"}


def test_helpers_with_similar_names_are_left_alone() -> None:
    """A name that extends a known one, or is unlike any, is not a typo."""
    space = {"loader": 1, "saved": 2, "executor": 3, "fetch_all": 4, "counts": 5, "users": 6, "load_user": 7}
    assert made(**space)


def test_annotations_that_cannot_be_looked_up_are_not_held_against_a_hook() -> None:
    """Names of a function's inside are unknown when the class is made."""

    async def later(self: object, item_id: str) -> None: ...

    later.__annotations__["item_id"] = "NowhereToBeFound"
    assert made(execute=later)


def test_sequences_and_unions_fit_by_their_members() -> None:
    """A wider parameter and a narrower result are fine."""

    async def keep(self: object, params: Any, ids: Sequence[Any]) -> tuple[str, ...]:
        return ()

    async def work(self: object, item_id: str | int) -> None: ...

    assert made(filter=keep, execute=work)
