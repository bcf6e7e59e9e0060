"""Names of steps: one that is used twice, and one that stays the same in a loop."""

import ast
from collections.abc import Iterator

from batchflow.checking.blocks import exclude_each_other
from batchflow.checking.body import Body
from batchflow.checking.contexts import Step
from batchflow.checking.finding import Finding
from batchflow.checking.loops import Loop, loops_around

TWICE = "duplicate-name"
LOOP = "name-in-loop"


def duplicate_names(body: Body) -> Iterator[Finding]:
    """Two steps of one name that one run may both come to."""
    seen: dict[str, list[Step]] = {}
    for step in body.steps:
        text = None if step.name is None else _literal(body, step.name)
        if text is None:
            continue
        before = [it for it in seen.get(text, ()) if not exclude_each_other(body, it.call, step.call)]
        seen.setdefault(text, []).append(step)
        if before:
            message = (
                f"the step name '{text}' is used in line {before[0].call.lineno} already; "
                f"give every step a name of its own"
            )
            yield Finding(body.source.path, step.call.lineno, TWICE, message)


def names_in_loops(body: Body) -> Iterator[Finding]:
    """A step that is asked for in a loop, by a name that does not vary with it."""
    for step in body.steps:
        name = step.name
        if name is None:
            continue
        text = _literal(body, name)
        loops = [it for it in loops_around(body, step.call) if text is not None or not it.varies(name)]
        if loops:
            message = _same_in_every_round(loops[0], name, text)
            yield Finding(body.source.path, step.call.lineno, LOOP, message)


def _literal(body: Body, name: ast.expr) -> str | None:
    match name:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=[]):
            return ""
        case ast.JoinedStr(values=[ast.Constant(value=str(text))]):
            return text
        case ast.Name(id=constant) if not body.scope.is_local(constant):
            return body.source.literal(constant)
        case _:
            return None


def _same_in_every_round(loop: Loop, name: ast.expr, text: str | None) -> str:
    spelled = f"'{text}'" if text is not None else ast.unparse(name)
    begin = spelled if isinstance(name, ast.JoinedStr) or text is not None else f"'{{{spelled}}}'"
    example = f"f{begin.removeprefix('f')[:-1]}:{{{loop.variable or 'id'}}}{begin[-1]}"
    return f"the step name {spelled} is the same in every round of the loop; put into it what varies, such as {example}"
