"""Rules about suspension: blocks around steps that swallow it, and time limits around durable waits and steps.

A run is suspended by a cancellation, which passes `except Exception`.
"""

import ast
from collections.abc import Iterable, Iterator, Sequence

from batchflow.checking.call_graph import called_function, reachable_functions
from batchflow.checking.finding import Finding, format_call
from batchflow.checking.function import FunctionBody
from batchflow.checking.source import children, own_nodes
from batchflow.checking.values import assigned_values

EXCEPT = "except"
FINALLY = "finally"

_EVERYTHING = "builtins.BaseException"
_CANCELLED = frozenset({"asyncio.CancelledError", "asyncio.exceptions.CancelledError"})
_ADVICE = "catch Exception, or raise it again"


def swallowed_suspensions(body: FunctionBody) -> Iterator[Finding]:
    """Find handlers, `suppress` and `finally` blocks that swallow the cancellation."""
    for node in body.nodes:
        match node:
            case ast.Try(body=inner) | ast.TryStar(body=inner):
                if _can_suspend(body, inner):
                    yield from _handlers(body, node)
                if _can_suspend(body, [*inner, *node.handlers, *node.orelse]):
                    yield from _finally(body, node)
            case ast.With(items=items, body=inner) | ast.AsyncWith(items=items, body=inner) if _can_suspend(
                body, inner
            ):
                yield from _suppressed(body, items, inner)
            case _:
                pass


def _handlers(body: FunctionBody, node: ast.Try | ast.TryStar) -> Iterator[Finding]:
    for handler in node.handlers:
        caught = _caught(body, handler.type, node.body)
        if caught is None:
            continue
        if _raises_again(handler):
            # The handlers after it never see the cancellation.
            return
        what = "except:" if handler.type is None else f"except {caught}"
        message = f"'{what}' around steps catches the suspension of the run too; {_ADVICE}"
        yield Finding(body.source.path, handler.lineno, EXCEPT, message)


def _suppressed(body: FunctionBody, items: Sequence[ast.withitem], inner: Sequence[ast.AST]) -> Iterator[Finding]:
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


def _finally(body: FunctionBody, node: ast.Try | ast.TryStar) -> Iterator[Finding]:
    for leaving in _leaving_statements(node.finalbody, in_loop=False):
        word = type(leaving).__name__.lower()
        message = f"'{word}' in 'finally' swallows the suspension of the run; leave the block at its end"
        yield Finding(body.source.path, leaving.lineno, FINALLY, message)


def _caught(body: FunctionBody, caught: ast.expr | None, around: Iterable[ast.AST]) -> str | None:
    """Return the name of the exception that a handler should not catch."""
    if caught is None:
        return "BaseException"
    for one in caught.elts if isinstance(caught, ast.Tuple) else [caught]:
        name = body.scope.dotted(one)
        # Catching the cancellation of one's own task is fine, and steps can be distinguished from tasks.
        if name == _EVERYTHING or (name in _CANCELLED and _has_steps(body, around)):
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


def _can_suspend(body: FunctionBody, nodes: Iterable[ast.AST]) -> bool:
    """Tell if these nodes can suspend the run."""
    return any(
        isinstance(it, ast.Await | ast.AsyncFor | ast.AsyncWith) or _is_cancel(body, it) for it in own_nodes(nodes)
    )


def _has_steps(body: FunctionBody, nodes: Iterable[ast.AST]) -> bool:
    return any(body.contexts.step(it) is not None for it in own_nodes(nodes))


def _is_cancel(body: FunctionBody, node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(value=value, attr="cancel")):
            return body.contexts.is_context(value)
        case _:
            return False


def _leaving_statements(nodes: Iterable[ast.AST], *, in_loop: bool) -> Iterator[ast.stmt]:
    for node in nodes:
        if isinstance(node, ast.Return) or (isinstance(node, ast.Break | ast.Continue) and not in_loop):
            yield node
        inside_loop = in_loop or isinstance(node, ast.For | ast.AsyncFor | ast.While)
        yield from _leaving_statements(children(node), in_loop=inside_loop)


TIMEOUT = "timeout"

_WAITS = frozenset({"call", "invoke", "sleep", "sleep_until", "wait_for_event", "wait_for_webhook"})
_STEPS = frozenset({"run"})
_HAVE_TIMEOUT = ("wait_for_event", "wait_for_webhook")
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


def limited_waits(body: FunctionBody) -> Iterator[Finding]:
    """Find `asyncio.timeout`, `wait_for` and similar limits around durable waits and around steps.

    A replay starts the limit again: a durable wait outlasts an attempt, and a step that is cut off is not recorded.
    """
    for node in body.nodes:
        for limit, inner in _limits(body, node):
            if wait := next(_steps_in(body, inner, _WAITS), None):
                yield Finding(body.source.path, limit.lineno, TIMEOUT, _wait_limit_message(body, limit, wait))
            elif step := next(_steps_in(body, inner, _STEPS), None):
                yield Finding(body.source.path, limit.lineno, TIMEOUT, _step_limit_message(body, limit, step))


def _step_limit_message(body: FunctionBody, limit: ast.Call, step: str) -> str:
    return (
        f"{format_call(limit)} may end before {step}(…), which then leaves no record, so a replay takes another path; "
        f"use {body.context}.step(timeout=…).run(…)"
    )


def _wait_limit_message(body: FunctionBody, limit: ast.Call, wait: str) -> str:
    ctx = body.context
    has_its_own = wait.endswith(_HAVE_TIMEOUT)
    advice = f"{ctx}.timeout(name, delay){',' if has_its_own else ' or'} {ctx}.first(…)"
    return (
        f"{format_call(limit)} does not limit {wait}(…): the run is suspended meanwhile, and each replay starts the "
        f"time again; use {advice}{' or its own timeout' if has_its_own else ''}"
    )


def _limits(body: FunctionBody, node: ast.AST) -> Iterator[tuple[ast.Call, list[ast.AST]]]:
    """Yield the limits that a node sets, each with the nodes that it limits."""
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


def _limit(body: FunctionBody, expr: ast.expr) -> ast.Call | None:
    match expr:
        case ast.Call(func=func) if body.scope.dotted(func) in _BLOCKS:
            delays = [*expr.args[:1], *(it.value for it in expr.keywords if it.arg in _DELAYS)]
            return None if all(_is_none(it) for it in delays) else expr
        case ast.Name(id=name):
            return next((it for value in assigned_values(body, name) if (it := _limit(body, value)) is not None), None)
        case _:
            return None


def _is_limited(call: ast.Call) -> bool:
    named = [it.value for it in call.keywords if it.arg == "timeout"]
    return any(not _is_none(it) for it in [*call.args[1:], *named])


def _is_none(expr: ast.expr) -> bool:
    return isinstance(expr, ast.Constant) and expr.value is None


def _steps_in(body: FunctionBody, nodes: Iterable[ast.AST], methods: frozenset[str]) -> Iterator[str]:
    """Yield the methods by which these nodes request steps, directly, in called functions or by tasks made before."""
    for node in own_nodes(nodes):
        match node:
            case ast.Call():
                yield from _steps_of_call(body, node, methods)
            case ast.Await(value=value):
                yield from _steps_of_awaited(body, value, methods, frozenset())
            case _:
                pass


def _steps_of_call(body: FunctionBody, call: ast.Call, methods: frozenset[str]) -> Iterator[str]:
    step = body.contexts.step(call)
    if step is not None:
        if step.method in methods:
            yield ast.unparse(call.func)
        return
    helper = called_function(body, call)
    for part in [] if helper is None else reachable_functions(helper):
        yield from (ast.unparse(it.call.func) for it in part.steps if it.method in methods)


def _steps_of_awaited(
    body: FunctionBody, awaited: ast.expr, methods: frozenset[str], seen: frozenset[str]
) -> Iterator[str]:
    """Yield the methods by which the coroutines and tasks in an awaited variable request steps."""
    for node in own_nodes([awaited]):
        match node:
            case ast.Name(id=name) if name not in seen:
                for value in assigned_values(body, name):
                    if body.carriers.carries(value):
                        calls = [it for it in own_nodes([value]) if isinstance(it, ast.Call)]
                        yield from (wait for it in calls for wait in _steps_of_call(body, it, methods))
                        yield from _steps_of_awaited(body, value, methods, seen | {name})
            case _:
                pass
