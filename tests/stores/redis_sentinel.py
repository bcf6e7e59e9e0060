"""A primary, a replica and a Sentinel that watches them, for tests: of our own, on free ports."""

import shutil
import subprocess
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import redis

from tests.stores.redis_server import Server, free_port, served
from tests.waiting import wait_until_sync

SERVICE = "main"
CONFIGURATION = """
port {port}
bind 127.0.0.1
dir {folder}
sentinel monitor {service} 127.0.0.1 {primary} 1
sentinel down-after-milliseconds {service} 500
sentinel failover-timeout {service} 2000
"""


def pass_on(primary: Server) -> None:
    """Wait until the replica has all that the primary has written so far; what it has not is lost with the primary."""
    with primary.client() as client:
        # A connection waits for what it has written itself, and for all before it.
        client.incr("written")
        assert client.wait(1, 10_000) == 1
        client.delete("written")


class Watched:
    """The servers, and the Sentinel that knows which of them is the primary."""

    def __init__(self, primary: Server, replica: Server, folder: Path) -> None:
        self.servers = {primary.port: primary, replica.port: replica}
        self.port = free_port()
        configuration = folder / "sentinel.conf"
        configuration.write_text(
            CONFIGURATION.format(port=self.port, folder=folder, service=SERVICE, primary=primary.port)
        )
        binary = shutil.which("redis-server")
        assert binary is not None
        self._process = subprocess.Popen([binary, configuration, "--sentinel"], stdout=subprocess.DEVNULL)
        wait_until_sync(self._knows_the_replica, description="the Sentinel knows primary and replica")

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self.port}/{SERVICE}"

    @property
    def primary(self) -> Server:
        """The one that the Sentinel takes for it."""
        _, port = self.ask("SENTINEL GET-MASTER-ADDR-BY-NAME", SERVICE)
        return self.servers[int(port)]

    def ask(self, *words: object) -> Any:
        """Send the Sentinel a command; the answer."""
        made: Any = redis.Redis(port=self.port, decode_responses=True)
        with made as client:
            return client.execute_command(*words)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def _knows_the_replica(self) -> bool:
        try:
            (replica,) = self.ask("SENTINEL REPLICAS", SERVICE)
        except (redis.ConnectionError, ValueError):
            return False
        return replica["master-link-status"] == "ok" and replica["flags"] == "slave"


@contextmanager
def watched(folder: Path) -> Generator[Watched]:
    """All three; without redis-server on PATH the test is left out, which is a failure where one is required."""
    with ExitStack() as stack:
        servers: list[Server] = []
        for name in ("primary", "replica"):
            (folder / name).mkdir()
            options = ["--replicaof", f"127.0.0.1 {servers[0].port}"] if servers else []
            servers.append(stack.enter_context(served(folder / name, "--repl-diskless-sync-delay", "0", *options)))
        # Its link is up before the primary begins to pass anything on.
        pass_on(servers[0])
        made = Watched(servers[0], servers[1], folder)
        stack.callback(made.stop)
        yield made
