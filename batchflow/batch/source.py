"""Walking over pages: one page fetched and checked, and cursors that come round again found out."""

from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from more_itertools import chunked
from pydantic import BaseModel

from batchflow.batch.arguments import ID_DESCRIPTION, find_unencodable, id_text
from batchflow.batch.definition import Definition
from batchflow.batch.workflow import Page
from batchflow.errors import NonRetryable


@dataclass(frozen=True, slots=True)
class FetchedPage:
    """A page as it is worked with: its ids once each, how many were named in all, and where the next page starts.

    `data` are the JSON texts of the items that it brought, in the order of the ids. `ahead`: the message of the next
    page was written together with this.
    """

    ids: list[str]
    next_cursor: str | None
    named: int
    data: list[str] | None = None
    ahead: bool = False

    @property
    def duplicates(self) -> int:
        """How many mentions repeat an id of the same page."""
        return self.named - len(self.ids)

    @property
    def by_id(self) -> dict[str, str] | None:
        """What was brought, by id."""
        return None if self.data is None else dict(zip(self.ids, self.data, strict=True))


@dataclass(frozen=True, slots=True)
class SelectedItems:
    """What is to be started of a page. `marked` are those that the ledger held before the filter named them.

    `brought` are the JSON texts of the items that the page brought, by id.
    """

    ids: list[str]
    marked: tuple[str, ...] = ()
    brought: dict[str, str] | None = None

    @property
    def data(self) -> tuple[str, ...]:
        """What was brought of these, in their order; empty where nothing was."""
        return () if self.brought is None else tuple(self.brought[id] for id in self.ids)

    def first(self, count: int | None) -> "SelectedItems":
        """The first so many; all of them where there is no limit."""
        if count is None or len(self.ids) <= count:
            return self
        return self.without(frozenset(self.ids[count:]))

    def without(self, left_out: Collection[str]) -> "SelectedItems":
        """All but these."""
        return SelectedItems(
            [id for id in self.ids if id not in left_out],
            tuple(id for id in self.marked if id not in left_out),
            self.brought,
        )

    def chunks(self, size: int) -> Iterator["SelectedItems"]:
        """All of it, in pieces of `size`."""
        for ids in chunked(self.ids, size):
            among = frozenset(ids)
            yield SelectedItems(ids, tuple(id for id in self.marked if id in among), self.brought)


class CycleDetector(NamedTuple):
    """Finds a cycle among cursors in constant space (Brent's algorithm).

    The anchor is a cursor seen earlier; it moves ahead each time twice as many steps as before have been made. A
    cycle is found at the latest after three times its length and the way to it, all in all.
    """

    anchor: str | None = None
    power: int = 1
    steps: int = 0

    def advance(self, cursor: str) -> "CycleDetector | None":
        """The probe after one more cursor; None when the walk has been there before."""
        if cursor == self.anchor:
            return None
        if self.steps + 1 == self.power:
            return CycleDetector(cursor, self.power * 2, 0)
        return self._replace(steps=self.steps + 1)


class Source:
    """A workflow's `fetch` and `filter`, with their answers checked."""

    __slots__ = ("_encode_item", "_fetch", "_filter", "_needs_items", "_owner")

    def __init__(
        self,
        definition: Definition,
        fetch: Callable[..., Awaitable[Page]],
        filter: Callable[..., Awaitable[Iterable[str]]],
        encode_item: Callable[[str, Any], str],
    ) -> None:
        """`encode_item` makes the JSON text of an item, and raises for one that cannot be kept."""
        self._owner = definition.class_name
        self._needs_items = definition.needs_items
        self._fetch = fetch
        self._filter = filter
        self._encode_item = encode_item

    async def fetch(self, params: BaseModel, cursor: str | None, limit: int) -> FetchedPage:
        """One page from `cursor` on.

        Raises:
            NonRetryable: what `fetch` returned is no page, has more ids than asked for, an id that is none, or a
                cursor that does not move on.
            TooLarge, UnserializableError: an item that it brought cannot be kept.
        """
        page = self._validate_page(await self._fetch(params, cursor, limit))
        page_ids = self._page_ids(page)
        if len(page_ids) > limit:
            raise NonRetryable(f"{self._owner}.fetch returned {len(page_ids)} ids where at most {limit} were asked for")
        # To look at each costs a third of a dry run, and nearly every page has plain texts.
        plain = set(map(type, page_ids)) <= {str} and all(page_ids)
        ids = list(cast("Sequence[str]", page_ids)) if plain else [self._validate_id(id) for id in page_ids]
        if (invalid_id := find_unencodable(ids)) is not None:
            raise NonRetryable(f"{self._owner}.fetch returned the id {invalid_id!r}, which has no form in UTF-8")
        next_cursor = page.next_cursor or None
        if next_cursor is not None and next_cursor == cursor:
            raise NonRetryable(self._cycle_message(cursor))
        if page.items is None:
            return FetchedPage(list(dict.fromkeys(ids)), next_cursor, len(ids))
        brought = {id: self._encode_item(id, item) for id, item in zip(ids, page.items.values(), strict=True)}
        return FetchedPage(list(brought), next_cursor, len(ids), list(brought.values()))

    async def filter(self, params: BaseModel, ids: Sequence[str]) -> list[str]:
        """Those of `ids` that still need work, in their order.

        Raises:
            NonRetryable: `filter` returned no collection of ids, or one that was not among them.
        """
        if not ids:
            return []
        kept = self._validate_kept(await self._filter(params, ids))
        needed = [id for id in ids if id in kept]
        if len(needed) != len(kept):
            invalid_id = next(iter(kept.difference(ids)))
            raise NonRetryable(f"{self._owner}.filter returned {invalid_id!r}, which is not among the ids it was given")
        return needed

    def advance(self, probe: CycleDetector, cursor: str) -> CycleDetector:
        """The probe after `cursor`.

        Raises:
            NonRetryable: the walk has been there before and would go on for ever.
        """
        advanced = probe.advance(cursor)
        if advanced is None:
            raise NonRetryable(self._cycle_message(cursor))
        return advanced

    def _validate_page(self, page: Any) -> Page:
        if not isinstance(page, Page):
            raise NonRetryable(
                f"{self._owner}.fetch returned {_type_of(page)}; write: return Page(ids=[…], next_cursor=…)"
            )
        if not (page.next_cursor is None or type(page.next_cursor) is str):
            raise NonRetryable(
                f"{self._owner}.fetch returned next_cursor={page.next_cursor!r}; write a string, or None at the end"
            )
        return cast("Page", page)

    def _page_ids(self, page: Page) -> Collection[Any]:
        """The ids of a page, as they were written."""
        ids, items = cast("tuple[Any, Any]", (page.ids, page.items))
        if (ids is None) == (items is None):
            found = "neither ids nor items" if ids is None else "ids and items"
            raise NonRetryable(f"{self._owner}.fetch returned a Page of {found}; write the one or the other")
        if items is not None:
            if not isinstance(items, Mapping):
                raise NonRetryable(
                    f"{self._owner}.fetch returned {_type_of(items)} as the items of its Page; write "
                    f"a mapping of ids to items"
                )
            return cast("Mapping[Any, Any]", items)
        if isinstance(ids, str) or not isinstance(ids, Sequence):
            raise NonRetryable(
                f"{self._owner}.fetch returned {_type_of(ids)} as the ids of its Page; write a list of ids"
            )
        if ids and self._needs_items:
            raise NonRetryable(
                f"{self._owner}.fetch returned ids without items, and the class has no load that makes them; write "
                f"Page(items={{…}}), or load"
            )
        return cast("Sequence[Any]", ids)

    def _validate_id(self, id: object) -> str:
        text = id_text(id)
        if text is None:
            raise NonRetryable(f"{self._owner}.fetch returned the id {id!r}; an id is {ID_DESCRIPTION}")
        return text

    def _validate_kept(self, answer: Any) -> frozenset[str]:
        if isinstance(answer, str) or not isinstance(answer, Iterable):
            raise NonRetryable(
                f"{self._owner}.filter returned {_type_of(answer)}; write a list of the ids that need work"
            )
        kept = {id_text(id): id for id in cast("Iterable[object]", answer)}
        if None in kept:
            raise NonRetryable(f"{self._owner}.filter returned {kept[None]!r}, which is not among the ids it was given")
        return frozenset(cast("dict[str, object]", kept))

    def _cycle_message(self, cursor: str | None) -> str:
        return (
            f"{self._owner}.fetch came back to the cursor {cursor!r}, so its pages would never end; "
            f"next_cursor has to move on, and be None at the end"
        )


def _type_of(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
