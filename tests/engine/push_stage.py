"""An app in virtual time that pushes to an endpoint of the test."""

import asyncio
import json
from typing import Any, cast

from batchflow import Batchflow
from batchflow.core.dead_letters import DeadLetterQuery
from batchflow.core.posts import PUSH_DESTINATION
from batchflow.core.wire_store import WireStore
from batchflow.engine.push_client import PushError, PushRequest
from batchflow.engine.push_response import PushResponse
from batchflow.engine.push_settings import PushSettings
from batchflow.testing import FixedEntropy, ManualClock, drive
from batchflow.wire.publish import parse_publish, posts_of
from tests.stores.kinds import Kind, made

URL = "https://example.com/hook?a=%20b"
MINUTE = 60_000
REFUSING = PushSettings()


class Endpoint:
    """A client that gives the answers of a test, one after the other, the last one from then on."""

    def __init__(self) -> None:
        self.answers: list[PushResponse | PushError] = [PushResponse(200)]
        self.by_url: dict[str, PushResponse] = {}
        self.asked: list[PushRequest] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.closed = 0

    async def send(self, request: PushRequest) -> PushResponse:
        self.asked.append(request)
        await self.gate.wait()
        if (known := self.by_url.get(request.url)) is not None:
            return known
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, PushError):
            raise answer
        return answer

    async def close(self) -> None:
        self.closed += 1


class Stage:
    """An app that pushes to an `endpoint`, and what a test asks of its store."""

    def __init__(
        self, endpoint: Endpoint | None, settings: PushSettings = REFUSING, *, now: int = 0, kind: Kind = "sqlite"
    ) -> None:
        self.clock = ManualClock(now) if now else ManualClock()
        self.endpoint = endpoint or Endpoint()
        self.app = Batchflow(made(kind, self.clock), clock=self.clock, worker=False, entropy=FixedEntropy())
        self.app.engine.push_client = endpoint
        self.app.engine.enable_push(settings)
        self._number = 0

    @property
    def store(self) -> WireStore:
        return cast("WireStore", self.app.engine.store)

    async def publish(self, url: str = URL, body: bytes = b"{}", *, queue: str | None = None, **headers: str) -> str:
        """Publish a post of the tenant `acme`; `retries="0"` is the header `Upstash-Retries: 0`."""
        named = [(f"Upstash-{name.replace('_', '-')}", value) for name, value in headers.items()]
        request = parse_publish(url, named, body, tenant="acme", now=self.clock.now(), queue=queue)
        (posted,) = await self.store.post(posts_of(request, self._new_id))
        return posted.id

    def _new_id(self) -> str:
        self._number += 1
        return f"msg_{self._number}"

    async def drive(self, *, ms: int | None = None) -> None:
        await drive(self.app, self.clock, until=None if ms is None else self.clock.now() + ms)

    async def log(self, id: str) -> list[tuple[str, dict[str, Any]]]:
        """The log of a post after its CREATED entry, the oldest first: states and details."""
        entries = await self.store.log_entries("acme", message=id)
        return [(it.entry.state, json.loads(it.entry.detail)) for it in reversed(entries)][1:]

    async def states(self, id: str) -> str:
        return " ".join(state for state, _ in await self.log(id))

    async def dead(self) -> list[str]:
        letters = await self.app.engine.store.dead_letters(DeadLetterQuery(destination=PUSH_DESTINATION), 100)
        return [it.id for it in letters]

    def sent(self, number: int = -1) -> dict[str, str]:
        """The headers of a request, by their names in lower case."""
        return {name.lower(): value for name, value in self.endpoint.asked[number].headers}
