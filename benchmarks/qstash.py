"""Functions and batches on QStash: ours beside the official SDK's for JavaScript, on the same `batchflow server`.

`python -m benchmarks.qstash [--write]` prints the table of docs/benchmarks.md.
"""

import argparse
import asyncio
import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import httpx

from batchflow.wire.submissions import Address, RunSettings, batch_submission, init_item
from benchmarks import page
from benchmarks.on_redis import server as redis_server
from benchmarks.push import cpu_of, server_process

Figures = dict[str, float]

STEPS = 10
RUNS = 30
ALONE = 5
ITEMS = 500
ROUNDS = 3
COLUMNS = ("", "batchflow", "SDK of JavaScript", "ratio")
JAVASCRIPT = Path(__file__).parents[1] / "tests" / "sdk" / "js"


async def qstash_functions(folder: Path) -> Figures:
    """Runs of ten steps, alone and thirty at once; nothing if there is no node with the SDK."""
    return await _by_turns(folder, {"python": {}, "js": {}}, _measure)


async def qstash_batches(folder: Path) -> Figures:
    """A batch of 500 items of one step, with our store on SQLite and on Redis, and as it is written by hand in JS."""
    with redis_server(folder) as url:
        stores = {
            "sqlite": {"BATCHFLOW_STORE": f"sqlite:///{folder / 'items.db'}"},
            "redis": {"BATCHFLOW_STORE": url},
            "js": {},
        }
        return await _by_turns(folder, stores, lambda app: app.batch())


async def _by_turns(
    folder: Path,
    environments: Mapping[str, Mapping[str, str]],
    measure: Callable[["_App"], Awaitable[Figures]],
) -> Figures:
    """The medians of what apps in these environments need; that of "js" is in JavaScript."""
    node = shutil.which("node")
    if node is None or not (JAVASCRIPT / "node_modules" / "@upstash" / "workflow").is_dir():
        return {}
    commands = {"js": [node, str(JAVASCRIPT / "benchmark.mjs")]}
    python = [sys.executable, "-m", "benchmarks.qstash_app"]
    with server_process(folder) as (common, server), contextlib.ExitStack() as stack:
        url, token = common["QSTASH_URL"], {"Authorization": f"Bearer {common['QSTASH_TOKEN']}"}
        common = {**common, "BENCHMARK_FOLDER": str(folder)}
        async with httpx.AsyncClient(base_url=url, headers=token, timeout=60) as http:
            apps = {
                name: _App(*stack.enter_context(_serving(commands.get(name, python), {**common, **own})), server, http)
                for name, own in environments.items()
            }
            # In the first round they import, compile and connect.
            rounds = [{name: await measure(app) for name, app in apps.items()} for _ in range(1 + ROUNDS)][1:]
    return {
        f"{name}_{what}": statistics.median(it[name][what] for it in rounds)
        for name in apps
        for what in rounds[0][name]
    }


async def _measure(app: "_App") -> Figures:
    found = {"alone_ms": statistics.median([(await app.run("sequential", 1))["ms"] for _ in range(ALONE)])}
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
        return await self._cost(self._start(kind, "null", runs), ends=runs, units=runs * STEPS, requests_of=runs)

    async def batch(self) -> Figures:
        """Start a batch, wait for the ends of its items, and return what an item of it has cost."""
        if (await self.http.get(f"{self.url}/figures")).json()["has_batch"]:
            started = self._post(f"{self.url}/measured/process-items", {}, b'{"force": true}')
        else:
            started = self._start("process-items", f'{{"items": {ITEMS}}}', 1)
        return await self._cost(started, ends=ITEMS, units=ITEMS, requests_of=ITEMS)

    async def _cost(self, start: Awaitable[None], *, ends: int, units: int, requests_of: int) -> Figures:
        before = await self._counts()
        cpu, of_server, begun = cpu_of(self.process), cpu_of(self.server), time.perf_counter()
        await start
        # The app has nothing that could be waited for.
        while (counts := await self._counts())["ended"] < before["ended"] + ends:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        taken = time.perf_counter() - begun
        return {
            "ms": taken / units * 1e3,
            "cpu_us": (cpu_of(self.process) - cpu) / units * 1e6,
            "server_cpu_us": (cpu_of(self.server) - of_server) / units * 1e6,
            "got": (counts["got"] - before["got"]) / requests_of,
            "sent": (counts["sent"] - before["sent"]) / requests_of,
        }

    async def _counts(self) -> Mapping[str, int]:
        """The requests that it has got and sent, and the runs that have ended."""
        return (await self.http.get(f"{self.url}/figures")).json()

    async def _start(self, kind: str, payload: str, runs: int) -> None:
        addresses = (Address(f"wfr_{os.urandom(8).hex()}", f"{self.url}/{kind}") for _ in range(runs))
        path, headers, body = batch_submission([init_item(it, payload, RunSettings()) for it in addresses])
        await self._post(path, headers, body)

    async def _post(self, path: str, headers: Mapping[str, str], body: bytes) -> None:
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


def rows(functions: Figures, batches: Figures) -> list[tuple[str, ...]]:
    """What both need, and the ratio of ours to theirs; none without node."""
    if not functions:
        return []
    alone, theirs = functions["python_alone_ms"], functions["js_alone_ms"]
    found = [_row("a step of a run alone: time", alone, theirs, "ms")]
    for kind, what in (("sequential", "30 runs of ten steps"), ("parallel", "… of ten steps at the same time")):
        found += _rows(f"{what}: a step", functions, f"python_{kind}", f"js_{kind}", "a run")
    for store in ("SQLite", "Redis"):
        found += _rows(f"{ITEMS} items, {store}: an item", batches, store.lower(), "js", "an item")
    return found


def _rows(what: str, it: Figures, ours: str, theirs: str, whole: str) -> list[tuple[str, ...]]:
    labels = (
        (f"{what}: time", "ms", "ms"),
        ("… CPU of the app", "cpu_us", "us"),
        ("… CPU of the server", "server_cpu_us", "us"),
        (f"… requests from QStash, {whole}", "got", ""),
        (f"… requests to QStash, {whole}", "sent", ""),
    )
    return [_row(label, it[f"{ours}_{figure}"], it[f"{theirs}_{figure}"], unit) for label, figure, unit in labels]


def _row(what: str, ours: float, theirs: float, unit: str) -> tuple[str, ...]:
    shown = (f"{it:,.0f} {unit}" if it >= 100 else f"{it:.1f} {unit}" if unit else f"{it:.2f}" for it in (ours, theirs))
    return (what, *shown, f"{ours / theirs:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.qstash", description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    write = parser.parse_args().write
    measured: list[Figures] = []
    for scenario in (qstash_functions, qstash_batches):
        with tempfile.TemporaryDirectory() as folder:
            measured.append(asyncio.run(scenario(Path(folder))))
    found = rows(*measured)
    for row in found:
        print(" | ".join(row))
    if write and found:
        heading = f"`python -m benchmarks.qstash --write` on {page.machine()}, medians of {ROUNDS} rounds."
        page.write("qstash", heading, COLUMNS, found)


if __name__ == "__main__":
    main()
