"""The functions that a function calls between its steps, as far as they are in the same file."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from batchflow.checking.control_flow import loops_around
from batchflow.checking.function import CallerFacts, FunctionBody, StepFunction
from batchflow.checking.source import FunctionNode


@dataclass(frozen=True, slots=True)
class CalledFunction:
    """A called function of this file; `bound` if its first parameter is the object."""

    node: FunctionNode
    outer: FunctionBody | None
    bound: bool = False


def reachable_functions(body: FunctionBody) -> list[FunctionBody]:
    """Return the function itself and those that it calls between its steps.

    Follows functions defined in it, functions that receive `ctx`, and plain functions of the file, which run again on
    every replay. Does not follow an async function without the context: the rule about awaits reports its caller.
    """
    found, seen = [body], {(body.node, body.caller)}
    for current in found:
        for target, given in _called(current):
            if (target.node, given) not in seen:
                seen.add((target.node, given))
                found.append(FunctionBody(current.source, target.node, given, target.outer))
    return found


def functions_in_step(body: FunctionBody, handed: StepFunction) -> list[FunctionBody]:
    """Return the functions of this file that run inside a step."""
    if isinstance(handed.function, ast.Lambda):
        return reachable_functions(FunctionBody(body.source, handed.function, CallerFacts(), body))
    target = resolve_function(body, handed.function)
    if target is None:
        return []
    call = handed.call
    passed = ast.Call(func=handed.function, args=call.args[handed.position + 1 :], keywords=call.keywords)
    return reachable_functions(FunctionBody(body.source, target.node, _facts(body, target, passed), target.outer))


def called_function(body: FunctionBody, call: ast.Call) -> FunctionBody | None:
    """Return the called function of this file, with the facts that this call passes on; None if it is not in it."""
    target = resolve_function(body, call.func)
    return None if target is None else FunctionBody(body.source, target.node, _facts(body, target, call), target.outer)


def has_steps(function: FunctionBody) -> bool:
    """Tell if the function, or one that it calls, requests steps."""
    return any(part.steps for part in reachable_functions(function))


def resolve_function(body: FunctionBody, func: ast.expr) -> CalledFunction | None:
    """Return the function that an expression names, if it is one of this file or a method of the same class."""
    match func:
        case ast.Name(id=name):
            found = body.function(name)
            return None if found is None else CalledFunction(*found)
        case ast.Attribute(value=ast.Name(id=owner), attr=attr) if owner == _self_name(body):
            method = body.source.sibling(body.method, attr)
            return None if method is None else CalledFunction(method, None, body.source.is_method(method))
        case _:
            return None


def _called(body: FunctionBody) -> Iterator[tuple[CalledFunction, CallerFacts]]:
    called = set[ast.expr]()
    handed = {it.function for it in body.step_functions}
    for node in body.nodes:
        if isinstance(node, ast.Call) and body.contexts.step(node) is None:
            called.add(node.func)
            target = resolve_function(body, node.func)
            if target is not None and _is_followed(target, given := _facts(body, target, node)):
                yield target, given
    for node in body.nodes:
        # Another function calls it: `map(branch, ids)`.
        if isinstance(node, ast.Name) and node not in called and node not in handed:
            target = resolve_function(body, node)
            if target is not None and target.outer is not None:
                yield target, CallerFacts(loop_names=_loop_names(body, node, target))


def _is_followed(target: CalledFunction, given: CallerFacts) -> bool:
    is_async = isinstance(target.node, ast.AsyncFunctionDef)
    return target.outer is not None or not is_async or bool(given.contexts or given.carriers)


def _facts(body: FunctionBody, target: CalledFunction, call: ast.Call) -> CallerFacts:
    bound = list(_bindings(target, call))
    return CallerFacts(
        contexts=frozenset(name for name, value in bound if body.contexts.is_context(value)),
        carriers=frozenset(name for name, value in bound if body.carriers.carries(value)),
        loop_names=_loop_names(body, call, target) if call in body.parents else None,
    )


def _loop_names(body: FunctionBody, node: ast.AST, target: CalledFunction) -> frozenset[str] | None:
    loops = loops_around(body, node)
    if not loops:
        return None
    return frozenset(name for loop in loops for name in loop.varying) if target.outer is not None else frozenset()


def _bindings(target: CalledFunction, call: ast.Call) -> Iterator[tuple[str, ast.expr]]:
    args = target.node.args
    places = [it.arg for it in (*args.posonlyargs, *args.args)][1 if target.bound else 0 :]
    if args.vararg is not None:
        places += [args.vararg.arg] * len(call.args)
    yield from zip(places, (it.value if isinstance(it, ast.Starred) else it for it in call.args), strict=False)
    for keyword in call.keywords:
        if keyword.arg is not None:
            yield keyword.arg, keyword.value


def _self_name(body: FunctionBody) -> str | None:
    method = body.method
    if not isinstance(method, FunctionNode) or not body.source.is_method(method):
        return None
    places = [*method.args.posonlyargs, *method.args.args]
    return places[0].arg if places else None
