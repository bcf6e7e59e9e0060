"""Functions on QStash: ours beside the official SDK's for JavaScript, on the same `batchflow server`."""

import asyncio
import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import httpx

from batchflow.wire.submissions import Address, RunSettings, batch_submission, init_item
from benchmarks.push import cpu_of, server_process

Figures = dict[str, float]

STEPS = 10
RUNS = 30
ROUNDS = 3
JAVASCRIPT = Path(__file__).parents[1] / "tests" / "sdk" / "js"


async def qstash_functions(folder: Path) -> Figures:
    """Runs of ten steps, alone and thirty at once; nothing if there is no node with the SDK."""
    node = shutil.which("node")
    if node is None or not (JAVASCRIPT / "node_modules" / "@upstash" / "workflow").is_dir():
        return {}
    commands = {
        "python": [sys.executable, "-m", "benchmarks.qstash_app"],
        "js": [node, str(JAVASCRIPT / "benchmark.mjs")],
    }
    with server_process(folder) as (environment, server), contextlib.ExitStack() as stack:
        url, token = environment["QSTASH_URL"], {"Authorization": f"Bearer {environment['QSTASH_TOKEN']}"}
        environment = {**environment, "BENCHMARK_FOLDER": str(folder)}
        async with httpx.AsyncClient(base_url=url, headers=token, timeout=60) as http:
            apps = {
                name: _App(*stack.enter_context(_serving(command, environment)), server, http)
                for name, command in commands.items()
            }
            # In the first round they import, compile and connect.
            rounds = [{name: await _measure(app) for name, app in apps.items()} for _ in range(1 + ROUNDS)][1:]
    return {
        f"{name}_{what}": statistics.median(it[name][what] for it in rounds)
        for name in apps
        for what in rounds[0][name]
    }


async def _measure(app: "_App") -> Figures:
    found = {"alone_ms": (await app.run("sequential", 1))["ms"]}
    for kind in ("sequential", "parallel"):
        found |= {f"{kind}_{what}": figure for what, figure in (await app.run(kind, RUNS)).items()}
    return found


class _App(NamedTuple):
    """An app that serves the measured functions at its URL, the server that calls it, and a client of that."""

    url: str
    process: "subprocess.Popen[str]"
    server: "subprocess.Popen[str]"
    http: httpx.AsyncClient

    async def run(self, kind: str, runs: int) -> Figures:
        """Start so many runs at once, wait for their ends, and return what a step or a run of them has cost."""
        before = await self._counts()
        cpu, of_server, begun = cpu_of(self.process), cpu_of(self.server), time.perf_counter()
        await self._start(kind, runs)
        # The app has nothing that could be waited for.
        while (counts := await self._counts())["ended"] < before["ended"] + runs:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        steps, taken = runs * STEPS, time.perf_counter() - begun
        return {
            "ms": taken / steps * 1e3,
            "cpu_us": (cpu_of(self.process) - cpu) / steps * 1e6,
            "server_cpu_us": (cpu_of(self.server) - of_server) / steps * 1e6,
            "got": (counts["got"] - before["got"]) / runs,
            "sent": (counts["sent"] - before["sent"]) / runs,
        }

    async def _counts(self) -> Mapping[str, int]:
        """The requests that it has got and sent, and the runs that have ended."""
        return (await self.http.get(f"{self.url}/figures")).json()

    async def _start(self, kind: str, runs: int) -> None:
        addresses = (Address(f"wfr_{os.urandom(8).hex()}", f"{self.url}/{kind}") for _ in range(runs))
        path, headers, body = batch_submission([init_item(it, "null", RunSettings()) for it in addresses])
        (await self.http.post(path, headers=headers, content=body)).raise_for_status()


@contextlib.contextmanager
def _serving(command: Sequence[str], environment: Mapping[str, str]) -> Generator[tuple[str, "subprocess.Popen[str]"]]:
    """The URL and the process of an app, which gets a listening socket as its argument."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        process = subprocess.Popen(
            [*command, str(listener.fileno())],
            env={**os.environ, **environment, "APP_URL": f"{url}/"},
            pass_fds=[listener.fileno()],
            text=True,
        )
    try:
        yield url, process
    finally:
        process.terminate()
        process.wait()
