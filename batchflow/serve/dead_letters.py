"""`DeadLetters`: searching the dead letters of an app, and resuming, restarting and deleting them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import NamedTuple, TypedDict, Unpack, cast

from batchflow.core.dead_letters import DeadLetter, DeadLetterGroup, DeadLetterQuery
from batchflow.core.flow import FlowControl
from batchflow.core.ids import parse_item_run_id
from batchflow.core.ports import Client
from batchflow.core.retry import RetryPolicy
from batchflow.core.suggestions import check_options
from batchflow.errors import InputError, NotFoundError
from batchflow.serve.delivery_scope import check_may_wait
from batchflow.serve.runs import read_cursor
from batchflow.serve.validation import format_value, is_valid_text, require_key, validate_text

MAX_PAGE_SIZE = 1_000
"""The maximum number of dead letters of a page."""

MAX_CANARY = 100
"""The maximum number of dead letters that are tried before the others."""

_SLICE = 200
# The dead letters that one transaction changes: others wait only a moment.
_KEPT_IDS = 1_000
_MAX_RETRIES = 1_000


class DeadLetterFilter(TypedDict, total=False):
    """The dead letters that are meant: all parts have to match.

    `workflow` is the name of a batch workflow or the route of a function, `url` the URL or route of an endpoint,
    `run_id` that of the run, `group` a fingerprint of `groups`. `since` and `until` (not included) are times of death.
    """

    workflow: str | None
    url: str | None
    run_id: str | None
    batch_id: str | None
    item: str | None
    label: str | None
    status: int | None
    group: str | None
    since: datetime | None
    until: datetime | None


_TEXTS = {
    "workflow": "the name of a workflow or the route of a function",
    "url": "the URL or the route of an endpoint",
    "run_id": "the id of a run",
    "batch_id": "the id of a batch",
    "item": "the id of an item",
    "label": "the label of a run or batch",
    "group": "the fingerprint of a group",
}
_FIELDS = {"url": "destination", "run_id": "run", "batch_id": "batch", "group": "fingerprint"}
FILTER_NAMES = (*_TEXTS, "status", "since", "until")
"""The names of the parts of a filter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterPage:
    """A page of dead letters, the latest first. `next_cursor` is the cursor of the next page, or None.

    They are without bodies, headers, journals and attempts: `dead_letters.get(id)` reads those.
    """

    letters: Sequence[DeadLetter]
    next_cursor: str | None = None


class DeadLetterOptions(NamedTuple):
    """Retries and limits that a redriven message gets instead of its own; None leaves its own."""

    retries: int | None = None
    flow_control: FlowControl | None = None


@dataclass(slots=True)
class DeadLetterResult:
    """The result of a command for dead letters.

    `count` is the number that it was carried out for, `ids` are the first 1,000 of these. `refused` are the first 1,000
    of those that it was not: they were not dead letters any more, a retry of their batch has started their item, or the
    batch is being cancelled. `failed` are those of a canary that have failed again, and because of which the others
    were left alone.
    """

    count: int = 0
    ids: list[str] = field(default_factory=list[str])
    refused: list[str] = field(default_factory=list[str])
    failed: list[str] = field(default_factory=list[str])
    next_cursor: str | None = None

    def add(self, id: str, done: bool) -> None:
        """Add one of them."""
        self.count += done
        named = self.ids if done else self.refused
        if len(named) < _KEPT_IDS:
            named.append(id)


Act = Callable[[str], Awaitable[bool]]


class DeadLetters:
    """The dead letters of the app's store, as `flow.dead_letters`.

        page = await flow.dead_letters.list(workflow="welcome", status=500)
        await flow.dead_letters.resume(page.letters[0].id)
        await flow.dead_letters.resume(group="5d41402abc4b", canary=5)

    Commands take ids, or a filter (`DeadLetterFilter`), or `all=True`. They act on slices of a few hundred, the latest
    first, and return how many they were carried out for: `DeadLetterResult`.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    async def get(self, id: str) -> DeadLetter:
        """A dead letter, whole.

        Raises:
            NotFoundError: there is no such dead letter.
        """
        found = await self._client.store.dead_letter(_id(id))
        if found is None:
            raise NotFoundError(
                f"there is no dead letter '{id}'; it was resumed or deleted, or retention has removed it"
            )
        return found

    async def list(
        self, *, cursor: str | None = None, limit: int = 50, **filter: Unpack[DeadLetterFilter]
    ) -> DeadLetterPage:
        """A page of dead letters, the latest first.

        Raises:
            InputError: a part of the filter, the cursor or the limit is not valid.
        """
        _check_limit(limit)
        query = parse_filter(filter, "list")
        return await self._page(query, cursor, limit)

    async def groups(self, *, limit: int = 100, **filter: Unpack[DeadLetterFilter]) -> Sequence[DeadLetterGroup]:
        """Dead letters by the fingerprint of their error, the largest group first.

        Raises:
            InputError: a part of the filter or the limit is not valid.
        """
        _check_limit(limit)
        return await self._client.store.dead_letter_groups(parse_filter(filter, "groups"), limit)

    async def resume(
        self,
        *ids: str,
        all: bool = False,
        retries: int | None = None,
        flow_control: FlowControl | None = None,
        canary: int | None = None,
        **filter: Unpack[DeadLetterFilter],
    ) -> DeadLetterResult:
        """Let them go on from where they failed: recorded steps stay, the one that failed runs again.

        An item is open again, and so is its batch, which completes once more. `retries` and `flow_control` take the
        place of their own. With `canary=5` five of them go first, and the others only once all of these have
        succeeded: the call waits for them, and returns with `failed` if one has failed again.

        Raises:
            InputError: nothing is selected, or an option is not valid.
        """
        options = DeadLetterOptions(retries, flow_control)
        return await self._redrive(select(ids, all, filter, "resume"), options, canary, restart=False)

    async def restart(
        self,
        *ids: str,
        all: bool = False,
        retries: int | None = None,
        flow_control: FlowControl | None = None,
        canary: int | None = None,
        **filter: Unpack[DeadLetterFilter],
    ) -> DeadLetterResult:
        """Let them run from the beginning: recorded steps are dropped. Otherwise as `resume`."""
        options = DeadLetterOptions(retries, flow_control)
        return await self._redrive(select(ids, all, filter, "restart"), options, canary, restart=True)

    async def callback(self, *ids: str, all: bool = False, **filter: Unpack[DeadLetterFilter]) -> DeadLetterResult:
        """Call their failure functions or URLs again; `refused` are those without one, or whose call has not ended."""
        return await self._act(self._client.admin.call_failure_again, select(ids, all, filter, "callback"))

    async def delete(self, *ids: str, all: bool = False, **filter: Unpack[DeadLetterFilter]) -> DeadLetterResult:
        """Remove them, which cannot be undone; their items stay failed."""
        return await self._act(self._client.admin.delete_dead_letter, select(ids, all, filter, "delete"))

    async def act_on_page(
        self,
        command: str,
        selection: "DeadLetterSelection",
        options: DeadLetterOptions,
        *,
        cursor: str | None,
        limit: int,
    ) -> DeadLetterResult:
        """Carry a command out for the ids, or for one page of the filter: then `next_cursor` is that of the next one.

        Raises:
            InputError: an option, the cursor or the limit is not valid.
        """
        _check_limit(limit)
        act, result = self._command(command, options), DeadLetterResult()
        if selection.ids:
            await self._act_on(act, selection.ids, result)
        else:
            page = await self._page(selection.query, cursor, limit)
            await self._act_on(act, [letter.id for letter in page.letters], result)
            result.next_cursor = page.next_cursor
        return result

    def _command(self, command: str, options: DeadLetterOptions) -> Act:
        admin = self._client.admin
        match command:
            case "resume" | "restart":
                return self._redriving(options, restart=command == "restart")
            case "callback":
                return admin.call_failure_again
            case _:
                return admin.delete_dead_letter

    def _redriving(self, options: DeadLetterOptions, *, restart: bool) -> Act:
        retry = None if options.retries is None else RetryPolicy(retries=_retries(options.retries))
        return partial(self._client.admin.redrive, restart=restart, retry=retry, flow=require_key(options.flow_control))

    async def _redrive(
        self, selection: "DeadLetterSelection", options: DeadLetterOptions, canary: int | None, *, restart: bool
    ) -> DeadLetterResult:
        act = self._redriving(options, restart=restart)
        if canary is None:
            return await self._act(act, selection)
        _check_canary(canary)
        check_may_wait(self._client, "a canary of dead letters")
        # What dies from now on belongs to the canary.
        selection = selection.until(self._client.now() + 1)
        first = [id async for ids in self._slices(selection, canary) for id in ids][:canary]
        result = DeadLetterResult()
        await self._act_on(act, first, result)
        ended = await asyncio.gather(*map(self._succeeded, result.ids))
        result.failed = [id for id, succeeded in zip(result.ids, ended, strict=True) if not succeeded]
        return result if result.failed else await self._act(act, selection.without(first), result)

    async def _act(
        self, act: Act, selection: "DeadLetterSelection", result: DeadLetterResult | None = None
    ) -> DeadLetterResult:
        result = result or DeadLetterResult()
        async for ids in self._slices(selection, _SLICE):
            await self._act_on(act, ids, result)
        return result

    async def _act_on(self, act: Act, ids: Sequence[str], result: DeadLetterResult) -> None:
        for start in range(0, len(ids), _SLICE):
            part = ids[start : start + _SLICE]
            # Commands of one moment share a transaction.
            for id, done in zip(part, await asyncio.gather(*map(act, part)), strict=True):
                result.add(id, done)

    async def _slices(self, selection: "DeadLetterSelection", size: int) -> AsyncIterator[Sequence[str]]:
        if selection.ids:
            for start in range(0, len(selection.ids), size):
                yield selection.ids[start : start + size]
            return
        before: tuple[int, str] | None = None
        while found := await self._client.store.dead_letters(selection.query, size, before):
            before = found[-1].died_at, found[-1].id
            if ids := [letter.id for letter in found if letter.id not in selection.left_out]:
                yield ids

    async def _page(self, query: DeadLetterQuery, cursor: str | None, limit: int) -> DeadLetterPage:
        before = None if cursor is None else read_cursor(cursor)
        found = await self._client.store.dead_letters(query, limit + 1, before)
        last = found[limit - 1] if len(found) > limit else None
        return DeadLetterPage(letters=found[:limit], next_cursor=last and f"{last.died_at}.{last.id}")

    async def _succeeded(self, id: str) -> bool:
        """Wait for the end of a redriven message; False if it has failed again."""

        async def look() -> bool | None:
            store = self._client.store
            if await store.dead_letter(id) is not None:
                return False
            run = await store.run(id)
            if run is not None:
                return None if run.state in ("waiting", "running") else run.state == "completed"
            # The run of an item that has succeeded is not kept, nor is a call.
            if (item := parse_item_run_id(id)) is None:
                return True
            found = await store.items(item[0], after=item[1] - 1, limit=1, results=False)
            return bool(found) and found[0].number == item[1] and found[0].state == "succeeded"

        return bool(await self._client.ended(id, look, None))


class DeadLetterSelection(NamedTuple):
    """The dead letters that a command is for: these ids, or those that match; `left_out` are not among the latter."""

    ids: tuple[str, ...] = ()
    query: DeadLetterQuery = DeadLetterQuery()
    left_out: frozenset[str] = frozenset()

    def until(self, at: int) -> "DeadLetterSelection":
        """Those of them that died before this time."""
        limit = at if self.query.until is None else min(at, self.query.until)
        return self._replace(query=self.query._replace(until=limit))

    def without(self, ids: Sequence[str]) -> "DeadLetterSelection":
        """All but these."""
        return self._replace(ids=tuple(id for id in self.ids if id not in ids), left_out=frozenset(ids))


def select(ids: Sequence[str], all: bool, filter: DeadLetterFilter, command: str) -> DeadLetterSelection:
    """The selection of these ids, of this filter, or of all, for a command.

    Raises:
        InputError: nothing is selected, ids are given beside a filter, or a part is not valid.
    """
    query = parse_filter(filter, command)
    narrowed = query != DeadLetterQuery()
    if ids and (narrowed or all):
        raise InputError("name the dead letters by their ids or by a filter, not both", field="ids")
    if not ids and not narrowed and all is not True:
        raise InputError("say which dead letters: their ids, a filter, or all of them", field="ids")
    return DeadLetterSelection(tuple(dict.fromkeys(_id(id) for id in ids)), query)


def parse_filter(filter: DeadLetterFilter, command: str) -> DeadLetterQuery:
    """A filter as the store has it.

    Raises:
        InputError: a part is unknown or not valid.
    """
    given = {name: value for name, value in cast("dict[str, object]", filter).items() if value is not None}
    check_options(f"dead_letters.{command}", [it for it in given if it not in FILTER_NAMES], FILTER_NAMES)
    found: dict[str, object] = {}
    for name, value in given.items():
        if name in _TEXTS:
            make = partial(InputError, field=name)
            found[_FIELDS.get(name, name)] = validate_text(f"'{name}'", value, make, _TEXTS[name])
        elif name == "status":
            if isinstance(value, bool) or not isinstance(value, int) or not 100 <= value <= 999:
                raise InputError(option=name, got=format_value(value), want="write a status such as 500 or 504")
            found[name] = value
        else:
            found[name] = _time(name, value)
    return DeadLetterQuery(**cast("dict[str, None]", found))


def _time(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (datetime, int)):
        raise InputError(option=name, got=format_value(value), want="write a datetime with its time zone")
    if isinstance(value, int):
        return value
    if value.tzinfo is None:
        raise InputError(option=name, got=format_value(value), want="give it a time zone, such as tzinfo=UTC")
    return int(value.timestamp() * 1000)


def _id(id: object) -> str:
    if not is_valid_text(id) or not id:
        raise InputError(option="ids", got=format_value(id), want="write the id of a dead letter")
    return cast("str", id)


def _retries(retries: object) -> int:
    if isinstance(retries, bool) or not isinstance(retries, int) or not 0 <= retries <= _MAX_RETRIES:
        want = f"write a number from 0 to {_MAX_RETRIES:,}"
        raise InputError(option="retries", got=format_value(retries), want=want)
    return retries


def _check_limit(limit: object) -> None:
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_PAGE_SIZE:
        raise InputError(option="limit", got=format_value(limit), want=f"write a number from 1 to {MAX_PAGE_SIZE:,}")


def _check_canary(canary: object) -> None:
    if isinstance(canary, bool) or not isinstance(canary, int) or not 1 <= canary <= MAX_CANARY:
        raise InputError(option="canary", got=format_value(canary), want=f"write a number from 1 to {MAX_CANARY}")
