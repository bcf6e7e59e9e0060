"""The entries of the DLQ: those that match the filters of a request, and one by its id."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic_core import from_json, to_json

from batchflow.core.dead_letters import DeadLetter, DeadLetterQuery
from batchflow.core.posts import PUSH_DESTINATION
from batchflow.errors import InputError, NotFoundError
from batchflow.server.context import ServerContext
from batchflow.server.filters import DATE_FILTERS, POST_FILTERS, Filters
from batchflow.server.run_histories import failure_callbacks
from batchflow.wire.envelope import ENDING_CALL_TYPES, Envelope
from batchflow.wire.messages import message_json

MAX_COUNT = 100
"""The largest number of entries in one answer."""

RUN_FILTERS: Mapping[str, str] = {
    "workflowUrl": "the URL of the workflow",
    "workflowRunId": "the id of the workflow run",
    "workflowCreatedAt": "the time in ms at which the workflow run began",
    "failureFunctionState": "the state of the failure callback, such as CALLBACK_FAIL",
}
"""The filters of entries by their workflow run."""

DLQ_FILTERS: Mapping[str, str] = {
    **POST_FILTERS,
    **DATE_FILTERS,
    **RUN_FILTERS,
    "dlqIds": "the ids of entries",
    "responseStatus": "the status of the last response",
    "source": "workflow: only entries of workflow runs",
    "count": f"the largest number of entries, at most {MAX_COUNT}",
    "cursor": "the cursor of the page before",
}
"""The filters of entries."""

_MAX_CHARS = 8_000_000
# A page with more ends before its count: the descriptions of messages have their bodies.
_PAGE = 100
_WORKFLOW = "workflow"
_ENDED = 503


class FoundEntries(NamedTuple):
    """Entries as the REST API shows them, the newest first, and the cursor of the next ones."""

    entries: list[dict[str, Any]]
    cursor: str | None = None

    @property
    def ids(self) -> list[str]:
        """Their ids."""
        return [it["dlqId"] for it in self.entries]


class _Candidate(NamedTuple):
    """An entry with its time of death in ms and the description of its message."""

    at: int
    id: str
    description: dict[str, Any]
    chars: int


async def find_entries(
    context: ServerContext, tenant: str, filters: Filters, *, most: int = MAX_COUNT, of_runs: bool | None = None
) -> FoundEntries:
    """The newest entries that match; with `of_runs` only those of workflow runs, or only the others."""
    source = filters.one("source")
    if source not in (None, _WORKFLOW):
        want = "write workflow, or leave it out"
        raise InputError(option="source", got=repr(source[:60]), want=want, field="source", status=400)
    if of_runs is None and source is not None:
        of_runs = True
    count, found, chars, last = filters.count(most), list[dict[str, Any]](), 0, ""
    async for page in _pages(context, tenant, filters):
        candidates = [it for it in page if _may_match(it, filters, of_runs)]
        entries = await _entries(context, tenant, [(it.id, it.description) for it in candidates])
        for candidate, entry in zip(candidates, entries, strict=True):
            if entry is None or not _matches(entry, filters):
                continue
            if len(found) == count or chars > _MAX_CHARS:
                return FoundEntries(found, last)
            found.append(entry)
            chars += candidate.chars
            last = f"{candidate.at}-{candidate.id}"
    return FoundEntries(found)


async def found_letter(context: ServerContext, tenant: str, id: str) -> DeadLetter | None:
    """The dead letter of an entry; None if it is not one of a tenant's messages."""
    found = await context.store.dead_letter(id)
    if found is None or found.message.destination != PUSH_DESTINATION or found.message.label != tenant:
        return None
    return found


async def present_entry(
    context: ServerContext, tenant: str, id: str, *, of_runs: bool | None = None
) -> tuple[DeadLetter, dict[str, Any]]:
    """An entry, with its JSON; with `of_runs` only one of a workflow run counts.

    Raises:
        NotFoundError: it does not exist.
    """
    letter = await found_letter(context, tenant, id)
    description = {} if letter is None else _description(letter)
    if letter is not None and (not of_runs or is_of_run(description)):
        (entry,) = await _entries(context, tenant, [(id, description)])
        if entry is not None:
            return letter, entry
    kind = "entry of a workflow run" if of_runs else "entry"
    raise NotFoundError(f"there is no {kind} '{id}' in the DLQ; it may have been retried or deleted")


def is_of_run(entry: Mapping[str, Any]) -> bool:
    """True for a message whose failure has ended a workflow run; a call and a failure callback end none."""
    return "workflowRunId" in entry and entry.get("callType") in ENDING_CALL_TYPES


def read_page_cursor(text: str | None) -> tuple[int, str] | None:
    """The time and the id in the cursor of a page.

    Raises:
        InputError: it is not such a cursor.
    """
    if text is None:
        return None
    at, _, id = text.partition("-")
    if not (at.isascii() and at.isdigit() and len(at) < 17 and id):
        raise InputError(
            "'cursor' is not one of this list; send the one of the page before", field="cursor", status=400
        )
    return int(at), id


def _may_match(candidate: _Candidate, filters: Filters, of_runs: bool | None) -> bool:
    if of_runs is not None and is_of_run(candidate.description) != of_runs:
        return False
    return filters.covers(candidate.at) and filters.matches(candidate.description)


def _matches(entry: Mapping[str, Any], filters: Filters) -> bool:
    found = {**entry, "failureFunctionState": entry.get("failureCallbackInfo", {}).get("state")}
    return all(
        name not in filters or str(found.get(name)) in filters.all(name) for name in (*RUN_FILTERS, "responseStatus")
    )


async def _pages(context: ServerContext, tenant: str, filters: Filters) -> AsyncIterator[list[_Candidate]]:
    """Entries of which some filters may not match, the newest first."""
    before = read_page_cursor(filters.one("cursor"))
    if "dlqIds" in filters:
        ids = dict.fromkeys(filters.all("dlqIds"))
        letters = await asyncio.gather(*(found_letter(context, tenant, id) for id in ids))
        named = [_candidate(it.died_at, it.id, _description_text(it)) for it in letters if it is not None]
        named.sort(key=lambda it: (it.at, it.id), reverse=True)
        yield [it for it in named if before is None or (it.at, it.id) < before]
        return
    last = filters.number("toDate")
    query = DeadLetterQuery(
        destination=PUSH_DESTINATION,
        label=tenant,
        since=filters.number("fromDate"),
        until=None if last is None else last + 1,
    )
    while page := await context.store.dead_letters(query, _PAGE, before):
        before = page[-1].died_at, page[-1].id
        created = await context.wire.created_entries(tenant, [it.id for it in page])
        candidates: list[_Candidate] = []
        for letter in page:
            if (entry := created.get(letter.id)) is not None:
                candidates.append(_candidate(letter.died_at, letter.id, entry.detail))
            elif (whole := await found_letter(context, tenant, letter.id)) is not None:
                # The log does not go back so far.
                candidates.append(_candidate(whole.died_at, whole.id, _description_text(whole)))
        yield candidates


def _candidate(at: int, id: str, description: str) -> _Candidate:
    return _Candidate(at, id, from_json(description), len(description))


async def _entries(
    context: ServerContext, tenant: str, described: Sequence[tuple[str, dict[str, Any]]]
) -> list[dict[str, Any] | None]:
    """The JSON of entries: the message, the response of its last attempt, and the failure callback of its run.

    None while the log does not have its end. A message that died with its workers gets it from a worker: that one also
    publishes the failure callback and leaves the queue, and needs the dead letter for it.
    """
    latest = await context.wire.latest_entries(tenant, [id for id, _ in described])
    callbacks = await failure_callbacks(context, tenant, [id for id, about in described if is_of_run(about)])
    entries: list[dict[str, Any] | None] = []
    for id, about in described:
        entry = latest.get(id)
        if entry is not None and entry.state != "FAILED":
            entries.append(None)
            continue
        failed: Mapping[str, Any] = {} if entry is None else from_json(entry.detail)
        response = {name: value for name, value in failed.items() if name.startswith("response")}
        callback = {"failureCallbackInfo": callbacks[id].info()} if id in callbacks else {}
        entries.append({**about, "dlqId": id, "responseStatus": _ENDED, **response, **callback})
    return entries


def _description_text(letter: DeadLetter) -> str:
    return to_json(_description(letter)).decode()


def _description(letter: DeadLetter) -> dict[str, Any]:
    return message_json(Envelope.of_text(letter.message.body), letter.id)
