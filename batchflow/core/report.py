"""The stored text of a failure: a headline, and below it the traceback."""

import re

MAX_LINE = 500
"""The maximum number of characters of an error in one line."""

TRACEBACK_HEADER = "\nTraceback (most recent call last):\n"
"""The separator of headline and traceback."""

_ADVICE = re.compile(r"^\s*For further information visit \S+$", re.MULTILINE)


def headline(text: str) -> str:
    """Return the text without the traceback."""
    return text.partition(TRACEBACK_HEADER)[0]


def traceback_text(text: str) -> str:
    """Return the traceback of a text, or an empty text."""
    _, found, frames = text.partition(TRACEBACK_HEADER)
    return f"{found.lstrip()}{frames}" if found else ""


def one_line(text: str) -> str:
    """Return a text in one line of at most `MAX_LINE` characters, without pydantic's advice where to read on."""
    line = " ".join(_ADVICE.sub("", text).split())
    return line if len(line) <= MAX_LINE else f"{line[: MAX_LINE - 1]}…"
