"""Loops, and what varies from one round to the next."""

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from batchflow.checking.blocks import block_of, leaves
from batchflow.checking.body import Body
from batchflow.checking.carriers import root
from batchflow.checking.scope import parameters

_MAPS = frozenset({"builtins.filter", "builtins.map", "itertools.starmap"})
_COMPREHENSIONS = ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp


@dataclass(frozen=True, slots=True)
class Loop:
    """Something that is carried out more than once; `variable` is the name to use where one is wanted, or empty."""

    varying: frozenset[str]
    variable: str

    def varies(self, expr: ast.expr) -> bool:
        """Whether a text differs from round to round; a call may always give something else."""
        return any(
            isinstance(it, ast.Call | ast.Await) or (isinstance(it, ast.Name) and it.id in self.varying)
            for it in ast.walk(expr)
        )


def loops_around(body: Body, node: ast.AST) -> list[Loop]:
    """The loops that carry a node out again and again, from the inside, the function's own calls included.

    A loop that is left right after the node is none for it.
    """
    contexts = body.contexts.known()
    found = [_loop(it, contexts) for it in _repeating(body, node)]
    if body.given.rounds is not None:
        varying = frozenset(body.scope.bound - contexts) | body.given.rounds
        found.append(Loop(varying, _first_parameter(body)))
    return found


def _repeating(body: Body, node: ast.AST) -> Iterator[ast.AST]:
    left: type[ast.stmt] | None = None
    for parent, child in body.around(node):
        left = leaves(block_of(parent, child)) or left
        match parent:
            case ast.Try(body=inner, handlers=[_, *_]) | ast.TryStar(body=inner) if child in inner:
                # A handler may go on with the next round.
                left = None
            case ast.For() | ast.AsyncFor() | ast.While() if _repeats(parent, child):
                if left is None:
                    yield parent
                if left is ast.Break:
                    left = None
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp() if _repeats(parent, child):
                if left is None:
                    yield parent
            case ast.comprehension(iter=iterated) if child is not iterated:
                # The comprehension around it takes it for its first source otherwise.
                comprehension = body.parents[parent]
                if left is None and _first_source(comprehension) is parent:
                    yield comprehension
            case ast.Call(func=func, args=[mapped, *_]) if child is mapped and body.scope.dotted(func) in _MAPS:
                # What is mapped is called once for each, where it is a function and not what gives one.
                if left is None and isinstance(mapped, ast.Lambda | ast.Name):
                    yield parent
            case _:
                pass


def _repeats(loop: ast.AST, child: ast.AST) -> bool:
    match loop:
        case ast.For(body=inner) | ast.AsyncFor(body=inner):
            return child in inner
        case ast.While(test=test, body=inner):
            return child is test or child in inner
        case _:
            return child is not _first_source(loop)


def _first_source(comprehension: ast.AST) -> ast.AST | None:
    return comprehension.generators[0] if isinstance(comprehension, _COMPREHENSIONS) else None


def _loop(node: ast.AST, contexts: frozenset[str]) -> Loop:
    variables: list[ast.expr] = []
    parts: list[ast.AST] = [node]
    match node:
        case ast.For(target=target, body=inner) | ast.AsyncFor(target=target, body=inner):
            variables, parts = [target], [target, *inner]
        case ast.While(test=test, body=inner):
            parts = [test, *inner]
        case ast.ListComp(generators=found) | ast.SetComp(generators=found):
            variables = [it.target for it in found]
        case ast.GeneratorExp(generators=found) | ast.DictComp(generators=found):
            variables = [it.target for it in found]
        case ast.Call(args=[mapped, *_]):
            variables = [ast.Name(it.arg, ast.Store()) for it in _given_to(mapped)]
            parts = [*variables]
        case _:
            pass
    # A step that is asked for does not change the context.
    return Loop(
        frozenset(_touched(parts)) - contexts, next((it.id for it in variables if isinstance(it, ast.Name)), "")
    )


def _given_to(mapped: ast.expr) -> list[ast.arg]:
    return parameters(mapped) if isinstance(mapped, ast.Lambda) else []


def _touched(parts: Iterable[ast.AST]) -> Iterator[str]:
    """The names that a round gives a value, or changes by a statement such as `order.advance()`."""
    for part in parts:
        for node in ast.walk(part):
            name = None
            match node:
                case ast.Name(id=stored, ctx=ast.Store()):
                    name = stored
                case ast.Attribute(ctx=ast.Store()) | ast.Subscript(ctx=ast.Store()):
                    name = root(node)
                case ast.Expr(value=ast.Call() as call) | ast.Expr(value=ast.Await(value=ast.Call() as call)):
                    name = root(call)
                case ast.MatchAs(name=str(captured)) | ast.ExceptHandler(name=str(captured)):
                    name = captured
                case _:
                    pass
            if name is not None:
                yield name


def _first_parameter(body: Body) -> str:
    names = [
        it.arg for it in body.node.args.args if it.arg not in body.contexts.known() and it.arg not in {"self", "cls"}
    ]
    return names[0] if names else ""
