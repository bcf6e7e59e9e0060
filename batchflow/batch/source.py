"""The source of a workflow: calls `fetch` and `filter`, checks their results, and detects cycles of cursors."""

from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from pydantic import BaseModel

from batchflow.batch.arguments import ID_DESCRIPTION, find_unencodable, id_text
from batchflow.batch.definition import Definition
from batchflow.batch.workflow import Page
from batchflow.errors import NonRetryable


@dataclass(frozen=True, slots=True)
class FetchedPage:
    """A checked page: its distinct ids, the number of all its ids, and the next cursor.

    `data` are the JSON texts of the items in the page, in the order of the ids. `ahead` is True if the message of the
    next page was written together with this one.
    """

    ids: list[str]
    next_cursor: str | None
    named: int
    data: list[str] | None = None
    ahead: bool = False

    @property
    def duplicates(self) -> int:
        """The number of ids that repeat another id of the page."""
        return self.named - len(self.ids)

    def only(self, ids: Collection[str]) -> "FetchedPage":
        """The same page with these ids alone."""
        kept = [place for place, id in enumerate(self.ids) if id in ids]
        data = None if self.data is None else [self.data[place] for place in kept]
        return FetchedPage([self.ids[place] for place in kept], self.next_cursor, len(kept), data, self.ahead)

    @property
    def by_id(self) -> dict[str, str] | None:
        """The JSON texts of the items, by id."""
        return None if self.data is None else dict(zip(self.ids, self.data, strict=True))


@dataclass(frozen=True, slots=True)
class SelectedItems:
    """The ids of a page that are to be started. `marked` are those that the ledger contained before the filter ran.

    `brought` are the JSON texts of the items in the page, by id.
    """

    ids: list[str]
    marked: tuple[str, ...] = ()
    brought: dict[str, str] | None = None

    @property
    def data(self) -> tuple[str, ...]:
        """The JSON texts of these items, in their order; empty if the page had only ids."""
        return () if self.brought is None else tuple(self.brought[id] for id in self.ids)

    def first(self, count: int | None) -> "SelectedItems":
        """Return the first `count` ids; all of them for None."""
        return self if count is None or len(self.ids) <= count else self._part(self.ids[:count])

    def joined(self, others: "SelectedItems") -> "SelectedItems":
        """Return these ids and further ones."""
        brought = None if others.brought is None else {**(self.brought or {}), **others.brought}
        return SelectedItems([*self.ids, *others.ids], (*self.marked, *others.marked), brought)

    def after(self, count: int) -> "SelectedItems":
        """Return the ids after the first `count`."""
        return self._part(self.ids[count:])

    def without(self, left_out: Collection[str]) -> "SelectedItems":
        """Return all ids except these."""
        return SelectedItems(
            [id for id in self.ids if id not in left_out],
            tuple(id for id in self.marked if id not in left_out),
            self.brought,
        )

    def chunks(self, size: int) -> Iterator["SelectedItems"]:
        """Split the ids into chunks of `size`."""
        for start in range(0, len(self.ids), size):
            yield self._part(self.ids[start : start + size])

    def _part(self, ids: list[str]) -> "SelectedItems":
        among = frozenset(ids)
        return SelectedItems(ids, tuple(id for id in self.marked if id in among), self.brought)


class CycleDetector(NamedTuple):
    """Finds a cycle of cursors in constant space (Brent's algorithm).

    The anchor is an earlier cursor; it moves ahead each time the number of steps has doubled. A cycle is found at the
    latest after three times its length plus the steps before it.
    """

    anchor: str | None = None
    power: int = 1
    steps: int = 0

    def advance(self, cursor: str) -> "CycleDetector | None":
        """Return the detector after one more cursor; None if the cursor closes a cycle."""
        if cursor == self.anchor:
            return None
        if self.steps + 1 == self.power:
            return CycleDetector(cursor, self.power * 2, 0)
        return self._replace(steps=self.steps + 1)


class Source:
    """Calls a workflow's `fetch` and `filter`, and checks their results."""

    __slots__ = ("_encode_item", "_fetch", "_filter", "_needs_items", "_owner")

    def __init__(
        self,
        definition: Definition,
        fetch: Callable[..., Awaitable[Page]],
        filter: Callable[..., Awaitable[Iterable[str]]],
        encode_item: Callable[[str, Any], str],
    ) -> None:
        """`encode_item` returns the JSON text of an item, and raises for one that cannot be stored."""
        self._owner = definition.class_name
        self._needs_items = definition.needs_items
        self._fetch = fetch
        self._filter = filter
        self._encode_item = encode_item

    async def fetch(self, params: BaseModel, cursor: str | None, limit: int) -> FetchedPage:
        """Fetch and check the page at `cursor`.

        Raises:
            NonRetryable: `fetch` did not return a `Page`, or one with more ids than `limit`, an invalid id, or the
                cursor that it was called with.
            TooLarge, UnserializableError: an item of the page cannot be stored.
        """
        page = self._validate_page(await self._fetch(params, cursor, limit))
        page_ids = self._page_ids(page)
        if len(page_ids) > limit:
            raise NonRetryable(f"{self._owner}.fetch returned {len(page_ids)} ids where at most {limit} were asked for")
        # Checking each id takes a third of a dry run, and nearly every page has plain strings.
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
        """Return those of `ids` that need work, in their order.

        Raises:
            NonRetryable: `filter` did not return a collection of ids, or returned one that is not in `ids`.
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
        """Return the detector after `cursor`.

        Raises:
            NonRetryable: the cursor closes a cycle, and the walk would never end.
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
        """Return the unchecked ids of a page."""
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
