"""A real server: uvicorn in its own process, on a SQLite file."""

import asyncio
import json
import os
import re
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from httpx import AsyncClient

from batchflow.app import Batchflow
from batchflow.core.secrets import MASK
from tests.house.sources import ROOT
from tests.waiting import wait_until

NEVER = "1h"
AT_ONCE_S = 60
# Far less than the graces that must not be waited for, and enough for a machine under load.
RUNNING = re.compile(r"Uvicorn running on (http://127\.0\.0\.1:\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server that is up. `folder` has its database, its output, and a file for each item that has begun."""

    process: Process
    folder: Path
    http: AsyncClient

    async def trigger(self, workflow: str, **body: Any) -> str:
        response = await self.http.post(f"/{workflow}/process-users", json=body)
        assert response.status_code == 202, response.text
        return response.json()["batchId"]

    async def begun(self, *ids: str) -> None:
        await wait_until(
            lambda: all((self.folder / id).exists() for id in ids), description=f"{', '.join(ids)} have begun"
        )

    async def printed(self, text: str) -> None:
        await wait_until(lambda: text in output(self.folder), description=f"'{text}' is printed")

    async def ends(self) -> str:
        """Press Ctrl-C, wait for the end, and return what was printed."""
        self.process.send_signal(signal.SIGINT)
        async with asyncio.timeout(AT_ONCE_S):
            await self.process.wait()
        return output(self.folder)


Serve: TypeAlias = Callable[[str], AbstractAsyncContextManager[Server]]


def output(folder: Path) -> str:
    file = folder / "output"
    return file.read_text() if file.exists() else ""


def database(folder: Path) -> str:
    return f"sqlite:///{folder}/batchflow.db"


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """Starts a server with a grace; another one goes on where it has stopped."""

    @asynccontextmanager
    async def started(grace: str) -> AsyncGenerator[Server]:
        env = {**os.environ, "BATCHFLOW_URL": database(tmp_path), "BATCHFLOW_GRACE": grace, "BEGUN": str(tmp_path)}
        command = [sys.executable, "-m", "uvicorn", "tests.http.served_app:app", "--port", "0"]
        with (tmp_path / "output").open("w") as out:
            process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=env, stdout=out, stderr=out)
        try:
            await wait_until(
                lambda: process.returncode is not None or RUNNING.search(output(tmp_path)) is not None,
                description="the server is up",
                timeout=60,
            )
            found = RUNNING.search(output(tmp_path))
            assert found is not None, output(tmp_path)
            async with AsyncClient(base_url=f"{found[1]}/api", trust_env=False, timeout=60) as http:
                yield Server(process=process, folder=tmp_path, http=http)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    return started


async def events_of(server: Server, batch: str, seen: Callable[[str, Any], object]) -> None:
    """Follow a batch until the stream ends."""
    name = "message"
    async with server.http.stream("GET", f"/batches/{batch}/progress?interval=0.1") as response:
        async for line in response.aiter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                seen(name, json.loads(line.removeprefix("data: ")))


async def given_back(folder: Path) -> list[tuple[str, int, int]]:
    """The items that the stopped server has released, with failed attempts and losses."""
    flow = Batchflow(database(folder), worker=False)
    async with flow:
        await flow.engine.store.register("another", 60_000)
        claimed = await flow.engine.store.claim("another", ["/stuck/execute-user"], 100)
        left = sorted((it.item, it.failures, it.losses) for it in claimed.claims)
        await flow.engine.store.deregister("another")
    return left


async def test_a_batch_is_triggered_and_watched_to_its_end(serve: Serve) -> None:
    """One process with uvicorn, and a file."""
    async with serve("5s") as server:
        counted = (await server.http.post("/quick/process-users", json={"dryRun": True})).json()
        assert counted["toProcess"] == 25
        batch = await server.trigger("quick")
        events: list[tuple[str, Any]] = []
        async with asyncio.timeout(60):
            await events_of(server, batch, lambda name, data: events.append((name, data)))
        assert [name for name, _ in events][-1] == "done"
        assert events[-1][1]["counts"]["succeeded"] == 25
        items = (await server.http.get(f"/batches/{batch}/items?state=succeeded")).json()["items"]
        assert [it["itemId"] for it in items[:2]] == ["u0", "u1"]
        assert (await server.http.get(f"/batches/{batch}/items/1")).json()["result"] == "U1"
        assert "Traceback" not in await server.ends()


async def test_a_webhook_reaches_its_run_in_the_next_process(serve: Serve) -> None:
    """By any method; the run continues in the next process."""
    async with serve("5s") as server:
        run = (await server.http.post("/hooked")).json()["workflowRunId"]
        steps: list[Any] = []

        async def made() -> bool:
            steps[:] = (await server.http.get(f"/runs/{run}")).json()["steps"]
            return len(steps) == 3

        await wait_until(made, description="the run waits for its webhook")
        assert steps[0]["result"] == {"url": MASK, "token": MASK}
        url = (server.folder / "url").read_text()
        assert url.startswith(f"{str(server.http.base_url).rstrip('/')}/webhooks/{run}.")
        await server.ends()
    async with serve("5s") as server:
        path = url[url.index("/webhooks/") :]
        assert (await server.http.put(path, content=b"signed")).status_code == 202

        async def over() -> bool:
            return (await server.http.get(f"/runs/{run}")).json()["endedAt"] is not None

        await wait_until(over, description="the run has ended")
        assert (await server.http.get(f"/runs/{run}")).json()["result"] == "signed"
        assert (await server.http.request("PURGE", path)).status_code == 404
        assert "Traceback" not in await server.ends()


async def assert_it_goes_on(serve: Serve, batch: str) -> None:
    async with serve("5s") as server:
        (server.folder / "gate").touch()

        async def over() -> bool:
            return (await server.http.get(f"/batches/{batch}")).json()["isFinal"]

        await wait_until(over, description="the batch has ended", timeout=60)
        status = (await server.http.get(f"/batches/{batch}")).json()
        assert (status["state"], status["counts"]["succeeded"]) == ("completed", 2)


async def test_ctrl_c_waits_for_the_grace_and_gives_back(serve: Serve, tmp_path: Path) -> None:
    """No attempt is counted; the next process goes on."""
    async with serve("500ms") as server:
        batch = await server.trigger("stuck", userIds=["a", "b"])
        await server.begun("a", "b")
        printed = await server.ends()
    assert "Stopped; claims released" in printed
    assert "Traceback" not in printed
    assert await given_back(tmp_path) == [("a", 0, 0), ("b", 0, 0)]
    await assert_it_goes_on(serve, batch)


async def test_ctrl_c_twice_does_not_wait(serve: Serve, tmp_path: Path) -> None:
    """Neither for a slow client nor for the grace; the claims are released all the same."""
    async with serve(NEVER) as server:
        batch = await server.trigger("stuck", userIds=["a", "b"])
        await server.begun("a", "b")
        _, slow = await asyncio.open_connection(server.http.base_url.host, server.http.base_url.port)
        slow.write(b"POST /api/quick/process-users HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{")
        await slow.drain()
        # Two signals sent at once may arrive as one.
        server.process.send_signal(signal.SIGINT)
        await server.printed("Waiting for connections to close")
        await server.ends()
        slow.close()
    assert await given_back(tmp_path) == [("a", 0, 0), ("b", 0, 0)]
    await assert_it_goes_on(serve, batch)


async def test_ctrl_c_cuts_a_grace_short_that_has_begun(serve: Serve, tmp_path: Path) -> None:
    """Uvicorn waits for the app's shutdown; the app does not wait for itself."""
    async with serve(NEVER) as server:
        batch = await server.trigger("stuck", userIds=["a", "b"])
        await server.begun("a", "b")
        server.process.send_signal(signal.SIGINT)
        await server.printed("Waiting for application shutdown")

        def pressed_again() -> bool:
            if server.process.returncode is None:
                server.process.send_signal(signal.SIGINT)
            return server.process.returncode is not None

        await wait_until(pressed_again, description="the server has ended", timeout=AT_ONCE_S)
    assert await given_back(tmp_path) == [("a", 0, 0), ("b", 0, 0)]
    await assert_it_goes_on(serve, batch)


async def watching(server: Server, batch: str) -> "asyncio.Task[None]":
    """A client that has received its first event."""
    first = asyncio.Event()
    task = asyncio.create_task(events_of(server, batch, lambda _name, _data: first.set()))
    await first.wait()
    return task


async def ended(task: Awaitable[None]) -> None:
    async with asyncio.timeout(AT_ONCE_S):
        await task


async def test_an_open_stream_does_not_hold_up_the_end(serve: Serve) -> None:
    """It ends as a complete response; a disconnected client is not waited for."""
    async with serve("500ms") as server:
        batch = await server.trigger("stuck", userIds=["a"])
        await server.begun("a")
        gone, stays = await watching(server, batch), await watching(server, batch)
        gone.cancel()
        await asyncio.wait([gone])
        printed = await server.ends()
        await ended(stays)
    assert "Traceback" not in printed
    assert "Application shutdown complete" in printed


@asynccontextmanager
async def proxy_of(server: Server) -> AsyncGenerator[AsyncClient]:
    """A proxy that cuts /svc off, and says so; its client is a stranger who says something else."""
    port = server.http.base_url.port

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65_536):
            target.write(data)
            await target.drain()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).replace(b" /svc/", b" /", 1)
        line, _, headers = head.partition(b"\r\n")
        kept = [
            it for it in headers.strip().split(b"\r\n") if not it.lower().startswith((b"x-forwarded", b"connection"))
        ]
        added = [b"X-Forwarded-For: 203.0.113.9", b"X-Forwarded-Proto: https", b"X-Forwarded-Prefix: /svc"]
        there, back = await asyncio.open_connection("127.0.0.1", port)
        back.write(b"\r\n".join([line, *kept, *added, b"Connection: close", b"", b""]))
        sending = asyncio.create_task(copy(reader, back))
        await copy(there, writer)
        sending.cancel()
        writer.close()
        back.close()

    async with await asyncio.start_server(pass_on, "127.0.0.1", 0) as listening:
        own = listening.sockets[0].getsockname()[1]
        async with AsyncClient(base_url=f"http://localhost:{own}/svc/api", trust_env=False, timeout=60) as http:
            yield http


async def test_a_proxy_that_cuts_a_prefix_off_is_in_the_urls_and_not_the_operator(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Operators come without it, or have the token."""
    monkeypatch.setenv("BATCHFLOW_TRUST_FORWARDED_PREFIX", "true")
    async with serve("5s") as server, proxy_of(server) as outside:
        answer = await outside.post("/hooked", headers={"X-Forwarded-Prefix": "/mine"})
        run, host = answer.json()["workflowRunId"], f"localhost:{outside.base_url.port}"
        assert answer.json()["statusUrl"] == f"https://{host}/svc/api/runs/{run}"
        assert (await outside.get(f"/runs/{run}")).status_code == 403
        assert (await outside.get("/health")).json() == {"status": "ok", "reason": None, "workers": None}
        assert (await server.http.get(f"/runs/{run}")).status_code == 200
        await server.ends()
    monkeypatch.setenv("BATCHFLOW_TOKEN", "a-token")
    async with serve("5s") as server, proxy_of(server) as outside:
        assert (await outside.get(f"/runs/{run}")).status_code == 401
        assert (await outside.get(f"/runs/{run}", headers={"Authorization": "Bearer a-token"})).status_code == 200
        await server.ends()
