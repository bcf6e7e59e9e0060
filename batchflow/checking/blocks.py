"""Lists of statements: which one a node stands in, and whether it is left at its end."""

import ast
from collections.abc import Iterator, Sequence
from typing import TypeAlias, cast

from batchflow.checking.body import Body
from batchflow.checking.scope import own_nodes

Arms: TypeAlias = frozenset[str]

_BLOCKS = ("body", "orelse", "finalbody")


def block_of(parent: ast.AST, child: ast.AST) -> Sequence[ast.stmt]:
    """The statements that `child` is one of; empty where it is an expression."""
    for name in _BLOCKS:
        block: object = getattr(parent, name, None)
        if isinstance(block, list) and child in block:
            return cast("list[ast.stmt]", block)
    return ()


def ends(block: Sequence[ast.stmt]) -> bool:
    """Whether nothing after the block is reached through it."""
    match block[-1] if block else None:
        case ast.Return() | ast.Raise() | ast.Break() | ast.Continue():
            return True
        case ast.If(body=body, orelse=orelse):
            return ends(body) and ends(orelse)
        case ast.With(body=body) | ast.AsyncWith(body=body):
            return ends(body)
        case ast.Match(cases=cases) as last:
            return _is_complete(last) and all(ends(case.body) for case in cases)
        case ast.Try(body=body, handlers=handlers, orelse=orelse):
            return (ends(body) or ends(orelse)) and all(ends(handler.body) for handler in handlers)
        case _:
            return False


def leaves(block: Sequence[ast.stmt]) -> type[ast.stmt] | None:
    """With what a block that never goes round again is left: `ast.Return`, `ast.Raise` or `ast.Break`."""
    last = block[-1] if block else None
    if not isinstance(last, ast.Return | ast.Raise | ast.Break):
        return None
    return None if any(isinstance(it, ast.Continue) for it in own_nodes(block)) else type(last)


def exclude_each_other(body: Body, one: ast.AST, other: ast.AST) -> bool:
    """Whether no run passes through both nodes: `if` and `else`, or one after the other has returned."""
    arms = dict(_arms(body, one))
    return any(not arms[node] & others for node, others in _arms(body, other) if node in arms)


def _arms(body: Body, node: ast.AST) -> Iterator[tuple[ast.AST, Arms]]:
    """The forks on the way to a node, with those of their arms that lead to it."""
    for parent, child in body.around(node):
        fork = _arm(body, parent, child)
        if fork is not None:
            yield fork
        block = block_of(parent, child)
        for before in block[: block.index(child)] if isinstance(child, ast.stmt) and block else ():
            through = _through(before)
            if through:
                yield before, through


def _arm(body: Body, parent: ast.AST, child: ast.AST) -> tuple[ast.AST, Arms] | None:
    match parent:
        case ast.If(body=inner) if child in inner:
            return parent, frozenset({"body"})
        case ast.If(orelse=inner) if child in inner:
            return parent, frozenset({"orelse"})
        case ast.IfExp(test=test) if child is not test:
            return parent, frozenset({"body" if child is parent.body else "orelse"})
        case ast.Match(cases=cases) if child in cases:
            return parent, frozenset({_name(cases, child)})
        case ast.Try(handlers=handlers) | ast.TryStar(handlers=handlers) if child in handlers:
            return parent, frozenset({_name(handlers, child)})
        case ast.Try(orelse=inner) | ast.TryStar(orelse=inner) if child in inner:
            return parent, frozenset({"orelse"})
        case _:
            return None


def _through(node: ast.stmt) -> Arms:
    """The arms of a statement from which one comes to what follows it; empty where it has none."""
    match node:
        case ast.If(body=body, orelse=orelse):
            arms = {"body": ends(body), "orelse": ends(orelse)}
        case ast.Match(cases=cases):
            arms = {_name(cases, case): ends(case.body) for case in cases} | {"none": _is_complete(node)}
        case ast.Try(body=body, handlers=handlers, orelse=orelse):
            arms = {_name(handlers, handler): ends(handler.body) for handler in handlers}
            arms["orelse"] = ends(body) or ends(orelse)
        case _:
            return frozenset()
    return frozenset(name for name, is_end in arms.items() if not is_end)


def _name(arms: Sequence[ast.AST], arm: ast.AST) -> str:
    return str(next(place for place, it in enumerate(arms) if it is arm))


def _is_complete(node: ast.Match) -> bool:
    last = node.cases[-1]
    return last.guard is None and isinstance(last.pattern, ast.MatchAs) and last.pattern.pattern is None
