"""What carries a coroutine of the context: `ctx.run(…)`, a helper that is given `ctx`, a list of such tasks."""

import ast
from collections.abc import Iterable, Iterator

from batchflow.checking.contexts import Contexts

_FILLS = frozenset({"add", "append", "appendleft", "extend", "insert", "setdefault", "update"})


class Carriers:
    """The names of a function that hold the context, or something that was made with it and not awaited yet."""

    def __init__(self, contexts: Contexts, nodes: Iterable[ast.AST], given: frozenset[str]) -> None:
        self._contexts = contexts
        self.names = contexts.known() | given
        flows = [flow for node in nodes for flow in _flows(node)]
        while new := {name for name, value in flows if name not in self.names and self.carries(value)}:
            self.names |= new

    def carries(self, node: ast.AST) -> bool:
        """Whether the context is passed on in it; what an `await` gives is a plain value."""
        match node:
            case ast.Await():
                return False
            case ast.Name(id=name):
                return name in self.names
            case ast.Attribute(value=ast.Name(id=name), attr=attr) if name in self._contexts.names:
                return attr == "step" or self._contexts.method(node) is not None
            case ast.Attribute(value=value, attr=attr):
                return self.carries(value)
            case _:
                return any(self.carries(it) for it in ast.iter_child_nodes(node))


def root(expr: ast.AST) -> str | None:
    """The name that an expression such as `tasks[0].result` begins with."""
    while isinstance(expr, ast.Attribute | ast.Subscript | ast.Starred | ast.Call):
        expr = expr.func if isinstance(expr, ast.Call) else expr.value
    return expr.id if isinstance(expr, ast.Name) else None


def _flows(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Which names an assignment, a loop or a call such as `tasks.append(…)` gives a value to."""
    match node:
        case ast.Assign(targets=targets, value=value):
            yield from ((name, value) for target in targets for name in _targets(target))
        case ast.AnnAssign(target=target, value=ast.expr() as value) | ast.AugAssign(target=target, value=value):
            yield from ((name, value) for name in _targets(target))
        case ast.NamedExpr(target=target, value=value):
            yield target.id, value
        case ast.For(target=target, iter=value) | ast.AsyncFor(target=target, iter=value):
            yield from ((name, value) for name in _targets(target))
        case ast.comprehension(target=target, iter=value):
            yield from ((name, value) for name in _targets(target))
        case ast.withitem(context_expr=value, optional_vars=ast.expr() as target):
            yield from ((name, value) for name in _targets(target))
        case ast.Call(func=ast.Attribute(value=value, attr=attr), args=args) if attr in _FILLS:
            name = root(value)
            yield from ((name, argument) for argument in args if name is not None)
        case _:
            pass


def _targets(target: ast.expr) -> Iterator[str]:
    if isinstance(target, ast.Tuple | ast.List):
        for element in target.elts:
            yield from _targets(element)
    elif (name := root(target)) is not None:
        yield name
