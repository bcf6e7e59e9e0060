"""Steps that nobody waits for: coroutines that are never awaited, tasks that are cut off at the end."""

import ast
from collections.abc import Iterator
from functools import partial

from batchflow.checking.body import Body
from batchflow.checking.finding import Finding, spell_call
from batchflow.checking.reach import enter, has_steps
from batchflow.checking.scope import own_nodes
from batchflow.checking.values import values

LOST = "lost-step"

_COROUTINES = frozenset({"asyncio.wait", "asyncio.wait_for"})
_TASKS = frozenset({"asyncio.create_task", "asyncio.ensure_future", "asyncio.gather", "asyncio.shield"})
_LOOPS = frozenset({"asyncio.get_event_loop", "asyncio.get_running_loop"})


def lost_steps(body: Body) -> Iterator[Finding]:
    """What is asked for as a statement of its own, or kept under a name that is never used."""
    used = _used(body)
    for node in body.nodes:
        match node:
            case ast.Expr(value=value):
                yield from _lost(body, value)
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if name not in used:
                yield from _lost(body, value)
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value) if name not in used:
                yield from _lost(body, value)
            case _:
                pass


def _lost(body: Body, expr: ast.expr) -> Iterator[Finding]:
    found = partial(Finding, body.source.path, expr.lineno, LOST)
    match expr:
        case ast.Call() if _is_task(body, expr):
            if any(_asks(body, it) for it in expr.args):
                yield found(
                    f"nobody waits for {spell_call(expr)}, and what is not done when the function returns is cut off; "
                    f"await it, or use asyncio.TaskGroup"
                )
        case ast.Call() if _is_coroutine(body, expr):
            write = "async with" if _is_timeout(body, expr) else "await"
            what = spell_call(expr)
            yield found(f"{what} is not awaited, and so never carried out; write {write} {what}")
        case ast.List(elts=elements) | ast.Tuple(elts=elements) | ast.Set(elts=elements):
            for element in elements:
                yield from _lost(body, element)
        case ast.ListComp(elt=element) | ast.SetComp(elt=element):
            yield from _lost(body, element)
        case ast.IfExp(body=one, orelse=other):
            yield from _lost(body, one)
            yield from _lost(body, other)
        case ast.BoolOp(values=[*_, last]):
            yield from _lost(body, last)
        case _:
            pass


def _is_task(body: Body, call: ast.Call) -> bool:
    """Whether the call starts a task; one of a group is waited for by the group."""
    match call.func:
        case ast.Attribute(value=owner, attr="create_task") if _is_loop(body, owner):
            return True
        case _:
            return body.scope.dotted(call.func) in _TASKS


def _is_loop(body: Body, owner: ast.expr) -> bool:
    match owner:
        case ast.Call(func=func):
            return body.scope.dotted(func) in _LOOPS
        case ast.Name(id=name):
            return any(_is_loop(body, value) for value in values(body, name))
        case _:
            return False


def _is_coroutine(body: Body, call: ast.Call) -> bool:
    """Whether the call gives a coroutine of steps."""
    if body.contexts.step(call) is not None:
        return True
    if body.scope.dotted(call.func) in _COROUTINES:
        return any(_asks(body, it) for it in call.args)
    helper = enter(body, call)
    # A decorator may make something else of it, and a generator is no coroutine.
    is_plain = helper is not None and isinstance(helper.node, ast.AsyncFunctionDef) and not helper.node.decorator_list
    if helper is None or not is_plain or any(isinstance(it, ast.Yield) for it in helper.nodes):
        return False
    return has_steps(helper)


def _asks(body: Body, expr: ast.expr) -> bool:
    """Whether steps are asked for by what the expression gives, as far as is known."""
    if not body.carriers.carries(expr):
        return False
    calls = [it for it in own_nodes([expr]) if isinstance(it, ast.Call) and body.carriers.carries(it)]
    helpers = [enter(body, it) for it in calls]
    return not helpers or any(it is None or has_steps(it) for it in helpers)


def _is_timeout(body: Body, call: ast.Call) -> bool:
    step = body.contexts.step(call)
    return step is not None and step.method == "timeout"


def _used(body: Body) -> set[str]:
    """The names that are read somewhere, by functions around and inside too, or are no variables of the function's."""
    found = set[str]()
    for node in ast.walk(body.method):
        match node:
            case ast.Name(id=name, ctx=ast.Load() | ast.Del()):
                found.add(name)
            case ast.Global(names=names) | ast.Nonlocal(names=names):
                found.update(names)
            case _:
                pass
    return found
