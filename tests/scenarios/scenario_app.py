"""An app over the real store in virtual time, its steps counted, its calls answered without a network."""

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
from fastapi import FastAPI
from pydantic import BaseModel

from batchflow import Batchflow
from batchflow.core.call import Body, CallRequest, CallResult, call_request_codec, call_result_codec
from batchflow.core.message import Claim
from batchflow.core.ports import Runtime
from batchflow.core.run import Run
from batchflow.core.settlement import Settlement, done
from batchflow.engine.caller import HttpCaller
from batchflow.serve.runs import RunHandle
from batchflow.testing import FixedEntropy, ManualClock, drive
from tests.stores.kinds import Kind, Made, left, made

HOUR = 3_600_000
DAY = 24 * HOUR


class Nothing(BaseModel):
    """The payload of a run that needs none."""


class Answering(HttpCaller):
    """Makes calls: `answer` says what comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[CallRequest] = []
        self.answer: Callable[[CallRequest], CallResult] = lambda request: CallResult(status=200)

    @property
    def timeout_ms(self) -> int | None:
        """As long as it takes."""
        return None

    async def deliver(self, claim: Claim, runtime: Runtime) -> Settlement:
        """Answer at once."""
        request = call_request_codec().decode(claim.body)
        return done(claim, call_result_codec().encode(self.answer_to(request)))

    def answer_to(self, request: CallRequest) -> CallResult:
        """Note a request, and answer it."""
        self.requests.append(request)
        return self.answer(request)


def json_answer(text: str, status: int = 200) -> CallResult:
    """An answer with a JSON body."""
    return CallResult(status=status, headers={"content-type": "application/json"}, body=Body(text=text))


async def put(app: Any, url: str, text: str) -> int:
    """Send a request to an ASGI app; the status of the answer."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
        return (await client.put(url, content=text)).status_code


class Scene:
    """The app, its clock, and how often each step was executed."""

    kind: str
    flow: Batchflow
    clock: ManualClock
    store: Made
    calls: Answering

    def __init__(
        self, store: Kind = "sqlite", url: str | None = None, *, always_replay: bool, sync: bool = False
    ) -> None:
        self.kind = store
        self.always_replay = always_replay
        self.sync = sync
        self.clock = ManualClock()
        self.store = made(store, self.clock, url)
        self.flow = Batchflow(self.store, clock=self.clock, worker=False, entropy=FixedEntropy())
        self.calls = Answering()
        self.flow.engine.caller = self.calls
        self.executed: Counter[str] = Counter()

    def step(
        self,
        name: str,
        result: object = None,
        *,
        does: Callable[[Any], object] | None = None,
        error: Exception | None = None,
    ) -> Callable[..., Any]:
        """A step function, sync or async as the test has it, that counts its executions and returns, does or raises."""

        def plain(*arguments: object) -> Any:
            self.executed[name] += 1
            if error is not None:
                raise error
            return does(*arguments) if does is not None else result

        async def on_the_loop(*arguments: object) -> Any:
            return plain(*arguments)

        chosen: Callable[..., Any] = plain if self.sync else on_the_loop
        return chosen

    async def drive(self, *, ms: int | None = None) -> None:
        """Everything that time alone brings to its end, or what is due within `ms`."""
        await drive(self.flow, self.clock, until=None if ms is None else self.clock.now() + ms)

    async def to_the_end(self, trigger: Awaitable[RunHandle[Any]]) -> Run:
        """Start a run, and drive it; how it ended."""
        handle = await self.start(trigger)
        await self.drive()
        return await handle.status()

    async def start(self, trigger: Awaitable[RunHandle[Any]]) -> RunHandle[Any]:
        """Start a run."""
        await self.flow.start()
        return await trigger

    def reason(self, error: str) -> str:
        """What the parent of a child that has failed with this error is told."""
        return error

    async def hold(self, key: str) -> None:
        """Let nothing of a flow key start."""
        await self.flow.engine.store.pause(key)

    async def ask(self, url: str, text: str) -> int:
        """Ask a webhook of the app, as a third party does; the status of the answer."""
        app = FastAPI()
        app.include_router(self.flow.router)
        return await put(app, url, text)

    async def left(self) -> dict[str, Any]:
        """Return everything that is left of ended runs and their waits."""
        return await left(self.store)
