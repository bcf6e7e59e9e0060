"""What a check has found: where, which rule, and what to write instead."""

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
    """A call for a sentence: `open(…)`, or `time.time()` where nothing is passed."""
    what = shorten(ast.unparse(call.func))
    return f"{what}(…)" if call.args or call.keywords else f"{what}()"


def shorten(code: str) -> str:
    """Code for a sentence: its beginning, where there is much of it."""
    return code if len(code) <= _LONG else f"{code[:_LONG]}…"
