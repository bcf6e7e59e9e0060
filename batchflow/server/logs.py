"""The routes of the log: what happened to the messages of a tenant."""

from collections import deque
from collections.abc import AsyncIterator
from typing import Any, NamedTuple, get_args

from fastapi import APIRouter, Request, Response
from pydantic_core import from_json

from batchflow.core.posts import LAST_STATES, LogEntry, LogState
from batchflow.core.suggestions import did_you_mean
from batchflow.core.wire_store import Posts
from batchflow.errors import InputError
from batchflow.server.answers import json_answer
from batchflow.server.context import Context, Tenant
from batchflow.server.filters import DATE_FILTERS, MESSAGE_FILTERS, Filters, filter_parameters
from batchflow.wire.messages import event_json

router = APIRouter(prefix="/v2", tags=["logs"])

MAX_COUNT = 1000
"""The largest number of events in one answer."""

MAX_LOOKED_AT = 10_000
"""The number of entries that one request looks at; if there are more, its answer has a cursor."""

_MAX_CHARS = 8_000_000
_PAGE = 100
_FILTERS = {
    **MESSAGE_FILTERS,
    **DATE_FILTERS,
    "state": "the state; IN_PROGRESS stands for all but DELIVERED, FAILED and CANCELED",
    "order": "latestFirst; or earliestFirst, with at most 100 events in an answer",
    "count": f"the largest number of events, at most {MAX_COUNT}",
    "cursor": "the cursor of the page before",
}
_PARAMETERS = filter_parameters(_FILTERS)
_STATES: frozenset[LogState] = frozenset(get_args(LogState))
_IN_PROGRESS = "IN_PROGRESS"
_ORDERS = ("latestFirst", "earliestFirst")
# Machines that write the log may have slightly different times.
_SKEW_MS = 60_000


class _Page(NamedTuple):
    """Events with the cursor of the next ones."""

    events: list[dict[str, Any]]
    cursor: str | None

    def answer(self, name: str) -> Response:
        last = {} if self.cursor is None else {"cursor": self.cursor}
        return json_answer({name: self.events, **last})


@router.get("/events", summary="Events of the log", openapi_extra=_PARAMETERS, response_class=Response)
async def list_events(context: Context, tenant: Tenant, request: Request) -> Response:
    """All filters have to match. With a cursor there may be more events, also after a page without any."""
    return (await _find(context.wire, tenant, Filters(request, _FILTERS))).answer("events")


@router.get("/logs", summary="Events of the log, as `logs`", openapi_extra=_PARAMETERS, response_class=Response)
async def list_logs(context: Context, tenant: Tenant, request: Request) -> Response:
    """As for events."""
    return (await _find(context.wire, tenant, Filters(request, _FILTERS))).answer("logs")


class _Looked(NamedTuple):
    """An entry of the log, its key and the description of its message."""

    key: int
    entry: LogEntry
    description: str

    @property
    def chars(self) -> int:
        return len(self.entry.detail) + len(self.description)


class _Search:
    """A search of the log of a tenant."""

    def __init__(self, posts: Posts, tenant: str, filters: Filters) -> None:
        self._posts = posts
        self._tenant = tenant
        self._filters = filters
        self._count = filters.count(MAX_COUNT)
        # The Python SDK sends an empty one for the first page.
        self._cursor = filters.number("cursor") if filters.one("cursor") else None
        self._states = _read_states(filters)
        ids = [*filters.all("messageId"), *filters.all("messageIds")]
        # The log of one message is short.
        self._message = ids[0] if len(ids) == 1 else None

    async def latest_first(self) -> _Page:
        """The events below the cursor."""
        events: list[dict[str, Any]] = []
        looked_at = chars = key = 0
        async for it in self._entries(self._cursor):
            if len(events) == self._count or looked_at == MAX_LOOKED_AT or chars > _MAX_CHARS:
                return _Page(events, str(key))
            key = it.key
            looked_at += 1
            if self._matches(it):
                events.append(event_json(it.entry, it.description))
                chars += it.chars
        return _Page(events, None)

    async def earliest_first(self) -> _Page:
        """The events above the cursor, at most `_PAGE` of them.

        Raises:
            InputError: the log is too long to look for its beginning.
        """
        count = min(self._count, _PAGE)
        # The one more tells whether there is a next page.
        found: deque[_Looked] = deque(maxlen=count + 1)
        looked_at = 0
        async for it in self._entries(None):
            if it.key <= (self._cursor or 0):
                break
            looked_at += 1
            if looked_at > MAX_LOOKED_AT:
                raise InputError(
                    f"'order' cannot be 'earliestFirst' for more than {MAX_LOOKED_AT:,} entries of the log; "
                    "give 'messageId' or a later 'fromDate'",
                    field="order",
                )
            if self._matches(it):
                found.append(it)
        shown = [*reversed(found)][:count]
        return _Page(
            [event_json(it.entry, it.description) for it in shown],
            str(shown[-1].key) if len(found) > count else None,
        )

    async def _entries(self, before: int | None) -> AsyncIterator[_Looked]:
        """The entries, the latest first, down to the earliest time that is asked for."""
        while page := await self._posts.log_entries(self._tenant, before=before, limit=_PAGE, message=self._message):
            before = page[-1].key
            created = await self._posts.created_entries(self._tenant, list({it.entry.message for it in page}))
            for key, entry in page:
                if entry.at < self._filters.earliest - _SKEW_MS:
                    return
                if (about := created.get(entry.message)) is not None:
                    yield _Looked(key, entry, about.detail)

    def _matches(self, looked: _Looked) -> bool:
        entry = looked.entry
        return (
            (self._states is None or entry.state in self._states)
            and self._filters.covers(entry.at)
            and self._filters.matches(from_json(looked.description))
        )


async def _find(posts: Posts, tenant: str, filters: Filters) -> _Page:
    order = filters.one("order") or _ORDERS[0]
    if order not in _ORDERS:
        raise InputError(option="order", got=repr(order[:60]), want="write latestFirst or earliestFirst")
    search = _Search(posts, tenant, filters)
    return await (search.latest_first() if order == _ORDERS[0] else search.earliest_first())


def _read_states(filters: Filters) -> frozenset[str] | None:
    """The states that are asked for; None for all."""
    if "state" not in filters:
        return None
    states: set[str] = set()
    for state in filters.all("state"):
        if state == _IN_PROGRESS:
            states |= _STATES - LAST_STATES
        elif state in _STATES:
            states.add(state)
        else:
            raise InputError(f"unknown state '{state[:60]}'{did_you_mean(state, [*_STATES, _IN_PROGRESS])}")
    return frozenset(states)
