"""Where the programs of scenarios run in processes of their own: on a store, or on a QStash of ours with a store."""

import os
import socket
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.house.sources import ROOT
from tests.qstash.processes import looking
from tests.scenarios.working import LISTENER
from tests.sdk.server import ServerProcess, empty_store

Process = subprocess.Popen[bytes]


@dataclass(frozen=True)
class Place:
    """Where programs run. `store` has the batches."""

    url: str
    store: str
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    server: ServerProcess | None = None

    @property
    def is_qstash(self) -> bool:
        """True if QStash has the runs of functions, and calls the app for batches."""
        return self.server is not None

    @property
    def output(self) -> Path:
        """All that the programs have printed."""
        return self.folder / "output"

    def start(self, program: str, *arguments: object) -> Process:
        """Start a program of this folder with the URL of the app, and with these arguments."""
        command = [sys.executable, "-m", f"tests.scenarios.{program}", self.url, *map(str, arguments)]
        sockets = [int(self.environment[LISTENER])] if self.is_qstash else []
        environment = {**os.environ, **self.environment}
        with self.output.open("ab") as output:
            return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output, pass_fds=sockets)

    @contextmanager
    def started(self, count: int, program: str, *arguments: object) -> Generator[list[Process]]:
        """Processes of a program, which are killed at the end of the block."""
        processes = [self.start(program, *arguments) for _ in range(count)]
        try:
            yield processes
        finally:
            for process in processes:
                process.kill()
                process.wait()


@contextmanager
def placed(kind: str, folder: Path) -> Generator[Place]:
    """A place without anything: `sqlite` or `redis`, or `qstash-sqlite` or `qstash-redis` for these beside QStash."""
    engine, _, store = kind.rpartition("-")
    with empty_store(store, folder) as url:
        if not engine:
            yield Place(url, url, folder)
            return
        (own := folder / "server").mkdir()
        server = ServerProcess(f"sqlite:///{own / 'server.db'}", own)
        try:
            # All processes of the app share it: what comes while none is there waits.
            with socket.create_server(("127.0.0.1", 0)) as listener:
                environment = {
                    **server.environment,
                    "BATCHFLOW_STORE": url,
                    "APP_URL": f"http://127.0.0.1:{listener.getsockname()[1]}/",
                    LISTENER: str(listener.fileno()),
                }
                with looking(environment):
                    yield Place("qstash://", url, folder, environment, server)
        finally:
            server.kill()
