"""Frames of a stack or a traceback: the user's own, told apart from those of libraries, and their names."""

import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from batchflow.core.report import traceback_text

FRAME = re.compile(r'^(?P<indent>[ |]*)File "(?P<path>[^"]+)", line (?P<line>\d+), in (?P<name>\S.*)$', re.MULTILINE)
"""The line of a frame in a traceback."""

_CHAINED = re.compile(
    r"\n\n[ |]*(?:The above exception was the direct cause of|During handling of the above exception)[^\n]*\n\n"
)

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


def split_causes(traceback: str) -> list[str]:
    """Split a traceback into that of each error: those of the causes first, that of the error itself last."""
    return _CHAINED.split(traceback)


def user_frames(text: str) -> tuple[str, list[re.Match[str]]]:
    """Return the part of the traceback of a stored error that has frames of the user's own code, and these frames.

    The traceback of the error itself counts before those of its causes, which come earlier in the text.
    """
    for part in reversed(split_causes(traceback_text(text))):
        if found := list(_own(part)):
            return part, found
    return "", []


def _own(part: str) -> Iterator[re.Match[str]]:
    return (frame for frame in FRAME.finditer(part) if not is_library(frame["path"]))


def own_frame(text: str) -> str:
    """Return the user's own last frame of a stored error as "file.py:12 in function"; "" if there is none."""
    _, found = user_frames(text)
    return place(found[-1]["path"], int(found[-1]["line"]), found[-1]["name"]) if found else ""
