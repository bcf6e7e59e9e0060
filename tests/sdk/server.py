"""A process of `batchflow server`, and the clients of its tenants."""

import re
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from qstash import QStash
from qstash.http import RetryConfig

from tests.house.sources import ROOT
from tests.stores import redis_server
from tests.waiting import wait_until_sync

COMMAND = [sys.executable, "-m", "batchflow.cli"]


class ServerProcess:
    """One server on a port of its own; `environment` is what its first start says to put into that of an app."""

    def __init__(self, store: str, folder: Path, name: str = "server") -> None:
        self.store = store
        self.port = redis_server.free_port()
        self._output = folder / f"{name}.out"
        self.start()
        printed = re.findall(r"^(QSTASH_\w+)=(.+)$", self.output(), re.MULTILINE)
        self.environment: Mapping[str, str] = dict(printed)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self._process.pid

    def output(self) -> str:
        """All that it has printed since it was started last."""
        return self._output.read_text()

    def start(self) -> None:
        """Start it, and wait until it serves."""
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [*COMMAND, "server", "--port", str(self.port), "--url", self.store],
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        wait_until_sync(
            lambda: "Serving QStash at" in self.output() or self._process.poll() is not None,
            description="the server serves",
        )
        assert self._process.poll() is None, self.output()

    def kill(self) -> None:
        """End it at once, as a crash does."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """Stop it in good order; its exit code."""
        self._process.terminate()
        try:
            return self._process.wait(timeout=30)
        finally:
            self.kill()

    def add_tenant(self, name: str) -> Mapping[str, str]:
        """The environment of a new tenant."""
        added = subprocess.run(
            [*COMMAND, "tokens", "add", name, "--url", self.store],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        return {"QSTASH_URL": self.url, **dict(re.findall(r"^(QSTASH_\w+)=(.+)$", added.stdout, re.MULTILINE))}


@contextmanager
def empty_store(kind: str, folder: Path) -> Generator[str]:
    """The URL of an empty store, whose data is in a folder."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'qstash.db'}"
    else:
        with redis_server.served(folder) as redis:
            yield redis.url


@contextmanager
def servers_of(kind: str, folder: Path) -> Generator[Sequence[ServerProcess]]:
    """The servers of one empty store, as many as use it in earnest."""
    with empty_store(kind, folder) as url, ExitStack() as running:
        servers: list[ServerProcess] = []
        for number in range(1 if kind == "sqlite" else 2):
            servers.append(ServerProcess(url, folder, f"server-{number}"))
            running.callback(servers[-1].kill)
        yield servers


@contextmanager
def client_of(environment: Mapping[str, str], retry: RetryConfig | None = None) -> Generator[QStash]:
    """The SDK's client, whose connections are closed at the end: it has no verb for that."""
    client = QStash(environment["QSTASH_TOKEN"], retry=retry, base_url=environment["QSTASH_URL"])
    try:
        yield client
    finally:
        vars(client.http)["_client"].close()
