"""`DeadLetters`: searching the dead letters of an app, and resuming, restarting and deleting them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Unpack

from batchflow.core.dead_letters import DeadLetter, DeadLetterGroup, DeadLetterQuery
from batchflow.core.flow import FlowControl
from batchflow.core.ids import parse_item_run_id
from batchflow.core.ports import Client, DeadLetterPosition
from batchflow.core.posts import PUSH_DESTINATION
from batchflow.core.retry import RetryPolicy
from batchflow.errors import InputError, NotFoundError
from batchflow.serve.dead_letter_filters import DeadLetterFilter, DeadLetterSelection, parse_filter, select, valid_id
from batchflow.serve.delivery_scope import check_may_wait
from batchflow.serve.runs import read_cursor
from batchflow.serve.validation import format_value, require_key

MAX_PAGE_SIZE = 1_000
"""The maximum number of dead letters of a page."""

MAX_CANARY = 100
"""The maximum number of dead letters that are tried before the others."""

_SLICE = 200
# The dead letters that one transaction changes: others wait only a moment.
_KEPT_IDS = 1_000
_MAX_RETRIES = 1_000


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

    `count` is the number that it was carried out for, `ids` are the first 1,000 of these. `run_ids`, after a resume or
    a restart, are the ids of what runs now, in the same order: on QStash a run goes on under a new id. `refused` are
    the first 1,000 of those that it was not: they were not dead letters any more, a retry of their batch has started
    their item, the batch is being cancelled, or they are posts: messages of `batchflow server`, of which there are
    `posts`. `failed` are those of a canary that have failed again, and because of which the others were left alone.
    """

    count: int = 0
    ids: list[str] = field(default_factory=list[str])
    run_ids: list[str] = field(default_factory=list[str])
    refused: list[str] = field(default_factory=list[str])
    failed: list[str] = field(default_factory=list[str])
    next_cursor: str | None = None
    posts: int = 0

    @property
    def advice(self) -> str | None:
        """A sentence on the posts among those that were refused; None if there are none."""
        return f"{POSTS_ADVICE} ({self.posts:,} left alone)" if self.posts else None

    def add(self, id: str, done: str | bool | None) -> None:
        """Add one of them; `done` may be the id of what runs now."""
        self.count += bool(done)
        named = self.ids if done else self.refused
        if len(named) < _KEPT_IDS:
            named.append(id)
            if isinstance(done, str):
                self.run_ids.append(done)

    def leave(self, posts: Sequence[str]) -> None:
        """Add posts that are left alone."""
        self.posts += len(posts)
        for id in posts:
            self.add(id, False)


POSTS_ADVICE = (
    "messages of 'batchflow server' are delivered again by its REST API, with POST /v2/dlq/retry/ID, and those of its"
    " workflow runs with POST /v2/workflows/dlq/resume/ID or /v2/workflows/dlq/restart/ID"
)
"""The sentence on posts: they are delivered again elsewhere."""


class _Command(NamedTuple):
    """A command: `act` carries it out for an id, and returns False or None if that is impossible.

    With `leaves_posts` it is not for posts: what has ended with one, such as its run, does not go on with it.
    """

    act: Callable[[str], Awaitable[str | bool | None]]
    leaves_posts: bool = False


class DeadLetters:
    """The dead letters of the app, as `flow.dead_letters`: those of its store, and of its QStash if it has one.

        page = await flow.dead_letters.list(workflow="welcome", status=500)
        await flow.dead_letters.resume(page.letters[0].id)
        await flow.dead_letters.resume(group="5d41402abc4b", canary=5)

    Commands take ids, or a filter (`DeadLetterFilter`), or `all=True`. They act on slices of a few hundred, the latest
    first, and return how many they were carried out for: `DeadLetterResult`. Messages of `batchflow server` are neither
    resumed nor restarted here: `DeadLetterResult.advice`.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._letters = client.dead_letter_store

    async def get(self, id: str) -> DeadLetter:
        """A dead letter, whole.

        Raises:
            NotFoundError: there is no such dead letter.
        """
        found = await self._letters.find(valid_id(id))
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
        return await self._letters.groups(parse_filter(filter, "groups"), limit)

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
        command = _Command(self._letters.call_failure_again)
        return await self._act(command, select(ids, all, filter, "callback"), DeadLetterResult())

    async def delete(self, *ids: str, all: bool = False, **filter: Unpack[DeadLetterFilter]) -> DeadLetterResult:
        """Remove them, which cannot be undone; their items stay failed."""
        command = _Command(self._letters.delete)
        return await self._act(command, select(ids, all, filter, "delete"), DeadLetterResult())

    async def act_on_page(
        self,
        command: str,
        selection: DeadLetterSelection,
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
        chosen, result = self._command(command, options), DeadLetterResult()
        if selection.ids is not None:
            await self._act(chosen, selection, result)
        else:
            page = await self._page(selection.query, cursor, limit)
            await self._act_on(chosen, _chosen(chosen, page.letters, result), result)
            result.next_cursor = page.next_cursor
        return result

    def _command(self, command: str, options: DeadLetterOptions) -> _Command:
        match command:
            case "resume" | "restart":
                return self._redriving(options, restart=command == "restart")
            case "callback":
                return _Command(self._letters.call_failure_again)
            case _:
                return _Command(self._letters.delete)

    def _redriving(self, options: DeadLetterOptions, *, restart: bool) -> _Command:
        retry = None if options.retries is None else RetryPolicy(retries=_retries(options.retries))
        flow = require_key(options.flow_control)
        return _Command(partial(self._letters.redrive, restart=restart, retry=retry, flow=flow), leaves_posts=True)

    async def _redrive(
        self, selection: DeadLetterSelection, options: DeadLetterOptions, canary: int | None, *, restart: bool
    ) -> DeadLetterResult:
        command, result = self._redriving(options, restart=restart), DeadLetterResult()
        if canary is None:
            return await self._act(command, selection, result)
        _check_canary(canary)
        check_may_wait(self._client, "a canary of dead letters")
        # What dies from now on belongs to the canary.
        selection = selection.until(self._client.now() + 1)
        first = await self._first(canary, command, selection)
        await self._act_on(command, first, result)
        ended = await asyncio.gather(*map(self._succeeded, result.run_ids))
        result.failed = [id for id, succeeded in zip(result.ids, ended, strict=True) if not succeeded]
        return result if result.failed else await self._act(command, selection.without(first), result)

    async def _first(self, count: int, command: _Command, selection: DeadLetterSelection) -> Sequence[str]:
        first: list[str] = []
        async for ids in self._slices(selection, count, command, DeadLetterResult()):
            first += ids[: count - len(first)]
            if len(first) == count:
                break
        return first

    async def _act(
        self, command: _Command, selection: DeadLetterSelection, result: DeadLetterResult
    ) -> DeadLetterResult:
        async for ids in self._slices(selection, _SLICE, command, result):
            await self._act_on(command, ids, result)
        return result

    async def _act_on(self, command: _Command, ids: Sequence[str], result: DeadLetterResult) -> None:
        for start in range(0, len(ids), _SLICE):
            part = ids[start : start + _SLICE]
            # Commands of one moment share a transaction.
            for id, done in zip(part, await asyncio.gather(*map(command.act, part)), strict=True):
                result.add(id, done)

    async def _slices(
        self, selection: DeadLetterSelection, size: int, command: _Command, result: DeadLetterResult
    ) -> AsyncIterator[Sequence[str]]:
        """The ids that a command is for; the result gets those that it leaves alone."""
        if selection.ids is not None:
            for start in range(0, len(selection.ids), size):
                ids = selection.ids[start : start + size]
                posts: Sequence[str] = await self._letters.posts(ids) if command.leaves_posts else ()
                result.leave(posts)
                yield [id for id in ids if id not in posts]
            return
        after: DeadLetterPosition | None = None
        while True:
            found, after = await self._letters.page(selection.query, size, after)
            yield _chosen(command, [it for it in found if it.id not in selection.left_out], result)
            if after is None:
                return

    async def _page(self, query: DeadLetterQuery, cursor: str | None, limit: int) -> DeadLetterPage:
        found, after = await self._letters.page(query, limit, None if cursor is None else read_cursor(cursor))
        return DeadLetterPage(letters=found, next_cursor=after and f"{after[0]}.{after[1]}")

    async def _succeeded(self, id: str) -> bool:
        """Wait for the end of a redriven message; False if it has failed again."""

        async def look() -> bool | None:
            if await self._letters.find(id) is not None:
                return False
            item = parse_item_run_id(id)
            run = await (self._client.run_store if item is None else self._client.store).run(id)
            if run is not None:
                return None if run.state in ("waiting", "running") else run.state == "completed"
            # The run of an item that has succeeded is not kept, nor is a call.
            if item is None:
                return True
            found = await self._client.store.items(item[0], after=item[1] - 1, limit=1, results=False)
            return bool(found) and found[0].number == item[1] and found[0].state == "succeeded"

        return bool(await self._client.ended(id, look, None))


def is_post(letter: DeadLetter) -> bool:
    """True for a message of `batchflow server`."""
    return letter.message.destination == PUSH_DESTINATION


def _chosen(command: _Command, letters: Sequence[DeadLetter], result: DeadLetterResult) -> list[str]:
    """The ids of those that a command is for; the result gets those that it leaves alone."""
    posts = [it.id for it in letters if command.leaves_posts and is_post(it)]
    result.leave(posts)
    return [it.id for it in letters if it.id not in posts]


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
