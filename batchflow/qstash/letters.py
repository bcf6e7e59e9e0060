"""The dead letters of an app on QStash: runs are in the DLQ of QStash, items of batches in the app's store."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from urllib.parse import quote

from batchflow.core.dead_letters import DeadLetter, DeadLetterGroup, DeadLetterQuery, merge_groups
from batchflow.core.flow import FlowControl
from batchflow.core.ids import is_of_batch
from batchflow.core.ports import DeadLetterPosition, DeadLetterStore
from batchflow.core.retry import RetryPolicy
from batchflow.core.store import RunReads
from batchflow.errors import InputError, NotFoundError
from batchflow.qstash.directory import Directory
from batchflow.qstash.run_options import trigger_headers
from batchflow.qstash.runs import LettersPage, ShownLetter
from batchflow.wire.submissions import RunSettings, Submission, own_id, settings_headers, wire_id

_PATH = "/v2/workflows/dlq"
_PAGE = 100
_IN_STORE: DeadLetterPosition = (10**15 - 1, "~")
# Before the first dead letter of the store: no run is left.


class QStashDeadLetters:
    """See `batchflow.core.ports.DeadLetterStore`: runs in the account of the app, then items of the store.

    The id of a run that has failed is that of its dead letter. Those of other apps in the same QStash are left alone.
    `give_due` gives QStash the items that are due.
    """

    def __init__(
        self,
        directory: Directory,
        runs: RunReads,
        items: DeadLetterStore,
        give_due: Callable[[], Awaitable[None]],
    ) -> None:
        self._rest = directory.app.rest
        self._directory = directory
        self._runs = runs
        self._items = items
        self._give_due = give_due

    async def find(self, id: str) -> DeadLetter | None:
        """See the port."""
        if is_of_batch(id):
            return await self._items.find(id)
        shown = await self._shown(id)
        if shown is None:
            return None
        letter = shown.to_letter(self._directory.route_of)
        message = replace(letter.message, headers=trigger_headers(shown.headers))
        run = await self._runs.run(id)
        if run is None or run.state != "failed":
            # It was removed, or another run has its id now.
            return replace(letter, message=message)
        message = replace(message, body=run.payload)
        return replace(letter, message=message, journal=run.journal, died_at=run.ended_at or letter.died_at)

    async def page(
        self, query: DeadLetterQuery, limit: int, after: DeadLetterPosition | None
    ) -> tuple[Sequence[DeadLetter], DeadLetterPosition | None]:
        """See the port; the position of a run is 0 and the cursor of QStash."""
        letters: list[DeadLetter] = []
        if after is None or not after[0]:
            letters, cursor = await self._page(query, limit, None if after is None else after[1])
            if cursor is not None:
                return letters, (0, cursor)
            if len(letters) == limit:
                return letters, _IN_STORE
            after = _IN_STORE
        found, after = await self._items.page(query, limit - len(letters), after)
        return [*letters, *found], after

    async def groups(self, query: DeadLetterQuery, limit: int) -> Sequence[DeadLetterGroup]:
        """See the port; all dead letters of QStash are read."""
        letters, _ = await self._page(query, None, None)
        runs = [DeadLetterGroup(it.fingerprint, 1, it.died_at, it.died_at, it.id, it.error) for it in letters]
        return merge_groups([*runs, *await self._items.groups(query, limit)])[:limit]

    async def posts(self, ids: Sequence[str]) -> Sequence[str]:
        """See the port: they are in the store."""
        return await self._items.posts([id for id in ids if is_of_batch(id)])

    async def redrive(
        self, id: str, *, restart: bool, retry: RetryPolicy | None, flow: FlowControl | None
    ) -> str | None:
        """See the port: a run goes on under a new id.

        Raises:
            InputError: the flow key has no limits, so that QStash does not know it.
        """
        if is_of_batch(id):
            going_on = await self._items.redrive(id, restart=restart, retry=retry, flow=flow)
            await self._give_due()
            return going_on
        headers = settings_headers(RunSettings(flow=flow))
        if flow is not None and not headers:
            want = "give it a parallelism or a rate: QStash keeps a flow key with its limits only"
            raise InputError("has no limits", option="flow_control", want=want, field="flow_control")
        if retry is not None:
            headers["upstash-retries"] = str(retry.attempts - 1)
        if (shown := await self._shown(id)) is None:
            return None
        path = f"{_PATH}/{'restart' if restart else 'resume'}/{quote(shown.dlq_id, safe='')}"
        try:
            answer = await self._rest.post(Submission(path, headers, b""))
        except NotFoundError:
            return None
        with self._rest.reading():
            return own_id(answer["workflowRunId"])

    async def call_failure_again(self, id: str) -> bool:
        """See the port: QStash calls one again that has failed."""
        if is_of_batch(id):
            called = await self._items.call_failure_again(id)
            await self._give_due()
            return called
        return await self._change("POST", "/callback", id)

    async def delete(self, id: str) -> bool:
        """See the port."""
        return await (self._items.delete(id) if is_of_batch(id) else self._change("DELETE", "", id))

    async def _change(self, method: str, path: str, id: str) -> bool:
        if (shown := await self._shown(id)) is None:
            return False
        try:
            await self._rest.change(method, f"{_PATH}{path}/{quote(shown.dlq_id, safe='')}")
        except (NotFoundError, InputError):
            # It has none, or its call has not failed, or somebody was faster.
            return False
        return True

    async def _shown(self, id: str) -> ShownLetter | None:
        """The latest entry of a run."""
        found = await self._entries({"workflowRunId": wire_id(id), "count": "1"})
        return found.messages[0] if found.messages else None

    async def _page(
        self, query: DeadLetterQuery, limit: int | None, cursor: str | None
    ) -> tuple[list[DeadLetter], str | None]:
        """Dead letters of runs that match, all of them without a `limit`, and the cursor of the next ones."""
        urls = self._directory.urls_matching(query)
        letters: list[DeadLetter] = []
        if urls == [] or query.batch is not None or query.item is not None:
            return letters, None
        asked: dict[str, str | Sequence[str]] = {} if urls is None else {"workflowUrl": urls}
        if query.run is not None:
            asked["workflowRunId"] = wire_id(query.run)
        if query.label is not None:
            asked["label"] = query.label
        if query.since is not None:
            asked["fromDate"] = str(query.since)
        if query.until is not None:
            asked["toDate"] = str(query.until - 1)
        while limit is None or len(letters) < limit:
            # Not more than are lacking: the cursor is that of the end of a page.
            asked["count"] = str(_PAGE if limit is None else min(_PAGE, limit - len(letters)))
            if cursor is not None:
                asked["cursor"] = cursor
            page = await self._entries(asked)
            found = [it.to_letter(self._directory.route_of) for it in page.messages]
            letters += [it for it in found if self._matches(it, query)]
            cursor = page.cursor or None
            if cursor is None:
                break
        return letters, cursor

    async def _entries(self, query: Mapping[str, str | Sequence[str]]) -> LettersPage:
        answer = await self._rest.get(_PATH, query)
        with self._rest.reading():
            return LettersPage.model_validate(answer)

    def _matches(self, letter: DeadLetter, query: DeadLetterQuery) -> bool:
        """True if what QStash does not filter by matches too."""
        return (
            (query.status is None or letter.status == query.status)
            and (query.fingerprint is None or letter.fingerprint == query.fingerprint)
            and (query.label is None or letter.label == query.label)
            and self._directory.matches(letter.message.destination, query)
        )
