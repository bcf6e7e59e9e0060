"""Where a command writes: what was asked for to stdout, what went wrong and log lines to stderr."""

import json
import os
import shutil
import sys
from pathlib import Path

from rich.console import Console

_UNBOUND = 10_000
# Columns where nobody looks: a table in a file is not cut off.


class Output:
    """The two streams of one command. A `quiet` one says nothing to people."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.out = _console(stderr=False)
        self.err = _console(stderr=True)
        self.out.quiet = quiet

    def say(self, text: str = "", *, style: str = "", at_once: bool = False) -> None:
        """A line for people; `at_once`, where the command goes on for long and its output may be a pipe."""
        self.out.print(text, style=style or None, soft_wrap=True)
        if at_once:
            self.out.file.flush()

    def document(self, value: object) -> None:
        """The one JSON document of a command that was asked for JSON."""
        print(json.dumps(value, indent=2, ensure_ascii=False))


def program() -> str:
    """How the user calls this command here: by its name, or by the path of the environment it is installed in."""
    if shutil.which("batchflow"):
        return "batchflow"
    script = Path(sys.executable).parent / "batchflow"
    return min(os.path.relpath(script), str(script), key=len) if script.exists() else "python -m batchflow.cli"


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _UNBOUND
    return console
