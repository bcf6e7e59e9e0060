"""`flow.server`: a QStash in an app of one's own."""

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient

from batchflow import Batchflow
from tests.engine.http_server import serving
from tests.waiting import wait_until


async def test_a_mounted_server_delivers_by_the_worker_of_the_app(monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the path of the mount; the worker pushes to what the settings allow."""
    monkeypatch.setenv("BATCHFLOW_PUSH_ALLOW", "loopback")
    flow = Batchflow("sqlite://")
    app = FastAPI(lifespan=flow.lifespan)
    app.mount("/qstash", flow.server)
    async with serving() as sink, flow.lifespan(app), AsyncClient(transport=ASGITransport(app)) as client:
        client.headers["Authorization"] = f"Bearer {await flow.server.tokens.create('shop')}"
        sent = await client.post(f"http://app.test/qstash/v2/publish/{sink.url}/hook", content="hello")
        assert sent.is_success, sent.text
        await wait_until(lambda: len(sink.asked) == 1, description="the message is delivered")
        assert (sink.asked[0].path, sink.asked[0].body) == ("/hook", b"hello")
