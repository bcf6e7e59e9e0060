"""A QStash server: its deliveries to a sink on this machine beside a raw client, its ingest beside raw inserts."""

import asyncio
import contextlib
import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Generator, Mapping
from pathlib import Path
from typing import Any, cast

import aiohttp
import httpx

from batchflow import Batchflow
from batchflow.core.message import Claim
from batchflow.core.ports import Observer
from batchflow.core.posts import LogEntry
from batchflow.core.settlement import Settlement
from batchflow.core.wire_store import WireStore
from batchflow.engine.push_client import PushRequest, PushResponse
from batchflow.engine.push_settings import PushSettings
from batchflow.wire.publish import parse_publish, posts_of
from batchflow.wire.signature import SIGNATURE, sign
from benchmarks.app import quiet_app

Figures = dict[str, float]

DELIVERIES = 6_000
CHUNK = 500
CONNECTIONS = 100
BODY = json.dumps({"user": "user-0000000", "text": "x" * 140}).encode()
TENANT = "benchmark"
LOOPBACK = PushSettings.of(allow="loopback")


class Sink:
    """An ASGI application that answers every request with 200, and a GET with the number of POSTs."""

    def __init__(self) -> None:
        self._posts = 0

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        self._posts += scope["method"] == "POST"
        body = b"" if scope["method"] == "POST" else str(self._posts).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


sink = Sink()


@contextlib.contextmanager
def sink_process() -> Generator[str]:
    """The URL of a sink in a process of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = listener.fileno()
        command = [sys.executable, "-m", "uvicorn", "benchmarks.push:sink", "--fd", str(fd), "--log-level", "critical"]
        process = subprocess.Popen([*command, "--no-access-log", "--lifespan", "off"], pass_fds=[fd])
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/hook"
        finally:
            process.terminate()
            process.wait()


async def _raw(url: str) -> Figures:
    """A client of the same kind that signs and sends, and keeps nothing."""
    left = iter(range(DELIVERIES))

    async def send(session: aiohttp.ClientSession) -> None:
        for number in left:
            signature = sign("sig_benchmark", url, BODY, now_ms=number, id=str(number))
            headers = {SIGNATURE: signature, "Content-Type": "application/json", "Upstash-Message-Id": f"msg_{number}"}
            async with session.post(url, data=BODY, headers=headers) as response:
                await response.read()

    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector) as session:
        cpu, begun = time.process_time(), time.perf_counter()
        await asyncio.gather(*(send(session) for _ in range(CONNECTIONS)))
        return _figures("raw", DELIVERIES, begun, time.process_time() - cpu)


class _Ends(Observer):
    """Waits for the ends of all deliveries."""

    def __init__(self) -> None:
        self._left = DELIVERIES
        self.over = asyncio.Event()

    def settled(self, claim: Claim, settlement: Settlement) -> None:
        self._left -= 1
        if not self._left:
            self.over.set()


class _Instant:
    """A client without a network."""

    async def send(self, request: PushRequest) -> PushResponse:
        return PushResponse(200)

    async def close(self) -> None:
        pass


async def _engine(folder: Path, url: str, name: str, client: _Instant | None) -> Figures:
    """Posts that wait are delivered; without HTTP if there is another client."""
    folder = folder / name
    folder.mkdir()
    async with _pushing_app(folder, client) as flow:
        store = cast("WireStore", flow.engine.store)
        await _post(store, url)
        ends = _Ends()
        flow.engine.observers.add(ends)
        cpu, begun = time.process_time(), time.perf_counter()
        await flow.start()
        await ends.over.wait()
        return _figures(name, DELIVERIES, begun, time.process_time() - cpu)


@contextlib.asynccontextmanager
async def _pushing_app(folder: Path, client: _Instant | None) -> AsyncGenerator[Batchflow]:
    flow = quiet_app(folder)
    flow.engine.push_client = client
    flow.engine.enable_push(LOOPBACK)
    await flow.engine.open()
    try:
        yield flow
    finally:
        await flow.stop()
        await flow.engine.close()


async def _post(store: WireStore, url: str) -> None:
    for first in range(0, DELIVERIES, CHUNK):
        posts = [
            posts_of(
                parse_publish(url, [], BODY, tenant=TENANT, now=int(time.time() * 1000)), lambda id=id: f"msg_{id:09d}"
            )[0]
            for id in range(first, first + CHUNK)
        ]
        await store.post(posts)


async def push_6k(folder: Path) -> Figures:
    """6,000 posts of 170 bytes: by a raw client, by the engine, by the engine without HTTP."""
    with sink_process() as url:
        # Both sides are warm: the first round of each imports, compiles and connects.
        await _raw(url)
        await _engine(folder, url, "warm", None)
        found = await _raw(url)
        found |= await _engine(folder, url, "engine", None)
        found |= await _engine(folder, url, "bare", _Instant())
        return found


async def server_6k(folder: Path) -> Figures:
    """6,000 posts by `/v2/batch` to a `batchflow server`, delivered at once, and 6,000 that wait; raw inserts."""
    with sink_process() as url:
        raw = await _raw(url)
        with server_process(folder) as (environment, process):
            address, token = environment["QSTASH_URL"], environment["QSTASH_TOKEN"]
            async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=60) as http:
                waiting = await _timed("ingest", process, _batches(http, address, url, {"Upstash-Delay": "1h"}))
                whole = await _timed("server", process, _delivered(http, address, url))
    return {**raw, **waiting, **whole, "inserts_per_s": await asyncio.to_thread(_raw_inserts, folder)}


async def _batches(http: httpx.AsyncClient, address: str, url: str, headers: dict[str, str]) -> None:
    item = {"destination": url, "headers": headers, "body": BODY.decode()}
    for _ in range(0, DELIVERIES, CHUNK):
        (await http.post(f"{address}/v2/batch", json=[item] * CHUNK)).raise_for_status()


async def _delivered(http: httpx.AsyncClient, address: str, url: str) -> None:
    before = int((await http.get(url)).text)
    await _batches(http, address, url, {})
    while True:
        # The sink has nothing that could be waited for.
        await asyncio.sleep(0.02)
        if int((await http.get(url)).text) >= before + DELIVERIES:
            return


async def _timed(name: str, process: "subprocess.Popen[str]", work: Any) -> Figures:
    cpu, begun = cpu_of(process), time.perf_counter()
    await work
    return _figures(name, DELIVERIES, begun, cpu_of(process) - cpu)


def cpu_of(process: "subprocess.Popen[Any]") -> float:
    """The CPU time of a process, in seconds."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def server_process(folder: Path) -> Generator[tuple[Mapping[str, str], "subprocess.Popen[str]"]]:
    """The environment of an app of a server on SQLite, and its process."""
    command = [sys.executable, "-m", "batchflow.cli", "server", "--port", "0"]
    store = {"BATCHFLOW_URL": f"sqlite:///{folder / 'server.db'}", "BATCHFLOW_LOG_LEVEL": "warning"}
    process = subprocess.Popen(
        command, env={**os.environ, **store}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    try:
        found: dict[str, str] = {}
        for line in process.stdout:
            name, _, value = line.strip().removeprefix("export ").partition("=")
            found[name] = value.strip("'\"")
            if line.startswith("Serving"):
                break
        yield {name: value for name, value in found.items() if name.startswith("QSTASH_")}, process
    finally:
        process.terminate()
        process.wait()


def _raw_inserts(folder: Path) -> float:
    """Rows of the same size per second into a table of SQLite, 500 a transaction, synchronous=FULL."""
    connection = sqlite3.connect(folder / "inserts.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE message (id TEXT PRIMARY KEY, due INTEGER, body TEXT) WITHOUT ROWID")
    begun = time.perf_counter()
    for first in range(0, DELIVERIES, CHUNK):
        connection.execute("BEGIN IMMEDIATE")
        rows = [(f"msg_{number:09d}", 0, BODY.decode()) for number in range(first, first + CHUNK)]
        connection.executemany("INSERT INTO message VALUES (?, ?, ?)", rows)
        connection.execute("COMMIT")
    taken = time.perf_counter() - begun
    connection.close()
    return DELIVERIES / taken


async def post_log(folder: Path) -> Figures:
    """100,000 rows of the log, 500 a call."""
    async with _pushing_app(folder, _Instant()) as flow:
        store = cast("WireStore", flow.engine.store)
        cpu = time.process_time()
        rows = 100_000
        for first in range(0, rows, CHUNK):
            await store.log([LogEntry(f"msg_{first + at:09d}", TENANT, "ACTIVE", 0) for at in range(CHUNK)])
        return {"row_us": (time.process_time() - cpu) / rows * 1e6}


def _figures(name: str, count: int, begun: float, cpu: float) -> Figures:
    return {f"{name}_per_s": count / (time.perf_counter() - begun), f"{name}_cpu_us": cpu / count * 1e6}
