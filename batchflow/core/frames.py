"""Frames of a stack or a traceback: the user's own, told apart from those of libraries, and their names."""

import re
import sysconfig
from pathlib import Path

_PACKAGE = re.escape(str(Path(__file__).parents[1]))
_STDLIB = re.escape(sysconfig.get_path("stdlib"))

# Written by this process, or by one of another machine.
_BATCHFLOW = re.compile(rf"^{_PACKAGE}[/\\]|[/\\](?:site|dist)-packages[/\\]batchflow[/\\]")
_LIBRARY = re.compile(
    rf"^{_STDLIB}[/\\]|^<frozen |[/\\](?:site|dist)-packages[/\\]|[/\\]lib(?:64)?[/\\]python3\.\d+[/\\]"
)


def is_batchflow(path: str) -> bool:
    """True for a file of batchflow itself."""
    return _BATCHFLOW.search(path) is not None


def is_library(path: str) -> bool:
    """True for a file of batchflow, of an installed package or of the standard library."""
    return is_batchflow(path) or _LIBRARY.search(path) is not None


def place(path: str, line: int, function: str) -> str:
    """The name of a place in code: "reviews.py:41 in execute"."""
    file = path.replace("\\", "/").rpartition("/")[2]
    return f"{file}:{line} in {function}"
