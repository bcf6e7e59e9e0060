"""A real Redis server for tests: of our own, on a free port, gone with the test run."""

import os
import shutil
import socket
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

REQUIRED = "BATCHFLOW_REQUIRE_REDIS"
MISSING = "no redis-server on PATH: what needs a real one was left out"


class Server:
    """One process of redis-server, with its data in `folder`."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.folder = folder
        self._options = options
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        fixed = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", ""]
        binary = shutil.which("redis-server")
        assert binary is not None
        self.process = subprocess.Popen([binary, *fixed, *self._options], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if "Ready to accept connections" in line:
                break
        else:
            raise AssertionError("redis-server did not start")

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def client(self, password: str | None = None) -> Any:
        """A client whose answers are text. Untyped, as much of redis-py is."""
        return redis.Redis(port=self.port, password=password, decode_responses=True)

    def raw(self) -> Any:
        """A client whose answers are bytes."""
        return redis.Redis(port=self.port)

    def all_keys(self) -> list[str]:
        with self.client() as client:
            return keys_of(client)


def keys_of(client: Any, pattern: str = "*") -> list[str]:
    """All keys there are; tests may look through them."""
    return sorted(client.scan_iter(pattern, count=1_000))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def served(folder: Path, *options: str) -> Generator[Server]:
    """A server; without one on PATH the test is left out, which is a failure where one is required."""
    if shutil.which("redis-server") is None:
        if os.environ.get("CI") or os.environ.get(REQUIRED) == "1":
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    server = Server(folder, *options)
    try:
        yield server
    finally:
        server.stop()
