"""Code with its expected findings in comments: `# !rule` at the end of a line."""

import ast
import re
import textwrap

from batchflow.checking.check import check
from batchflow.checking.finding import Finding
from batchflow.checking.source import FunctionNode, SourceFile, parameters

_MARK = re.compile(r"#.*?!([\w-]+(?: !?[\w-]+)*)\s*$")


def assert_found(text: str) -> None:
    """The findings in the function `run` are the marked ones, line by line, and no others."""
    text = textwrap.dedent(text)
    marks = [(line, rule) for line, rules in _marks(text).items() for rule in rules]
    assert [(it.line, it.rule) for it in findings(text)] == sorted(marks)


def findings(text: str, path: str = "jobs.py") -> list[Finding]:
    """Check the function `run`; its last parameter except `item` is the context."""
    source = SourceFile(textwrap.dedent(text), path)
    node = next(it for it in ast.walk(source.tree) if isinstance(it, FunctionNode) and it.name == "run")
    context = next(it.arg for it in parameters(node) if it.arg not in {"self", "item"})
    return check(source, node, context)


def messages(text: str) -> list[str]:
    """Return the messages of the findings."""
    return [it.message for it in findings(text)]


def assert_messages(text: str, *phrases: str) -> None:
    """The function `run` has one finding for each phrase, in this order, and its message contains the phrase."""
    found = messages(text)
    assert [phrase for phrase, message in zip(phrases, found, strict=True) if phrase not in message] == [], found


def _marks(text: str) -> dict[int, list[str]]:
    found = {number: _MARK.search(line) for number, line in enumerate(text.splitlines(), 1)}
    return {number: match[1].replace("!", "").split() for number, match in found.items() if match is not None}
