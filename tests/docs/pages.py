"""The pages of the documentation, and the code blocks in them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
MEASURED = "docs/benchmarks.md"
"""Written by the benchmarks, and not from here."""

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[\w-]*)\s*$")
_MARK = re.compile(r"^\s*<!--\s*(?P<kind>not run|file|exit)\s*:\s*(?P<value>.+?)\s*-->\s*$")
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#+\s+(?P<title>.+?)\s*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block. `line` is that of its first line of text, counted from 1; `marks` stand in comments above it."""

    language: str
    text: str
    line: int
    marks: dict[str, str]


def pages() -> list[str]:
    """README and everything below docs, as paths from the root."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [path.relative_to(ROOT).as_posix() for path in found if path.relative_to(ROOT).as_posix() != MEASURED]


def read(page: str) -> str:
    """The text of a page."""
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(text: str) -> list[Block]:
    """The fenced blocks, in their order."""
    found: list[Block] = []
    marks: dict[str, str] = {}
    inside: list[str] | None = None
    language, indent, first = "", "", 0
    for number, line in enumerate(text.splitlines(), 1):
        fence = _FENCE.match(line)
        if inside is not None:
            if fence and not fence["language"]:
                body = "".join(f"{it.removeprefix(indent)}\n" for it in inside)
                found.append(Block(language=language, text=body, line=first, marks=marks))
                inside, marks = None, {}
            else:
                inside.append(line)
        elif fence:
            inside, language, indent, first = [], fence["language"], fence["indent"], number + 1
        elif mark := _MARK.match(line):
            marks[mark["kind"]] = mark["value"]
        elif line.strip():
            marks = {}
    assert inside is None, f"the block at line {first} is not closed"
    return found


def prose(text: str) -> str:
    """The text without its blocks."""
    kept: list[str] = []
    inside = False
    for line in text.splitlines():
        if _FENCE.match(line):
            inside = not inside
        elif not inside:
            kept.append(line)
    return "\n".join(kept)


def links(text: str) -> Iterator[str]:
    """Where the links of a page go."""
    return (match["target"] for match in _LINK.finditer(prose(text)))


def anchors(text: str) -> set[str]:
    """The names that the headings of a page can be linked by."""
    titles = (match["title"] for line in prose(text).splitlines() if (match := _HEADING.match(line)))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
