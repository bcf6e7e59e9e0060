"""The engine of an app on QStash: runs of served functions live there, everything else in the app's store."""

import asyncio
import contextlib
import platform
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic_core import to_json

from batchflow.core.dead_letters import DeadLetter
from batchflow.core.message import Message
from batchflow.core.ports import Runtime
from batchflow.core.run import Step
from batchflow.core.store import RunReads
from batchflow.engine.engine import Engine
from batchflow.errors import ConfigurationError, NotFoundError, StoreUnavailable
from batchflow.logs import logger
from batchflow.qstash.flow_keys import QStashFlowKeys
from batchflow.qstash.reads import QStashRuns
from batchflow.qstash.rest import QStashRefused, QStashRest
from batchflow.serve.app_url import user_headers
from batchflow.serve.endpoint import Endpoint
from batchflow.wire.envelope import HeaderPairs
from batchflow.wire.submissions import (
    Address,
    RunSettings,
    Submission,
    batch_submission,
    init_item,
    invoke_submission,
    notify_submission,
    own_id,
    wire_id,
)

T = TypeVar("T")

FIRST_POLL_S = 0.5
"""The first pause between two looks at a run that somebody waits for; each is twice as long as the one before."""

LONGEST_POLL_S = 10.0
"""The longest of these pauses."""


class QStashEngine(Engine):
    """An engine whose runs of served functions live in a QStash: it starts, notifies, cancels and reads them there.

    `connect` has to be called before anything else.
    """

    rest: QStashRest
    """The REST API."""
    told: dict[str, DeadLetter]
    """See the port of endpoints."""
    verifies: bool = True
    """Requests have to be signed by QStash."""
    telemetry: HeaderPairs = ()
    """The headers that describe this program."""
    _served: Mapping[str, Endpoint]

    def connect(self, rest: QStashRest, served: Mapping[str, Endpoint], *, telemetry: bool) -> None:
        """Use this QStash for the runs of these endpoints, by route."""
        self.rest = rest
        self.told = {}
        self.telemetry = _telemetry() if telemetry else ()
        self._served = served

    # The client of served functions

    @property
    def run_store(self) -> RunReads:
        """See the port."""
        return QStashRuns(self.rest, self.url_of, self._route_of, self.told, self.flow_keys)

    @property
    def flow_keys(self) -> QStashFlowKeys:
        """See the port."""
        return QStashFlowKeys(self.rest, self._limits)

    @property
    def replaces_ended_runs(self) -> bool:
        """See the port: QStash knows the id of a run until the run has ended."""
        return True

    @property
    def is_durable(self) -> bool:
        """See the engine: they live in QStash."""
        return True

    async def publish(self, messages: Sequence[Message]) -> Sequence[bool]:
        """See the port. Runs of served functions are started in QStash, all or none."""
        items = [init_item(self._address(it), it.body, self._settings(it)) for it in messages]
        answers: list[Any] = await self.rest.post(batch_submission(items))
        new = [not answer.get("deduplicated") for answer in answers]
        if (tell := self.observers.published) is not None:
            for message, is_new in zip(messages, new, strict=True):
                if is_new:
                    tell(message)
        return new

    async def notify(self, event: str, data: str, run: str | None = None) -> Sequence[str]:
        """See the port."""
        answer: list[Any] = await self.rest.post(notify_submission(event, data, None if run is None else wire_id(run)))
        found = [str(it.get("workflowRunId") or "") for it in answer]
        return [own_id(it) for it in found if it]

    async def cancel_run(self, id: str) -> bool:
        """See the port."""
        return await self.cancel_runs(ids=[id]) > 0

    async def cancel_runs(
        self, *, destination: str | None = None, label: str | None = None, ids: Sequence[str] = ()
    ) -> int:
        """See the port."""
        query: dict[str, str | Sequence[str]] = {}
        if ids:
            query["workflowRunIds"] = [wire_id(it) for it in ids]
        if destination is not None:
            query |= {"workflowUrl": self.url_of(destination), "workflowUrlExactMatch": "true"}
        if label is not None:
            query["label"] = label
        if not query:
            # Without a filter QStash cancels all runs.
            return 0
        answer = await self.rest.delete("/v2/workflows/runs", query)
        return int(answer["cancelled"])

    async def ended(self, id: str, look: Callable[[], Awaitable[T | None]], limit: float | None) -> T | None:
        """See the port. A run is looked at again and again, with growing pauses."""
        if (found := await self._look(look)) is not None:
            return found
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                pause = FIRST_POLL_S
                while True:
                    await asyncio.sleep(pause)
                    if (found := await self._look(look)) is not None:
                        return found
                    pause = min(2 * pause, LONGEST_POLL_S)
        return None

    async def _look(self, look: Callable[[], Awaitable[T | None]]) -> T | None:
        try:
            return await look()
        except StoreUnavailable:
            # It may answer again, and whoever waits without a limit waits for that too.
            if self.loop is None:
                raise
            return None

    async def start(self, *, schedules: bool = True) -> None:
        """See the engine: there is no worker.

        Raises:
            ConfigurationError: always.
        """
        raise ConfigurationError("QStash calls the endpoints of this app: serve its router, and start no worker")

    async def open(self, *, wait: bool = False) -> None:
        """See the engine."""
        await super().open(wait=wait)
        if not self.verifies:
            logger().warning(
                "[batchflow] Requests are not verified (verify=False): anybody who can reach this app may run its steps"
            )

    async def close(self) -> None:
        """See the engine; the connections to QStash are closed too."""
        await super().close()
        await self.rest.close()

    # The part that endpoints use (`batchflow.qstash.endpoint.WireEngine`)

    @property
    def runtime(self) -> Runtime:
        """See the port."""
        return self.make_runtime(self._clock)

    async def submit(self, run: str, submission: Submission) -> bool:
        """See the port."""
        reason = await self.rest.submit(submission)
        if reason is None:
            return True
        # The official SDK takes each of these answers for the end of the run, which would wait for ever then.
        try:
            await self.steps_of(run)
        except NotFoundError:
            return False
        raise QStashRefused(f"QStash at {self.rest.url} refuses it: {reason}")

    def child_submission(self, address: Address, step: Step, concurrent: int, child: Message) -> Submission:
        """See the port."""
        return invoke_submission(address, step, concurrent, self._address(child), child.body, self._settings(child))

    async def steps_of(self, run: str) -> bytes:
        """See the port."""
        return to_json(await self.rest.get(f"/v2/workflows/runs/{quote(run, safe='')}"))

    async def finish(self, address: Address, result: str | None) -> None:
        """See the port."""
        path = f"/v2/workflows/runs/{quote(address.run, safe='')}"
        await self.rest.delete(path, {"cancel": "false"}, (result or "null").encode())

    # URLs

    def url_of(self, route: str) -> str:
        """The public URL of an endpoint.

        Raises:
            ConfigurationError: it is not known; the sentence says what to set.
        """
        return self._served[route].public_url.resolve({}) + route

    def _route_of(self, url: str) -> str:
        """The route of an endpoint of this app with this URL; the URL itself if there is none."""
        return next((route for route in self._served if url.partition("?")[0].endswith(route)), url)

    def _address(self, message: Message) -> Address:
        if message.destination not in self._served:
            raise QStashRefused(
                f"QStash runs the functions of this app, and '{message.destination}' is not one of them"
            )
        url = self.url_of(message.destination)
        return Address(wire_id(message.id), url, depth=message.depth, telemetry=self.telemetry)

    def _settings(self, message: Message) -> RunSettings:
        endpoint = self._served[message.destination]
        return RunSettings(
            headers=user_headers(message.headers),
            label=message.label,
            not_before=message.not_before,
            retry=message.retry or endpoint.retry,
            flow=message.flow,
            failure_url=endpoint.failure_url,
        )


def _telemetry() -> HeaderPairs:
    return (
        ("upstash-telemetry-framework", "fastapi"),
        ("upstash-telemetry-runtime", f"python@v{platform.python_version()}"),
        ("upstash-telemetry-sdk", f"batchflow@{version('batchflow')}"),
    )
