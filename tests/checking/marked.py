"""Code whose findings are marked in it: `# !rule` at the end of a line that is to be found."""

import ast
import re
import textwrap

from batchflow.checking.check import check
from batchflow.checking.finding import Finding
from batchflow.checking.source import FunctionNode, SourceFile, parameters

_MARK = re.compile(r"#.*?!([\w-]+(?: !?[\w-]+)*)\s*$")


def assert_found(text: str) -> None:
    """What is found in the function `run` is what is marked, line by line, and nothing else."""
    text = textwrap.dedent(text)
    marks = [(line, rule) for line, rules in _marks(text).items() for rule in rules]
    assert [(it.line, it.rule) for it in findings(text)] == sorted(marks)


def findings(text: str, path: str = "jobs.py") -> list[Finding]:
    """What is found in the function `run`; its last parameter but `item` is the context."""
    source = SourceFile(textwrap.dedent(text), path)
    node = next(it for it in ast.walk(source.tree) if isinstance(it, FunctionNode) and it.name == "run")
    context = next(it.arg for it in parameters(node) if it.arg not in {"self", "item"})
    return check(source, node, context)


def messages(text: str) -> list[str]:
    """The sentences."""
    return [it.message for it in findings(text)]


def _marks(text: str) -> dict[int, list[str]]:
    found = {number: _MARK.search(line) for number, line in enumerate(text.splitlines(), 1)}
    return {number: match[1].replace("!", "").split() for number, match in found.items() if match is not None}
