"""A finding of a check: the place, the rule, and what to write instead."""

import ast
from dataclasses import dataclass

_LONG = 40


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One place that is unsafe to replay; findings sort by file and line."""

    path: str
    line: int
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.message}"


def format_call(call: ast.Call) -> str:
    """Format a call for a message: `open(…)`, or `time.time()` if it has no arguments."""
    what = shorten(ast.unparse(call.func))
    return f"{what}(…)" if call.args or call.keywords else f"{what}()"


def shorten(code: str) -> str:
    """Cut long code off, for a message."""
    return code if len(code) <= _LONG else f"{code[:_LONG]}…"
