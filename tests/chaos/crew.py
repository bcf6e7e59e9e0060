"""The worker processes of a run: started, killed, stopped, continued, and started again where they leave."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.house.sources import ROOT


class Life(NamedTuple):
    """One process; `name` is what its traces say."""

    name: str
    process: "subprocess.Popen[bytes]"


class Crew:
    """One process for each URL at a time, whose output and traces go to a folder."""

    def __init__(
        self, target: str, urls: Sequence[str], folder: Path, concurrency: int, surroundings: Mapping[str, str]
    ) -> None:
        self.folder = folder
        self._command = ["-m", "batchflow.cli", "worker", target, "--concurrency", str(concurrency)]
        self._urls = urls
        self._surroundings = surroundings
        self._lives: list[Life] = []
        self._begun = 0
        self.left: list[str] = []
        """Who left by themselves, and how."""

    def start(self) -> None:
        """Start a worker for each URL."""
        self._lives = [self._start(slot) for slot in range(len(self._urls))]

    def look(self) -> None:
        """Start again who has left, as a supervisor does."""
        for slot, life in enumerate(self._lives):
            code = life.process.poll()
            if code is not None:
                self.left.append(f"{life.name}: {code}")
                self._lives[slot] = self._start(slot)

    def names(self) -> list[str]:
        """Who is there now."""
        return [life.name for life in self._lives]

    def pid(self, slot: int) -> int:
        """The process of a slot."""
        return self._lives[slot].process.pid

    def kill(self, slot: int) -> str:
        """Kill a worker and start the next; who it was."""
        life = self._lives[slot]
        life.process.kill()
        life.process.wait()
        self._lives[slot] = self._start(slot)
        return life.name

    def relieve(self, slot: int) -> int:
        """Have a worker stop in good order, and start the next; its exit code."""
        process = self._lives[slot].process
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=60)
        self._lives[slot] = self._start(slot)
        return code

    def signal(self, slot: int, name: str, number: int) -> bool:
        """Send a signal to a worker, if it is still the one of that name."""
        life = self._lives[slot]
        if life.name != name or life.process.poll() is not None:
            return False
        life.process.send_signal(number)
        return True

    def end(self) -> list[int]:
        """Have all stop in good order; their exit codes."""
        for life in self._lives:
            life.process.send_signal(signal.SIGTERM)
        return [life.process.wait(timeout=60) for life in self._lives]

    def clear(self) -> None:
        """None outlives the run, however it ended."""
        for life in self._lives:
            life.process.kill()
            life.process.wait()

    def _start(self, slot: int) -> Life:
        name = f"w{slot}.{self._begun}"
        self._begun += 1
        added = {
            "BATCHFLOW_URL": self._urls[slot],
            "BATCHFLOW_LOG_LEVEL": "INFO",
            "CHAOS_FOLDER": str(self.folder),
            "CHAOS_WORKER": name,
        }
        environment = {**os.environ, **self._surroundings, **added}
        with (self.folder / f"{name}.out").open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *self._command], cwd=ROOT, env=environment, stdout=output, stderr=output
            )
        return Life(name, process)
