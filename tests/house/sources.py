"""The repository's Python files as the house rules see them: path, text and tree."""

import ast
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("batchflow", "examples", "tests", "benchmarks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One file; `path` is relative to the root and uses forward slashes."""

    path: str
    text: str
    tree: ast.Module

    def place(self, node: ast.stmt | ast.expr) -> str:
        """Where a node stands, as editors read it."""
        return f"{self.path}:{node.lineno}"

    def comments(self) -> Iterator[tuple[int, str]]:
        """Every comment with its line number; text inside strings is not one."""
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string


@cache
def sources(*folders: str) -> tuple[Source, ...]:
    """All Python files below the given folders of the repository."""
    files = sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))
    return tuple(_source(file) for file in files)


def _source(file: Path) -> Source:
    text = file.read_text(encoding="utf-8")
    return Source(path=file.relative_to(ROOT).as_posix(), text=text, tree=ast.parse(text, filename=str(file)))
