"""Processes of an app on QStash that a test kills, and what calls the app in place of a schedule of QStash."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from tests.house.sources import ROOT
from tests.stores import redis_server

LOOK_EVERY_S = 1


class AppProcess:
    """An app, on a port of its own; `evidence` is what it has written, from all its lives."""

    def __init__(self, environment: Mapping[str, str], folder: Path, program: str = "killed_app") -> None:
        self._program = f"tests.qstash.{program}:app"
        self.port = redis_server.free_port()
        self._evidence = folder / "evidence"
        self.environment = {
            **environment,
            "APP_URL": f"http://127.0.0.1:{self.port}/",
            "EVIDENCE": str(self._evidence),
        }
        self._output = (folder / "app.out").open("ab")
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "uvicorn", self._program, "--port", str(self.port)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **self.environment}, stdout=self._output, stderr=subprocess.STDOUT
        )

    @property
    def is_serving(self) -> bool:
        """True if it can be connected to."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        """End it at once, as a crash does."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.kill()
        self._output.close()

    def evidence(self) -> list[dict[str, Any]]:
        # A line is written at once, or not at all.
        return [json.loads(it) for it in self._evidence.read_text().splitlines()] if self._evidence.exists() else []


@contextmanager
def looking(environment: Mapping[str, str]) -> Generator[None]:
    """Have QStash call the app with this environment all the time, as its schedule does each five minutes."""
    url = f"{environment['QSTASH_URL']}/v2/publish/{environment['APP_URL']}deliveries"
    headers = {"authorization": f"Bearer {environment['QSTASH_TOKEN']}", "upstash-retries": "0"}
    is_over = threading.Event()

    def look() -> None:
        while not is_over.wait(LOOK_EVERY_S):
            with suppress(httpx.TransportError):
                httpx.post(url, headers=headers, content="{}")

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
