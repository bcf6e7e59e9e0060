"""The demo on QStash: a server of your own, a store and the app, each a process, for the time of one batch.

python -m examples.welcome_placeholder.demo_qstash
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

PYTHON = (sys.executable, "-m")
PAUSE = 0.2


def main() -> None:
    """Run it; Ctrl-C ends all that it has started."""
    with TemporaryDirectory(prefix="batchflow-demo-") as folder, ExitStack() as stack, suppress(KeyboardInterrupt):
        demo = Demo(Path(folder), stack)
        store = demo.start_store()
        qstash = demo.start_qstash()
        run_batch(demo.start_app({**qstash, "BATCHFLOW_URL": "qstash://", "BATCHFLOW_STORE": store}))


class Demo:
    """The processes of a demo, whose files are in `folder`; they end with `stack`."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack

    def start_store(self) -> str:
        """Start Redis if it is installed; the URL of the store."""
        if shutil.which("redis-server") is None:
            print("Redis is not installed, so the state of the batch is in a SQLite file.")
            return f"sqlite:///{self._folder}/batches.db"
        port = free_port()
        redis = self._start("redis-server", "--port", str(port), "--save", "", "--dir", str(self._folder))
        wait_for(redis, lambda: socket.create_connection(("127.0.0.1", port), 1).close())
        print(f"The state of the batch is in Redis, port {port}.")
        return f"redis://127.0.0.1:{port}"

    def start_qstash(self) -> dict[str, str]:
        """Start a QStash; the variables that its apps need."""
        url = f"sqlite:///{self._folder}/qstash.db"
        server = self._start(*PYTHON, "batchflow.cli", "server", "--port", "0", "--url", url)
        assert server.stdout is not None
        found: dict[str, str] = {}
        for line in server.stdout:
            if line.startswith("QSTASH_"):
                name, _, found[name] = line.strip().partition("=")
            if "Ctrl-C" in line:
                break
        print(f"QStash is `batchflow server`, {found['QSTASH_URL']}.")
        return found

    def start_app(self, variables: dict[str, str]) -> str:
        """Start the app of `main.py`; the URL of its router."""
        port = free_port()
        url = f"http://127.0.0.1:{port}/api/workflows"
        own = {"APP_URL": url, "WELCOME_DB": f"{self._folder}/welcome.db", "BATCHFLOW_LOG_LEVEL": "WARNING"}
        target = "examples.welcome_placeholder.main:app"
        app = self._start(*PYTHON, "uvicorn", target, "--port", str(port), "--log-level", "warning", **variables, **own)
        wait_for(app, lambda: httpx.get(f"{url}/health").raise_for_status())
        print(f"The app is served by uvicorn, {url}; it has no worker: QStash calls it for each item.")
        return url

    def _start(self, *command: str, **variables: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(command, env=os.environ | variables, stdout=subprocess.PIPE, text=True)
        self._stack.enter_context(ending(process))
        return process


def run_batch(app: str) -> None:
    """Start a batch and show its progress and its result."""
    url = f"{app}/welcome-placeholder/process-users"
    started = httpx.post(url, json={"paidOnly": True}).raise_for_status().json()
    print(f"\nPOST {url}\n  {started['batchId']}: texts for 400 subscribers, up to 150 a second\n")
    batch: dict[str, Any] = {}
    while batch.get("state") not in ("completed", "failed", "cancelled"):
        time.sleep(PAUSE)
        batch = httpx.get(f"{app}/batches/{started['batchId']}").raise_for_status().json()
        counts = batch["counts"]
        print(f"\r  {counts['succeeded']} of {counts['eligible']} done, {counts['failed']} failed ", end="", flush=True)
    print(f"\n\nThe batch has {batch['state']}; all that was started ends now.")


@contextmanager
def ending(process: "subprocess.Popen[str]") -> Generator[None]:
    """End a process at the end of the block."""
    with process:
        try:
            yield
        finally:
            process.terminate()


def wait_for(process: "subprocess.Popen[str]", attempt: Callable[[], object]) -> None:
    """Try something until it works, while the process that has to answer runs."""
    while process.poll() is None:
        try:
            attempt()
        except (OSError, httpx.HTTPError):
            time.sleep(PAUSE)
        else:
            return
    sys.exit(f"'{process.args}' has ended")


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    main()
