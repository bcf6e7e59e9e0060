"""Control flow: blocks and branches, code that every call executes, loops and the names that vary in them."""

import ast
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

from batchflow.checking.function import FunctionBody, root
from batchflow.checking.source import own_nodes, parameters

BranchNames: TypeAlias = frozenset[str]

_BLOCKS = ("body", "orelse", "finalbody")


def block_of(parent: ast.AST, child: ast.AST) -> Sequence[ast.stmt]:
    """Return the list of statements that contains `child`; empty for an expression."""
    for name in _BLOCKS:
        block: object = getattr(parent, name, None)
        if isinstance(block, list) and child in block:
            return cast("list[ast.stmt]", block)
    return ()


def leaves_block(block: Sequence[ast.stmt]) -> bool:
    """Tell if control never passes the end of the block."""
    match block[-1] if block else None:
        case ast.Return() | ast.Raise() | ast.Break() | ast.Continue():
            return True
        case ast.If(body=body, orelse=orelse):
            return leaves_block(body) and leaves_block(orelse)
        case ast.With(body=body) | ast.AsyncWith(body=body):
            return leaves_block(body)
        case ast.Match(cases=cases) as last:
            return _is_complete(last) and all(leaves_block(case.body) for case in cases)
        case ast.Try(body=body, handlers=handlers, orelse=orelse):
            return (leaves_block(body) or leaves_block(orelse)) and all(
                leaves_block(handler.body) for handler in handlers
            )
        case _:
            return False


def leaving_statement(block: Sequence[ast.stmt]) -> type[ast.stmt] | None:
    """Return the statement that leaves a block without another round: `ast.Return`, `ast.Raise` or `ast.Break`."""
    last = block[-1] if block else None
    if not isinstance(last, ast.Return | ast.Raise | ast.Break):
        return None
    return None if any(isinstance(it, ast.Continue) for it in own_nodes(block)) else type(last)


def are_exclusive(body: FunctionBody, one: ast.AST, other: ast.AST) -> bool:
    """Tell if no run executes both nodes: `if` and `else`, or one after the other has returned."""
    arms = dict(_branches(body, one))
    return any(not arms[node] & others for node, others in _branches(body, other) if node in arms)


def _branches(body: FunctionBody, node: ast.AST) -> Iterator[tuple[ast.AST, BranchNames]]:
    """Yield the forks on the way to a node, with those of their branches that lead to it."""
    for parent, child in body.around(node):
        fork = _branch(body, parent, child)
        if fork is not None:
            yield fork
        block = block_of(parent, child)
        for before in block[: block.index(child)] if isinstance(child, ast.stmt) and block else ():
            through = _open_branches(before)
            if through:
                yield before, through


def _branch(body: FunctionBody, parent: ast.AST, child: ast.AST) -> tuple[ast.AST, BranchNames] | None:
    match parent:
        case ast.If(body=inner) if child in inner:
            return parent, frozenset({"body"})
        case ast.If(orelse=inner) if child in inner:
            return parent, frozenset({"orelse"})
        case ast.IfExp(test=test) if child is not test:
            return parent, frozenset({"body" if child is parent.body else "orelse"})
        case ast.Match(cases=cases) if child in cases:
            return parent, frozenset({_branch_name(cases, child)})
        case ast.Try(handlers=handlers) | ast.TryStar(handlers=handlers) if child in handlers:
            return parent, frozenset({_branch_name(handlers, child)})
        case ast.Try(orelse=inner) | ast.TryStar(orelse=inner) if child in inner:
            return parent, frozenset({"orelse"})
        case _:
            return None


def _open_branches(node: ast.stmt) -> BranchNames:
    """Return the branches of a statement after which the next statement is executed; empty if it has no branches."""
    match node:
        case ast.If(body=body, orelse=orelse):
            arms = {"body": leaves_block(body), "orelse": leaves_block(orelse)}
        case ast.Match(cases=cases):
            arms = {_branch_name(cases, case): leaves_block(case.body) for case in cases} | {"none": _is_complete(node)}
        case ast.Try(body=body, handlers=handlers, orelse=orelse):
            arms = {_branch_name(handlers, handler): leaves_block(handler.body) for handler in handlers}
            arms["orelse"] = leaves_block(body) or leaves_block(orelse)
        case _:
            return frozenset()
    return frozenset(name for name, is_end in arms.items() if not is_end)


def _branch_name(arms: Sequence[ast.AST], arm: ast.AST) -> str:
    return str(next(place for place, it in enumerate(arms) if it is arm))


def _is_complete(node: ast.Match) -> bool:
    last = node.cases[-1]
    return last.guard is None and isinstance(last.pattern, ast.MatchAs) and last.pattern.pattern is None


_CONDITIONAL = (
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


def is_unconditional(body: FunctionBody, node: ast.AST) -> bool:
    """Tell if every call of the function executes the node, unless something raises."""
    for parent, child in body.around(node):
        if isinstance(parent, _CONDITIONAL) and child is not _evaluated_always(parent):
            return False
        if isinstance(parent, ast.Try | ast.TryStar) and child in parent.orelse:
            return False
        block = block_of(parent, child)
        if isinstance(child, ast.stmt) and block and _may_return(block[: block.index(child)]):
            return False
    return True


def _evaluated_always(parent: ast.AST) -> ast.AST | None:
    """Return the part of a branch or loop that is always evaluated."""
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


_MAPS = frozenset({"builtins.filter", "builtins.map", "itertools.starmap"})
_COMPREHENSIONS = ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp


@dataclass(frozen=True, slots=True)
class Loop:
    """Code that is executed more than once; `variable` is a loop variable to suggest in a message, or empty."""

    varying: frozenset[str]
    variable: str

    def varies(self, expr: ast.expr) -> bool:
        """Tell if the value of an expression may differ from round to round; a call always may."""
        return any(
            isinstance(it, ast.Call | ast.Await) or (isinstance(it, ast.Name) and it.id in self.varying)
            for it in ast.walk(expr)
        )


def loops_around(body: FunctionBody, node: ast.AST) -> list[Loop]:
    """Return the loops that execute a node repeatedly, innermost first, including calls of the function in a loop.

    Skips a loop that ends right after the node.
    """
    contexts = body.contexts.all_names()
    found = [_loop_of(it, contexts) for it in _enclosing_loops(body, node)]
    if body.caller.loop_names is not None:
        varying = frozenset(body.scope.bound - contexts) | body.caller.loop_names
        found.append(Loop(varying, _first_parameter(body)))
    return found


def _enclosing_loops(body: FunctionBody, node: ast.AST) -> Iterator[ast.AST]:
    left: type[ast.stmt] | None = None
    for parent, child in body.around(node):
        left = leaving_statement(block_of(parent, child)) or left
        match parent:
            case ast.Try(body=inner, handlers=[_, *_]) | ast.TryStar(body=inner) if child in inner:
                # A handler may continue with the next round.
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
                # Otherwise the comprehension around it would take it for its first source.
                comprehension = body.parents[parent]
                if left is None and _first_source(comprehension) is parent:
                    yield comprehension
            case ast.Call(func=func, args=[mapped, *_]) if child is mapped and body.scope.dotted(func) in _MAPS:
                # A mapped function is called once for each element; a call that returns one is not.
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


def _loop_of(node: ast.AST, contexts: frozenset[str]) -> Loop:
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
            variables = [ast.Name(it.arg, ast.Store()) for it in _lambda_parameters(mapped)]
            parts = [*variables]
        case _:
            pass
    # Requesting a step does not change the context.
    return Loop(
        frozenset(_changed_names(parts)) - contexts, next((it.id for it in variables if isinstance(it, ast.Name)), "")
    )


def _lambda_parameters(mapped: ast.expr) -> list[ast.arg]:
    return parameters(mapped) if isinstance(mapped, ast.Lambda) else []


def _changed_names(parts: Iterable[ast.AST]) -> Iterator[str]:
    """Yield the names that a round assigns, or changes by a statement such as `order.advance()`."""
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


def _first_parameter(body: FunctionBody) -> str:
    names = [
        it.arg
        for it in body.node.args.args
        if it.arg not in body.contexts.all_names() and it.arg not in {"self", "cls"}
    ]
    return names[0] if names else ""
