"""Limits of time that a replay does not know of: a durable wait lasts longer than an attempt, a step is cut off."""

import ast
from collections.abc import Iterable, Iterator

from batchflow.checking.body import Body
from batchflow.checking.finding import Finding, spell_call
from batchflow.checking.reach import enter, reach
from batchflow.checking.scope import own_nodes
from batchflow.checking.values import values

TIMEOUT = "timeout"

_WAITS = frozenset({"call", "invoke", "sleep", "sleep_until", "wait_for_event", "wait_for_webhook"})
_STEPS = frozenset({"run"})
_HAVE_THEIR_OWN = ("wait_for_event", "wait_for_webhook")
_BLOCKS = frozenset(
    {
        "anyio.fail_after",
        "anyio.move_on_after",
        "async_timeout.timeout",
        "async_timeout.timeout_at",
        "asyncio.timeout",
        "asyncio.timeout_at",
    }
)
_DELAYS = frozenset({"delay", "when"})
_CALLS = frozenset({"asyncio.as_completed", "asyncio.wait", "asyncio.wait_for"})


def limited_waits(body: Body) -> Iterator[Finding]:
    """`asyncio.timeout`, `wait_for` and the like around durable waits and around steps that execute."""
    for node in body.nodes:
        for limit, inner in _limits(body, node):
            if wait := next(_asked(body, inner, _WAITS), None):
                yield Finding(body.source.path, limit.lineno, TIMEOUT, _message(body, limit, wait))
            elif step := next(_asked(body, inner, _STEPS), None):
                yield Finding(body.source.path, limit.lineno, TIMEOUT, _message_of_step(body, limit, step))


def _message_of_step(body: Body, limit: ast.Call, step: str) -> str:
    return (
        f"{spell_call(limit)} may end before {step}(…), of which nothing is recorded then, so that a replay does not "
        f"fit what followed; use {body.context}.step(timeout=…).run(…)"
    )


def _message(body: Body, limit: ast.Call, wait: str) -> str:
    ctx = body.context
    has_its_own = wait.endswith(_HAVE_THEIR_OWN)
    cures = f"{ctx}.timeout(name, delay){',' if has_its_own else ' or'} {ctx}.first(…)"
    return (
        f"{spell_call(limit)} does not limit {wait}(…): the run is suspended meanwhile, and each replay begins the "
        f"time anew; use {cures}{' or its own timeout' if has_its_own else ''}"
    )


def _limits(body: Body, node: ast.AST) -> Iterator[tuple[ast.Call, list[ast.AST]]]:
    """The limits that a node sets, each with what it is set for."""
    match node:
        case ast.With(items=items, body=inner) | ast.AsyncWith(items=items, body=inner):
            for place, item in enumerate(items):
                limit = _limit(body, item.context_expr)
                if limit is not None:
                    yield limit, [*items[place + 1 :], *inner]
        case ast.Call(func=func) if body.scope.dotted(func) in _CALLS and _is_limited(node):
            yield node, [ast.Await(value=it) for it in [*node.args[:1], *(it.value for it in node.keywords)]]
        case _:
            pass


def _limit(body: Body, expr: ast.expr) -> ast.Call | None:
    match expr:
        case ast.Call(func=func) if body.scope.dotted(func) in _BLOCKS:
            delays = [*expr.args[:1], *(it.value for it in expr.keywords if it.arg in _DELAYS)]
            return None if all(_is_none(it) for it in delays) else expr
        case ast.Name(id=name):
            return next((it for value in values(body, name) if (it := _limit(body, value)) is not None), None)
        case _:
            return None


def _is_limited(call: ast.Call) -> bool:
    named = [it.value for it in call.keywords if it.arg == "timeout"]
    return any(not _is_none(it) for it in [*call.args[1:], *named])


def _is_none(expr: ast.expr) -> bool:
    return isinstance(expr, ast.Constant) and expr.value is None


def _asked(body: Body, nodes: Iterable[ast.AST], methods: frozenset[str]) -> Iterator[str]:
    """The steps of these kinds that are asked for in there, by tasks that were made before and by functions too."""
    for node in own_nodes(nodes):
        match node:
            case ast.Call():
                yield from _asked_by(body, node, methods)
            case ast.Await(value=value):
                yield from _asked_before(body, value, methods, frozenset())
            case _:
                pass


def _asked_by(body: Body, call: ast.Call, methods: frozenset[str]) -> Iterator[str]:
    step = body.contexts.step(call)
    if step is not None:
        if step.method in methods:
            yield ast.unparse(call.func)
        return
    helper = enter(body, call)
    for part in [] if helper is None else reach(helper):
        yield from (ast.unparse(it.call.func) for it in part.steps if it.method in methods)


def _asked_before(body: Body, awaited: ast.expr, methods: frozenset[str], seen: frozenset[str]) -> Iterator[str]:
    """Those of coroutines and tasks that a variable in an awaited expression stands for."""
    for node in own_nodes([awaited]):
        match node:
            case ast.Name(id=name) if name not in seen:
                for value in values(body, name):
                    if body.carriers.carries(value):
                        calls = [it for it in own_nodes([value]) if isinstance(it, ast.Call)]
                        yield from (wait for it in calls for wait in _asked_by(body, it, methods))
                        yield from _asked_before(body, value, methods, seen | {name})
            case _:
                pass
