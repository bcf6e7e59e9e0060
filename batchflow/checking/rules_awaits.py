"""What is awaited between steps: the context's own methods, and nothing else."""

import ast
from collections.abc import Iterable, Iterator

from batchflow.checking.body import Body
from batchflow.checking.contexts import JOINS
from batchflow.checking.finding import Finding, spell_call
from batchflow.checking.rules_io import is_io, is_sleep
from batchflow.checking.values import values

AWAIT = "await"

_COMBINATORS = frozenset(
    {
        "asyncio.as_completed",
        "asyncio.create_task",
        "asyncio.ensure_future",
        "asyncio.gather",
        "asyncio.shield",
        "asyncio.wait",
    }
)
_FIRST_ONLY = frozenset({"asyncio.wait_for"})
_SCOPES = frozenset(
    {
        "anyio.create_task_group",
        "anyio.fail_after",
        "anyio.move_on_after",
        # They only order the branches of one run.
        "asyncio.BoundedSemaphore",
        "asyncio.Lock",
        "asyncio.Semaphore",
        "asyncio.TaskGroup",
        "asyncio.timeout",
        "asyncio.timeout_at",
        "contextlib.AsyncExitStack",
        "contextlib.nullcontext",
    }
)
_STARTS = frozenset({"create_task"})
_TAKE_SEVERAL = frozenset({"builtins.list", "builtins.set", "builtins.tuple", "builtins.reversed"})


def foreign_awaits(body: Body) -> Iterator[Finding]:
    """Coroutines that are awaited, or started as tasks, and have nothing to do with the context."""
    seen = set[ast.AST]()
    for node in body.nodes:
        for foreign in (it for expr in _awaited(body, node) for it in _foreign(body, expr)):
            if foreign not in seen:
                seen.add(foreign)
                yield Finding(body.source.path, foreign.lineno, AWAIT, _message(body, foreign))


def _message(body: Body, call: ast.Call) -> str:
    return (
        f"{spell_call(call)} is awaited outside of a step, again on every replay; "
        f"put it in one: await {body.context}.run(name, function)"
    )


def _awaited(body: Body, node: ast.AST) -> list[ast.expr]:
    """What a node waits for."""
    match node:
        case ast.Await(value=value):
            return [value]
        case ast.AsyncFor(iter=value):
            return [value]
        case ast.comprehension(iter=value, is_async=1):
            return [value]
        case ast.AsyncWith(items=items):
            return [it.context_expr for it in items]
        case ast.Call(func=func, args=args):
            name = body.scope.dotted(func)
            if name in _COMBINATORS:
                return args
            if body.contexts.method(func) in JOINS:
                return args
            starts = isinstance(func, ast.Attribute) and func.attr in _STARTS
            return args[:1] if name in _FIRST_ONLY or starts else []
        case _:
            return []


def _foreign(body: Body, expr: ast.expr) -> Iterator[ast.Call]:
    """The calls in an awaited expression that give something else than a coroutine of the context."""
    match expr:
        case ast.Call():
            if _is_foreign(body, expr):
                yield expr
            elif body.scope.dotted(expr.func) in _TAKE_SEVERAL:
                yield from _all(body, expr.args)
        case ast.Name(id=name) if name not in body.carriers.names:
            yield from _all(body, values(body, name))
        case ast.Starred(value=value) | ast.NamedExpr(value=value):
            yield from _foreign(body, value)
        case ast.List(elts=elements) | ast.Tuple(elts=elements) | ast.Set(elts=elements):
            yield from _all(body, elements)
        case ast.ListComp(elt=element) | ast.SetComp(elt=element) | ast.GeneratorExp(elt=element):
            yield from _foreign(body, element)
        case ast.IfExp(body=one, orelse=other):
            yield from _all(body, (one, other))
        case _:
            pass


def _all(body: Body, expressions: Iterable[ast.expr]) -> Iterator[ast.Call]:
    for expr in expressions:
        yield from _foreign(body, expr)


def _is_foreign(body: Body, call: ast.Call) -> bool:
    if body.carriers.carries(call) or is_io(body, call) or is_sleep(body, call):
        return False
    name = body.scope.dotted(call.func)
    known = _COMBINATORS | _FIRST_ONLY | _SCOPES | _TAKE_SEVERAL
    starts = isinstance(call.func, ast.Attribute) and call.func.attr in _STARTS
    return name not in known and not starts and name not in {"asyncio.sleep", "anyio.sleep"}
