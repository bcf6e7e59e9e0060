"""Pages that bring items, and ids that are numbers or UUIDs."""

import enum
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from batchflow import Batchflow, BatchWorkflow, FlowControl, NonRetryable, NoParams, Page, WorkflowContext
from batchflow.batch.arguments import id_text
from batchflow.core.codec import SizeLimit
from batchflow.core.dead_letters import DeadLetterQuery
from batchflow.errors import ConfigurationError, InputError
from batchflow.testing import Environment


class User(BaseModel):
    name: str
    zone: str = "UTC"


USERS = {f"u{number}": User(name=f"name {number}", zone="Europe/Rome") for number in range(7)}


class Greet(BatchWorkflow[NoParams, User, str]):
    """Its pages bring the users, and nothing loads one."""

    entity = "user"
    chunk_size = 3
    entry_flow = execute_flow = None
    paginate_flow = FlowControl(rate=1)

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page[User]:
        return Page(items=USERS)

    async def execute(self, user: User) -> str:
        return f"{self.item_id}: {user.name} in {user.zone}"


class Walking(Greet):
    name = "greet"
    walk_first = True


class Loading(Greet):
    """The same with a `load`, which is not called for what a page has brought."""

    def __init__(self) -> None:
        self.loaded: list[str] = []

    async def load(self, user_id: str) -> User | None:
        self.loaded.append(user_id)
        return User(name="loaded")


@pytest.fixture
def flow() -> Batchflow:
    return Batchflow("sqlite://")


ID_DESCRIPTION = {id: f"{id}: {user.name} in {user.zone}" for id, user in USERS.items()}


@pytest.mark.parametrize("walk_first", [False, True])
@pytest.mark.parametrize("always_replay", [False, True])
async def test_items_that_a_page_brings_need_no_load(flow: Batchflow, walk_first: bool, always_replay: bool) -> None:
    """Each is kept with the batch, whatever chunk it comes in, and is what `get-item` returns."""
    greet = flow.add(Walking() if walk_first else Greet())
    async with Environment(flow, always_replay=always_replay) as env:
        assert (await greet.dry_run()).to_process == 7
        batch = await env.run(greet)
        assert batch.results == ID_DESCRIPTION
        assert "greet:get-item" in env.runs[-1].steps


async def test_load_is_called_for_ids_alone(flow: Batchflow) -> None:
    """Items of a page are not loaded; ids of a trigger are."""
    made = Loading()
    greet = flow.add(made)
    async with Environment(flow) as env:
        await greet.mark(["u1", "u5"])
        batch = await env.run(greet)
        assert batch.results == {id: text for id, text in ID_DESCRIPTION.items() if id not in ("u1", "u5")}
        assert made.loaded == []
        assert (await env.run(greet, ids=["u1"])).results == {"u1": "u1: loaded in UTC"}
        assert made.loaded == ["u1"]


async def test_an_item_is_kept_until_it_has_ended(flow: Batchflow) -> None:
    """A retry, and a dead letter that is redriven, get the same one."""

    class Failing(Greet):
        broken = True

        async def process(self, ctx: WorkflowContext[NoParams], item: User) -> str:
            if self.broken:
                raise NonRetryable("not yet")
            return await super().process(ctx, item)

    made = Failing()
    greet = flow.add(made)
    async with Environment(flow) as env:
        batch = await env.run(greet)
        assert batch.summary.counts.failed == 7
        made.broken = False
        for letter in await flow.engine.store.dead_letters(DeadLetterQuery(batch=batch.id)):
            assert await flow.engine.store.redrive(letter.id)
        await env.drive()
        assert {id: text async for id, text in greet.batch(batch.id).results()} == ID_DESCRIPTION


async def test_a_page_may_bring_nothing_for_an_id(flow: Batchflow) -> None:
    """None means that there is no item, as for `load`."""

    class Gone(Greet):
        async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page[Any]:
            return Page(items={1: User(name="a"), 2: None})

    greet = flow.add(Gone())
    async with Environment(flow) as env:
        batch = await env.run(greet)
        assert (batch.summary.counts.succeeded, batch.summary.counts.failed) == (1, 1)
        assert [item.error async for item in batch.handle.items("failed")] == ["Item not found"]


async def test_ids_without_a_load_are_refused(flow: Batchflow) -> None:
    """By the trigger that names them, and by the page."""

    class Mixed(Greet):
        async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page[User]:
            return Page(ids=["u1"])

    greet = flow.add(Mixed())
    async with Environment(flow) as env:
        with pytest.raises(InputError) as refused:
            await greet.trigger(ids=["u1"])
        assert str(refused.value) == (
            "'mixed' takes its items from the pages of fetch, and has no load that makes one of an id; leave 'ids' "
            "out, or write load"
        )
        assert (
            "Mixed.fetch returned ids without items, and the class has no load that makes them; write Page(items={…}), "
            "or load"
        ) in ((await env.run(greet)).summary.error or "")


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        (User(name="x" * 5_000), "item 'u1' that Odd.fetch returned"),
        ("no user", "UnserializableError: item 'u1' that Odd.fetch returned"),
    ],
)
async def test_an_item_that_cannot_be_kept_breaks_the_page_off(flow: Batchflow, item: Any, sentence: str) -> None:
    """At once, with a sentence that names it: one that is too large, or of another type."""

    class Odd(Greet):
        async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page[User]:
            return Page(items={"u1": item})

    greet = flow.add(Odd())
    flow.engine.limit = SizeLimit(4_000)
    async with Environment(flow) as env:
        summary = (await env.run(greet)).summary
        assert summary.state == "failed"
        assert sentence in (summary.error or "")
        assert "failed after 1 attempt" in (summary.error or "")


async def test_numbers_and_uuids_are_taken_as_text(flow: Batchflow) -> None:
    """In a page, in what a filter returns, in a trigger, and in what is asked of the ledger."""
    uuid = UUID("12345678123456781234567812345678")

    class Rows(BatchWorkflow[NoParams, str, str]):
        entity = "row"

        async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
            return Page(ids=[1, 2, 2, "2", uuid])

        def filter(self, params: NoParams, ids: Any) -> Any:
            return [int(id) for id in ids if id.isdecimal()] + [uuid]

        async def execute(self, row_id: str) -> str:
            return f"row {row_id}"

    rows = flow.add(Rows())
    async with Environment(flow) as env:
        batch = await env.run(rows)
        assert batch.results == {id: f"row {id}" for id in ("1", "2", str(uuid))}
        assert batch.summary.counts.duplicates == 2
        assert await rows.processed([1, uuid, 3]) == {"1", str(uuid)}
        assert await rows.forget([1, uuid]) == 2
        await rows.mark([7])
        assert (await env.run(rows, ids=[8, uuid])).results == {"8": "row 8", str(uuid): f"row {uuid}"}


class Word(str, enum.Enum):  # noqa: UP042
    ONE = "one"


class Number(int, enum.Enum):
    ONE = 1


@pytest.mark.parametrize(
    ("value", "text"),
    [("a", "a"), (0, "0"), (-7, "-7"), (Word.ONE, "one"), (Number.ONE, "1"), (UUID(int=1), str(UUID(int=1)))]
    + [(wrong, None) for wrong in (True, "", 1.5, b"a", None, ("a",))],
)
def test_an_id_is_text_a_number_or_a_uuid(value: object, text: str | None) -> None:
    """Any other value is not an id."""
    assert id_text(value) == text


def test_pages_that_bring_something_else_are_refused_with_the_class() -> None:
    """The declared items of `fetch` have to match the item type."""
    with pytest.raises(ConfigurationError) as refused:

        class Wrong(Greet):  # pyright: ignore[reportUnusedClass]: it is refused
            async def fetch(  # type: ignore[override]
                self, params: NoParams, cursor: str | None, limit: int
            ) -> Page[int]:
                return Page(items={"a": 1})

    assert str(refused.value) == "Wrong.fetch declares that its pages bring int, not User; write -> Page[User]"
