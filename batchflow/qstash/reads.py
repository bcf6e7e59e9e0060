"""The runs of an app on QStash, read over its REST API."""

from collections.abc import Mapping, Sequence
from urllib.parse import quote

from batchflow.core.dead_letters import DeadLetter
from batchflow.core.flow import FlowStatus
from batchflow.core.message import UnservedWork
from batchflow.core.run import Run, RunQuery, Waiter
from batchflow.qstash.directory import Directory
from batchflow.qstash.flow_keys import QStashFlowKeys
from batchflow.qstash.rest import QStashRest
from batchflow.qstash.runs import RunsPage, ShownWaiter, wire_state
from batchflow.wire.submissions import wire_id

_PAGE = 10
"""The number of runs that QStash returns at once."""


class QStashRuns:
    """See `batchflow.core.store.RunReads`: those of one account.

    `told` are dead letters of which QStash tells just now, by the ids of their runs.
    """

    def __init__(
        self,
        rest: QStashRest,
        directory: Directory,
        told: Mapping[str, DeadLetter],
        flow_keys: QStashFlowKeys,
    ) -> None:
        self._told = told
        self._flow_keys = flow_keys
        self._rest = rest
        self._directory = directory

    async def run(self, id: str) -> Run | None:
        """See the port."""
        page = await self._page({"workflowRunId": wire_id(id)})
        return page.runs[0].to_run(self._directory.route_of) if page.runs else None

    async def runs(self, query: RunQuery, limit: int) -> Sequence[Run]:
        """See the port; the pages of QStash are read until there are enough."""
        if query.state == "running":
            # QStash does not say which of the runs that go on has a request under way.
            return []
        asked: dict[str, str] = {"count": str(_PAGE)}
        if query.label is not None:
            asked["label"] = query.label
        if query.state is not None:
            asked["state"] = wire_state(query.state)
        if query.destination is not None and (url := self._directory.known_url_of(query.destination)) is not None:
            asked["workflowUrl"] = url
        if query.before is not None:
            asked["toDate"] = str(query.before[0])
        runs: list[Run] = []
        while len(runs) < limit:
            page = await self._page(asked)
            found = [it.to_run(self._directory.route_of) for it in page.runs]
            runs += [run for run in found if self._matches(run, query)]
            if not page.cursor:
                break
            asked["cursor"] = page.cursor
        return runs[:limit]

    async def _page(self, query: Mapping[str, str]) -> RunsPage:
        return await _read_page(self._rest, query)

    async def waiters(self, event: str) -> Sequence[Waiter]:
        """See the port."""
        answer = await self._rest.get(f"/v2/waiters/{quote(event, safe='')}")
        with self._rest.reading():
            return [ShownWaiter.model_validate(it).to_waiter() for it in answer]

    async def under_way(self, open_dedup: str) -> str | None:
        """See the port: the id of a run says what it is for."""
        run = await self.run(open_dedup)
        return open_dedup if run is not None and run.state in ("waiting", "running") else None

    async def dead_letter(self, id: str) -> DeadLetter | None:
        """See the port: one of which QStash tells just now; `QStashDeadLetters` finds the others."""
        return self._told.get(id)

    async def unserved(self, limit: int = 100) -> Sequence[UnservedWork]:
        """See the port: QStash calls whoever is there."""
        return ()

    async def flows(self, keys: Sequence[str] | None = None, *, waiting: bool = True) -> Sequence[FlowStatus]:
        """See the port."""
        return await self._flow_keys.flows(keys, waiting=waiting)

    def _matches(self, run: Run, query: RunQuery) -> bool:
        return (
            (query.state is None or run.state == query.state)
            and (query.destination is None or self._directory.is_at(query.destination, run.destination))
            and (query.before is None or (run.created_at, run.id) < query.before)
        )


async def latest_began(rest: QStashRest, wire_run: str) -> int:
    """The time in ms at which the latest run with this id began; 0 if the log has none."""
    page = await _read_page(rest, {"workflowRunId": wire_run})
    return max((it.workflow_run_created_at for it in page.runs), default=0)


async def _read_page(rest: QStashRest, query: Mapping[str, str]) -> RunsPage:
    answer = await rest.get("/v2/workflows/events", {"groupBy": "workflowRunId", **query})
    with rest.reading():
        return RunsPage.model_validate(answer)
