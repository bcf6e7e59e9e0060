"""What every run of a function comes to."""

import ast
from collections.abc import Iterable

from batchflow.checking.blocks import block_of
from batchflow.checking.body import Body
from batchflow.checking.scope import own_nodes

_MAYBE = (
    ast.AsyncFor,
    ast.BoolOp,
    ast.DictComp,
    ast.ExceptHandler,
    ast.For,
    ast.GeneratorExp,
    ast.If,
    ast.IfExp,
    ast.Lambda,
    ast.ListComp,
    ast.Match,
    ast.SetComp,
    ast.While,
    ast.comprehension,
    ast.match_case,
)


def is_certain(body: Body, node: ast.AST) -> bool:
    """Whether the function comes to the node whatever it is given, unless something raises."""
    for parent, child in body.around(node):
        if isinstance(parent, _MAYBE) and child is not _always(parent):
            return False
        if isinstance(parent, ast.Try | ast.TryStar) and child in parent.orelse:
            return False
        block = block_of(parent, child)
        if isinstance(child, ast.stmt) and block and _may_return(block[: block.index(child)]):
            return False
    return True


def _always(parent: ast.AST) -> ast.AST | None:
    """The part of a choice or loop that is evaluated in any case."""
    match parent:
        case ast.If(test=first) | ast.IfExp(test=first) | ast.While(test=first):
            return first
        case ast.For(iter=first) | ast.AsyncFor(iter=first) | ast.Match(subject=first) | ast.BoolOp(values=[first, *_]):
            return first
        case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
            return parent.generators[0]
        case ast.comprehension(iter=first):
            return first
        case _:
            return None


def _may_return(before: Iterable[ast.AST]) -> bool:
    return any(isinstance(it, ast.Return) for it in own_nodes(before))
