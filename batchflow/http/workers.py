"""The endpoint of workers: who works on the app's store."""

from datetime import datetime
from typing import Literal

from fastapi import APIRouter, Response

from batchflow.core.ports import Client
from batchflow.core.worker import WorkerStatus
from batchflow.http.answers import Answer, instant, respond
from batchflow.http.triggers import REFUSALS


class WorkerAnswer(Answer):
    """A worker: since when it works, its last heartbeat, when its claims are taken back unless another one comes.

    `holds` is how many claims it has, by destination, `hanging` how many threads it has given up because a plain
    function does not return. One that has died is `lost` until its claims are taken back.
    """

    name: str
    state: Literal["working", "lost"]
    since: datetime | None
    seen_at: datetime | None
    lease_until: datetime
    concurrency: int | None
    hanging: int
    held: int
    holds: dict[str, int]

    @classmethod
    def of(cls, worker: WorkerStatus) -> "WorkerAnswer":
        """A worker as it stands."""
        return cls(
            name=worker.name,
            state="lost" if worker.lost else "working",
            since=instant(worker.since) if worker.since else None,
            seen_at=instant(worker.seen_at) if worker.seen_at else None,
            lease_until=instant(worker.lease_until),
            concurrency=worker.concurrency or None,
            hanging=worker.hanging,
            held=worker.held,
            holds=dict(sorted(worker.holds.items())),
        )


class WorkerList(Answer):
    """Workers, by name."""

    workers: list[WorkerAnswer]


class WorkerEndpoints:
    """What can be asked of workers."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def mount(self, router: APIRouter) -> None:
        """Add the route."""
        router.add_api_route(
            "/workers",
            self.list,
            methods=["GET"],
            response_model=WorkerList,
            name="workers:list",
            summary="The workers there are, with what each holds",
            tags=["workers"],
            responses={422: REFUSALS[422], 503: REFUSALS[503]},
        )

    async def list(self) -> Response:
        """Those of all processes that share the app's store."""
        return respond(WorkerList(workers=[WorkerAnswer.of(it) for it in await self._client.store.workers()]))
