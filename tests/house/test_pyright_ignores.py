"""Silenced type errors are few, and each says which rule and why."""

import ast
import re
from collections.abc import Iterator

from tests.house.sources import Source, sources

AT_MOST = 10
IGNORE = re.compile(r"#\s*(?:pyright|type):\s*ignore\b")
# The reason follows the rule: `# pyright: ignore[reportPrivateUsage]: redis has no public name for it`.
EXPLAINED = re.compile(r"#\s*(?:pyright|type):\s*ignore\[[\w-]+(?:\s*,\s*[\w-]+)*\]\W*\w.{9,}")
WHOLE_FILE = re.compile(r"#\s*(?:pyright:(?!\s*ignore\b)|mypy:|type:\s*ignore-errors)")


def silenced(source: Source) -> Iterator[tuple[str, str]]:
    for line, comment in source.comments():
        if IGNORE.search(comment):
            yield f"{source.path}:{line}", comment


def found() -> list[tuple[str, str]]:
    return [case for source in sources("batchflow") for case in silenced(source)]


def test_ignores_are_few() -> None:
    """The whole package has at most ten."""
    places = [place for place, _ in found()]
    assert len(places) <= AT_MOST, places


def test_every_ignore_names_its_rule_and_reason() -> None:
    """An ignore without a rule hides more than was meant; one without a reason is never removed."""
    assert [place for place, comment in found() if not EXPLAINED.search(comment)] == []


def test_no_file_is_checked_less_strictly() -> None:
    """The strictness of a file is not turned down by a comment."""
    turned_down = [
        f"{source.path}:{line}"
        for source in sources("batchflow")
        for line, comment in source.comments()
        if WHOLE_FILE.search(comment)
    ]
    assert turned_down == []


def test_the_rule_reads_comments_only() -> None:
    """Text that looks like an ignore is not one; rule and reason are both wanted."""
    text = 'a = "# type: ignore"\nb = 1  # type: ignore\nc = 2  # pyright: ignore[reportAny]: lua returns anything\n'
    source = Source(path="a.py", text=text, tree=ast.parse(text))
    assert [place for place, _ in silenced(source)] == ["a.py:2", "a.py:3"]
    assert [bool(EXPLAINED.search(comment)) for _, comment in silenced(source)] == [False, True]


def test_an_ignore_is_not_a_setting_of_its_file() -> None:
    """A comment that silences one line does not count as one that turns the strictness of its file down."""
    comments = [
        "# pyright: ignore[reportAny]",
        "# pyright:  ignore",
        "# pyright: basic",
        "#pyright:strict=false",
        "# mypy: x",
    ]
    assert [bool(WHOLE_FILE.search(comment)) for comment in comments] == [False, False, True, True, True]
