"""What workers leave behind of what they executed: a line for each, which survives the worker.

`began`: a step begins to execute; `came`: what `ctx.run` returned, which is durable by then. A line holds what
happened, step, item, fence of the claim, the id of the execution (the one that began, or the one whose result came
back), and when. An execution is named after its worker: `<slot>.<life>.<count>`.
"""

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SUFFIX = ".trace"


class Trace(NamedTuple):
    """One line; `at` is on the machine's monotonic clock, in ns, which all processes share."""

    what: str
    step: str
    item: str
    fence: int
    execution: str
    at: int

    @property
    def worker(self) -> str:
        """Who executed it."""
        return self.execution.rpartition(".")[0]


class Writer:
    """Writes the traces of one worker."""

    def __init__(self, folder: Path, worker: str) -> None:
        # One write per line with O_APPEND: a kill never leaves half a line.
        self._file = os.open(folder / f"{worker}{SUFFIX}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._worker = worker
        self._count = itertools.count()

    def began(self, step: str, item: str, fence: int) -> str:
        """A step begins; the id of its execution."""
        execution = f"{self._worker}.{next(self._count)}"
        self._write("began", step, item, fence, execution)
        return execution

    def came(self, step: str, item: str, fence: int, execution: str) -> None:
        """The result of a step came back."""
        self._write("came", step, item, fence, execution)

    def _write(self, what: str, step: str, item: str, fence: int, execution: str) -> None:
        os.write(self._file, f"{what} {step} {item} {fence} {execution} {time.monotonic_ns()}\n".encode())


class Reader:
    """Reads the traces of all workers as they come in."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}
        self.traces: list[Trace] = []

    def follow(self) -> Iterator[Trace]:
        """What has come in since the last time."""
        for file in self._folder.glob(f"*{SUFFIX}"):
            with file.open("rb") as opened:
                opened.seek(self._read.get(file, 0))
                text = opened.read()
            # Who reads while another writes may see the beginning of a line.
            text = text[: text.rfind(b"\n") + 1]
            self._read[file] = self._read.get(file, 0) + len(text)
            for line in text.decode().splitlines():
                what, step, item, fence, execution, at = line.split()
                trace = Trace(what, step, item, int(fence), execution, int(at))
                self.traces.append(trace)
                yield trace
