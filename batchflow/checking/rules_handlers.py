"""Blocks around steps that swallow the suspension of a run, which is a cancellation and passes `except Exception`."""

import ast
from collections.abc import Iterable, Iterator, Sequence

from batchflow.checking.body import Body
from batchflow.checking.finding import Finding
from batchflow.checking.scope import children, own_nodes

EXCEPT = "except"
FINALLY = "finally"

_EVERYTHING = "builtins.BaseException"
_CANCELLED = frozenset({"asyncio.CancelledError", "asyncio.exceptions.CancelledError"})
_CURE = "catch Exception, or raise it again"


def swallowed_suspensions(body: Body) -> Iterator[Finding]:
    """Handlers, `suppress` and `finally` blocks that keep the cancellation from coming out."""
    for node in body.nodes:
        match node:
            case ast.Try(body=inner) | ast.TryStar(body=inner):
                if _waits(body, inner):
                    yield from _handlers(body, node)
                if _waits(body, [*inner, *node.handlers, *node.orelse]):
                    yield from _finally(body, node)
            case ast.With(items=items, body=inner) | ast.AsyncWith(items=items, body=inner) if _waits(body, inner):
                yield from _suppressed(body, items, inner)
            case _:
                pass


def _handlers(body: Body, node: ast.Try | ast.TryStar) -> Iterator[Finding]:
    for handler in node.handlers:
        caught = _caught(body, handler.type, node.body)
        if caught is None:
            continue
        if _raises_again(handler):
            # What comes after it does not see the cancellation any more.
            return
        what = "except:" if handler.type is None else f"except {caught}"
        message = f"'{what}' around steps catches the suspension of the run too; {_CURE}"
        yield Finding(body.source.path, handler.lineno, EXCEPT, message)


def _suppressed(body: Body, items: Sequence[ast.withitem], inner: Sequence[ast.AST]) -> Iterator[Finding]:
    for item in items:
        match item.context_expr:
            case ast.Call(func=func, args=args) if body.scope.dotted(func) == "contextlib.suppress":
                caught = _caught(body, ast.Tuple(elts=args), inner)
                if caught is not None:
                    message = (
                        f"suppress({caught}) around steps catches the suspension of the run too; suppress Exception"
                    )
                    yield Finding(body.source.path, item.context_expr.lineno, EXCEPT, message)
            case _:
                pass


def _finally(body: Body, node: ast.Try | ast.TryStar) -> Iterator[Finding]:
    for leaving in _leaving(node.finalbody, in_loop=False):
        word = type(leaving).__name__.lower()
        message = f"'{word}' in 'finally' swallows the suspension of the run; leave the block at its end"
        yield Finding(body.source.path, leaving.lineno, FINALLY, message)


def _caught(body: Body, caught: ast.expr | None, around: Iterable[ast.AST]) -> str | None:
    """How the exception is called that a handler should not catch."""
    if caught is None:
        return "BaseException"
    for one in caught.elts if isinstance(caught, ast.Tuple) else [caught]:
        name = body.scope.dotted(one)
        # To catch that a task of one's own was cancelled is fine, and steps can be told from tasks.
        if name == _EVERYTHING or (name in _CANCELLED and _asks(body, around)):
            return ast.unparse(one)
    return None


def _raises_again(handler: ast.ExceptHandler) -> bool:
    own = list(own_nodes(handler.body))
    if any(isinstance(it, ast.Return | ast.Break | ast.Continue) for it in own):
        return False
    match handler.body[-1]:
        case ast.Raise(exc=None):
            return True
        case ast.Raise(exc=ast.Name(id=name)):
            return name == handler.name
        case _:
            return False


def _waits(body: Body, nodes: Iterable[ast.AST]) -> bool:
    """Whether the run can be suspended in there."""
    return any(
        isinstance(it, ast.Await | ast.AsyncFor | ast.AsyncWith) or _is_cancel(body, it) for it in own_nodes(nodes)
    )


def _asks(body: Body, nodes: Iterable[ast.AST]) -> bool:
    return any(body.contexts.step(it) is not None for it in own_nodes(nodes))


def _is_cancel(body: Body, node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(value=value, attr="cancel")):
            return body.contexts.is_context(value)
        case _:
            return False


def _leaving(nodes: Iterable[ast.AST], *, in_loop: bool) -> Iterator[ast.stmt]:
    for node in nodes:
        if isinstance(node, ast.Return) or (isinstance(node, ast.Break | ast.Continue) and not in_loop):
            yield node
        inside_loop = in_loop or isinstance(node, ast.For | ast.AsyncFor | ast.While)
        yield from _leaving(children(node), in_loop=inside_loop)
