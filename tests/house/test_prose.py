"""Docstrings and pages are plain English: an agent and a verb, and one meaning for each class name."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.sources import ROOT, Source, sources

PACKAGES = ("batchflow", "pytest_batchflow")
PAGES = ("README.md", "CONTRIBUTING.md", "docs/**/*.md")

QUESTION = re.compile(r"\s*(What|Who|How|Whether|Where|Which)\b")
# "There is no batch" is plain; "that is no batch" is not. A code span or quote may follow.
IS_NO = re.compile(
    r"(?<!here )\b(is|are|was|were)\s+"
    r"(none\b(?!\s+of)|no\s+(?!longer\b|more\b|less\b|fewer\b|later\b|earlier\b|matter\b|way\b|such\b)[\w`'\"])"
)


def docstrings(source: Source) -> Iterator[tuple[int, str]]:
    """Every docstring, also those below attributes, with its line."""
    for node in ast.walk(source.tree):
        for statement in getattr(node, "body", []) if not isinstance(node, ast.Lambda | ast.IfExp) else []:
            match statement:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    yield statement.lineno, text
                case _:
                    pass


def class_names(source: Source) -> Iterator[tuple[str, int]]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ClassDef):
            yield node.name, node.lineno


def is_no(text: str) -> list[str]:
    """The lines that say "is no X" or "is none" for "is not an X"."""
    flat = text.replace("\n", " ")
    return [
        f"{text.count(chr(10), 0, found.start()) + 1}: {flat[max(0, found.start() - 30) : found.end() + 30]}"
        for found in IS_NO.finditer(flat)
    ]


def prose_files() -> list[Path]:
    python = [ROOT / source.path for source in sources(*PACKAGES)]
    queries = [file for suffix in ("lua", "sql") for file in sorted((ROOT / "batchflow").rglob(f"*.{suffix}"))]
    pages = [file for pattern in PAGES for file in sorted(ROOT.glob(pattern))]
    return [*python, *queries, *pages]


def test_no_class_name_has_two_meanings() -> None:
    """A search for a class finds one."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    for source in sources(*PACKAGES):
        for name, line in class_names(source):
            places[name].append(f"{source.path}:{line}")
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_docstrings_do_not_begin_with_a_question_word() -> None:
    """A docstring is a sentence about the code, not a clause that the reader has to complete."""
    found = [
        f"{source.path}:{line}: {text.splitlines()[0]}"
        for source in sources(*PACKAGES)
        for line, text in docstrings(source)
        if QUESTION.match(text)
    ]
    assert found == []


def test_prose_says_is_not() -> None:
    """ "That is no batch" is a riddle; "that is not a batch" is a sentence."""
    found = [
        f"{file.relative_to(ROOT)}:{place}"
        for file in prose_files()
        for place in is_no(file.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize("text", ["it is no batch", "a server that is none", "bytes that are no\ntext"])
def test_the_rule_sees_a_riddle(text: str) -> None:
    """Across lines too."""
    assert len(is_no(text)) == 1


@pytest.mark.parametrize("text", ["there is no batch", "it is no longer there", "is none of them", "is not a batch"])
def test_the_rule_lets_plain_english_pass(text: str) -> None:
    """An absence is one, and so is an end."""
    assert is_no(text) == []


def test_the_rule_sees_every_docstring() -> None:
    """Of modules, classes, functions and attributes."""
    text = '"""A."""\nclass B:\n    """What C."""\n    x = 1\n    """How."""\n    def f(self):\n        """Which."""\n'
    source = Source(path="a.py", text=text, tree=ast.parse(text))
    assert [line for line, found in docstrings(source) if QUESTION.match(found)] == [3, 5, 7]
    assert list(class_names(source)) == [("B", 2)]
