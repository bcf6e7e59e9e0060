"""From one function to those that it calls between its steps, as far as this file goes."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from batchflow.checking.body import Body, Given, Handed
from batchflow.checking.loops import loops_around
from batchflow.checking.scope import FunctionNode


@dataclass(frozen=True, slots=True)
class Target:
    """A function of this file that is called; `bound` where its first parameter is the object."""

    node: FunctionNode
    outer: Body | None
    bound: bool = False


def reach(body: Body) -> list[Body]:
    """The function itself, and those that it calls between its steps: its own ones, and others that are given `ctx`.

    A plain function of the file is followed too, since it runs again on every replay. An async one that is given no
    context is not: whoever awaits it is told.
    """
    found, seen = [body], {(body.node, body.given)}
    for current in found:
        for target, given in _called(current):
            if (target.node, given) not in seen:
                seen.add((target.node, given))
                found.append(Body(current.source, target.node, given, target.outer))
    return found


def inside(body: Body, handed: Handed) -> list[Body]:
    """The functions that run inside a step, where they are found in this file."""
    if isinstance(handed.function, ast.Lambda):
        return reach(Body(body.source, handed.function, Given(), body))
    target = find(body, handed.function)
    if target is None:
        return []
    call = handed.call
    passed = ast.Call(func=handed.function, args=call.args[handed.at + 1 :], keywords=call.keywords)
    return reach(Body(body.source, target.node, _given(body, target, passed), target.outer))


def enter(body: Body, call: ast.Call) -> Body | None:
    """The function of this file that is called, as it is given what this call passes on."""
    target = find(body, call.func)
    return None if target is None else Body(body.source, target.node, _given(body, target, call), target.outer)


def has_steps(function: Body) -> bool:
    """Whether it asks for steps, or what it calls does."""
    return any(part.steps for part in reach(function))


def find(body: Body, func: ast.expr) -> Target | None:
    """The function that an expression names: one of this file, or a method of the same class."""
    match func:
        case ast.Name(id=name):
            found = body.function(name)
            return None if found is None else Target(*found)
        case ast.Attribute(value=ast.Name(id=owner), attr=attr) if owner == _self(body):
            method = body.source.sibling(body.method, attr)
            return None if method is None else Target(method, None, body.source.is_method(method))
        case _:
            return None


def _called(body: Body) -> Iterator[tuple[Target, Given]]:
    called = set[ast.expr]()
    handed = {it.function for it in body.handed}
    for node in body.nodes:
        if isinstance(node, ast.Call) and body.contexts.step(node) is None:
            called.add(node.func)
            target = find(body, node.func)
            if target is not None and _is_followed(target, given := _given(body, target, node)):
                yield target, given
    for node in body.nodes:
        # Not called here but by whom it is passed to: `map(branch, ids)`.
        if isinstance(node, ast.Name) and node not in called and node not in handed:
            target = find(body, node)
            if target is not None and target.outer is not None:
                yield target, Given(rounds=_rounds(body, node, target))


def _is_followed(target: Target, given: Given) -> bool:
    is_async = isinstance(target.node, ast.AsyncFunctionDef)
    return target.outer is not None or not is_async or bool(given.contexts or given.carriers)


def _given(body: Body, target: Target, call: ast.Call) -> Given:
    bound = list(_bindings(target, call))
    return Given(
        contexts=frozenset(name for name, value in bound if body.contexts.is_context(value)),
        carriers=frozenset(name for name, value in bound if body.carriers.carries(value)),
        rounds=_rounds(body, call, target) if call in body.parents else None,
    )


def _rounds(body: Body, node: ast.AST, target: Target) -> frozenset[str] | None:
    loops = loops_around(body, node)
    if not loops:
        return None
    return frozenset(name for loop in loops for name in loop.varying) if target.outer is not None else frozenset()


def _bindings(target: Target, call: ast.Call) -> Iterator[tuple[str, ast.expr]]:
    args = target.node.args
    places = [it.arg for it in (*args.posonlyargs, *args.args)][1 if target.bound else 0 :]
    if args.vararg is not None:
        places += [args.vararg.arg] * len(call.args)
    yield from zip(places, (it.value if isinstance(it, ast.Starred) else it for it in call.args), strict=False)
    for keyword in call.keywords:
        if keyword.arg is not None:
            yield keyword.arg, keyword.value


def _self(body: Body) -> str | None:
    method = body.method
    if not isinstance(method, FunctionNode) or not body.source.is_method(method):
        return None
    places = [*method.args.posonlyargs, *method.args.args]
    return places[0].arg if places else None
