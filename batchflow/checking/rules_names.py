"""Names of steps: one that is used twice, and one that stays the same in a loop."""

import ast
from collections.abc import Iterator

from batchflow.checking.blocks import exclude_each_other
from batchflow.checking.body import Body
from batchflow.checking.certain import is_certain
from batchflow.checking.contexts import Step
from batchflow.checking.finding import Finding, spell_call
from batchflow.checking.loops import Loop, loops_around
from batchflow.checking.reach import enter

TWICE = "duplicate-name"
LOOP = "name-in-loop"


def duplicate_names(body: Body) -> Iterator[Finding]:
    """Two steps of one name that one run may both come to, by functions that are called too."""
    seen: dict[str, list[ast.Call]] = {}
    steps = {step.call: step for step in body.steps}
    for node in body.nodes:
        if not isinstance(node, ast.Call):
            continue
        step = steps.get(node)
        names = set(_asked(body, step)) if step is not None else _asked_by(body, node, frozenset({body.node}))
        clashes = [(text, it) for text in sorted(names) for it in seen.get(text, ()) if _meet(body, it, node)]
        for text in names:
            seen.setdefault(text, []).append(node)
        if clashes:
            message = _used_twice(node, *clashes[0], by_itself=step is not None)
            yield Finding(body.source.path, node.lineno, TWICE, message)


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


def _asked(body: Body, step: Step) -> Iterator[str]:
    text = None if step.name is None else _literal(body, step.name)
    if text is not None:
        yield text


def _asked_by(body: Body, call: ast.Call, callers: frozenset[ast.AST]) -> set[str]:
    """The names of steps that a function of this file asks for in any case when it is called."""
    helper = enter(body, call)
    if helper is None or helper.node in callers or not _is_carried_out(helper):
        return set()
    certain = [it for it in helper.nodes if isinstance(it, ast.Call) and is_certain(helper, it)]
    names = {text for step in helper.steps if step.call in certain for text in _asked(helper, step)}
    return names.union(*(_asked_by(helper, it, callers | {helper.node}) for it in certain))


def _is_carried_out(helper: Body) -> bool:
    """Whether a call does what the function says; of a generator, or of what a decorator makes, that is not known."""
    decorated = [] if isinstance(helper.node, ast.Lambda) else helper.node.decorator_list
    is_plain = all(isinstance(it, ast.Name) and it.id in {"staticmethod", "classmethod"} for it in decorated)
    return is_plain and not any(isinstance(it, ast.Yield | ast.YieldFrom) for it in helper.nodes)


def _meet(body: Body, one: ast.Call, other: ast.Call) -> bool:
    return not exclude_each_other(body, one, other)


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


def _used_twice(call: ast.Call, text: str, before: ast.Call, *, by_itself: bool) -> str:
    if by_itself:
        return f"the step name '{text}' is used in line {before.lineno} already; give every step a name of its own"
    return (
        f"{spell_call(call)} asks for the step '{text}', as line {before.lineno} does already; "
        f"give every step a name of its own, such as f'{text}:{{id}}'"
    )


def _same_in_every_round(loop: Loop, name: ast.expr, text: str | None) -> str:
    spelled = f"'{text}'" if text is not None else ast.unparse(name)
    begin = spelled if isinstance(name, ast.JoinedStr) or text is not None else f"'{{{spelled}}}'"
    example = f"f{begin.removeprefix('f')[:-1]}:{{{loop.variable or 'id'}}}{begin[-1]}"
    return f"the step name {spelled} is the same in every round of the loop; put into it what varies, such as {example}"
