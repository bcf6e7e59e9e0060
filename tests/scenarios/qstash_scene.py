"""A scene on QStash: the app's functions on a QStash of ours, which calls them in virtual time without sockets."""

from typing import Any

import httpx

from batchflow.core.call import Body, CallRequest
from batchflow.engine.push_client import PushRequest
from batchflow.engine.push_response import PushResponse
from batchflow.serve.runs import RunHandle
from tests.qstash.stage import WireStage
from tests.scenarios.scenario_app import Scene, put
from tests.stores.kinds import left


class QStashScene(Scene):
    """The app of a stage, which has to be open."""

    def __init__(self, stage: WireStage, *, sync: bool = False) -> None:
        # Each delivery executes one step, and replays all before it.
        super().__init__(always_replay=True, sync=sync)
        self.stage = stage
        self.kind, self.flow, self.clock, self.store = "qstash", stage.flow, stage.clock, stage.store
        stage.client.elsewhere = self._answer

    async def drive(self, *, ms: int | None = None) -> None:
        """See `Scene`."""
        await self.stage.drive(ms=ms)

    async def start(self, trigger: Any) -> RunHandle[Any]:
        """See `Scene`."""
        if self.stage.client.app is None:
            await self.stage.open()
        return await trigger

    def reason(self, error: str) -> str:
        """See `Scene`: QStash tells that it has failed, and not why."""
        return "it failed; its log has the reason"

    async def hold(self, key: str) -> None:
        """See `Scene`."""
        async with self._client() as http:
            assert (await http.post(f"/v2/flowControl/{key}/pause")).is_success

    async def ask(self, url: str, text: str) -> int:
        """See `Scene`: the URL is one of QStash."""
        return await put(self.stage.server, url, text)

    async def left(self) -> dict[str, Any]:
        """See `Scene`."""
        return await left(self.stage.store)

    def _client(self) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {self.stage.token}"}
        return httpx.AsyncClient(transport=self.stage.transport, base_url="http://qstash.test", headers=headers)

    async def _answer(self, request: PushRequest) -> PushResponse:
        """Make a call, as an engine of batchflow does."""
        answer = self.calls.answer_to(
            CallRequest(
                step="",
                method=request.method,
                url=request.url,
                headers=dict(request.headers),
                body=Body.of(request.body),
            )
        )
        return PushResponse(answer.status, tuple(answer.headers.items()), answer.body.content)
