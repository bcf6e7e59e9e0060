"""Steps in the order of a set, which another process does not repeat."""

import ast
from collections.abc import Iterator, Sequence

from batchflow.checking.body import Body
from batchflow.checking.finding import Finding, shortened
from batchflow.checking.reach import enter, has_steps
from batchflow.checking.scope import own_nodes
from batchflow.checking.unordered import COUNTS, set_in

ORDER = "order"

_FILLS = frozenset({"append", "appendleft", "extend", "insert"})


def unordered_steps(body: Body) -> Iterator[Finding]:
    """Loops over sets in which steps are asked for; side by side they may come in any order."""
    for node in body.nodes:
        for iterated, inner in _loops(body, node):
            found = set_in(body, iterated)
            if found is not None and any(_depends(body, it, node, iterated) for it in _asking(body, inner)):
                yield Finding(body.source.path, iterated.lineno, ORDER, _message(found))


def _message(found: ast.expr) -> str:
    what = shortened(ast.unparse(found))
    return (
        f"{what} is a set: its order, and so that of the steps and their results, is another one in every process; "
        f"put it into order: sorted({what})"
    )


def _loops(body: Body, node: ast.AST) -> Iterator[tuple[ast.expr, Sequence[ast.AST]]]:
    """What a node loops over, with what is carried out for each."""
    match node:
        case ast.For(iter=iterated, body=inner):
            yield iterated, inner
        case ast.ListComp(elt=element, generators=loops) | ast.GeneratorExp(elt=element, generators=loops):
            yield from ((it.iter, [element]) for it in loops)
        case ast.SetComp(elt=element, generators=loops):
            yield from ((it.iter, [element]) for it in loops)
        case ast.DictComp(key=key, value=value, generators=loops):
            yield from ((it.iter, [key, value]) for it in loops)
        case ast.Call(func=func, args=[mapped, iterated]) if body.scope.dotted(func) == "builtins.map":
            yield iterated, [mapped.body if isinstance(mapped, ast.Lambda) else mapped]
        case _:
            pass


def _asking(body: Body, inner: Sequence[ast.AST]) -> Iterator[ast.expr]:
    """What asks for steps: calls of the context, of functions of this file, of such that are given the context."""
    match inner:
        case [ast.Name() as mapped]:
            function = enter(body, ast.Call(func=mapped, args=[], keywords=[]))
            if function is not None and has_steps(function):
                yield mapped
        case _:
            yield from (it for it in own_nodes(inner) if isinstance(it, ast.Call) and _asks(body, it))


def _asks(body: Body, call: ast.Call) -> bool:
    given = [*call.args, *(it.value for it in call.keywords)]
    helper = enter(body, call)
    if helper is not None:
        return has_steps(helper)
    return body.contexts.step(call) is not None or any(body.contexts.is_context(it) for it in given)


def _depends(body: Body, asking: ast.expr, loop: ast.AST, iterated: ast.expr) -> bool:
    """Whether it makes a difference in which order the loop comes to what asks."""
    if isinstance(iterated, ast.Call) and body.scope.dotted(iterated.func) in COUNTS:
        return True
    is_inside = True
    for parent, _ in body.around(asking):
        is_inside = is_inside and parent is not loop
        match parent:
            case ast.Await() if is_inside:
                return True
            case ast.Call(func=ast.Attribute(attr=attr)) if attr in _FILLS:
                return True
            case ast.stmt():
                # What comes of steps side by side is dropped, or has names of its own.
                return not isinstance(parent, ast.Expr) and not isinstance(loop, ast.DictComp | ast.SetComp)
            case _:
                pass
    return False
