"""Rules about steps: names used twice or constant in a loop, nested steps, lost steps, steps in the order of a set."""

import ast
from collections.abc import Iterator, Sequence
from functools import partial

from batchflow.checking.call_graph import called_function, functions_in_step, has_steps
from batchflow.checking.control_flow import Loop, are_exclusive, is_unconditional, loops_around
from batchflow.checking.finding import Finding, format_call, shorten
from batchflow.checking.function import FunctionBody, StepCall
from batchflow.checking.source import own_nodes
from batchflow.checking.values import POSITIONAL, assigned_values, unordered_set_of

DUPLICATE_NAME = "duplicate-name"
NAME_IN_LOOP = "name-in-loop"


def duplicate_names(body: FunctionBody) -> Iterator[Finding]:
    """Find two steps of one name that one run may both execute, including those of called functions."""
    seen: dict[str, list[ast.Call]] = {}
    steps = {step.call: step for step in body.steps}
    for node in body.nodes:
        if not isinstance(node, ast.Call):
            continue
        step = steps.get(node)
        names = (
            set(_step_names(body, step))
            if step is not None
            else _step_names_of_call(body, node, frozenset({body.node}))
        )
        clashes = [(text, it) for text in sorted(names) for it in seen.get(text, ()) if _may_both_run(body, it, node)]
        for text in names:
            seen.setdefault(text, []).append(node)
        if clashes:
            message = _duplicate_message(node, *clashes[0], by_itself=step is not None)
            yield Finding(body.source.path, node.lineno, DUPLICATE_NAME, message)


def names_in_loops(body: FunctionBody) -> Iterator[Finding]:
    """Find steps in a loop whose name does not vary with it."""
    for step in body.steps:
        name = step.name
        if name is None:
            continue
        text = _literal(body, name)
        loops = [it for it in loops_around(body, step.call) if text is not None or not it.varies(name)]
        if loops:
            message = _loop_message(loops[0], name, text)
            yield Finding(body.source.path, step.call.lineno, NAME_IN_LOOP, message)


def _step_names(body: FunctionBody, step: StepCall) -> Iterator[str]:
    text = None if step.name is None else _literal(body, step.name)
    if text is not None:
        yield text


def _step_names_of_call(body: FunctionBody, call: ast.Call, callers: frozenset[ast.AST]) -> set[str]:
    """Return the names of the steps that every call of a function of this file requests."""
    helper = called_function(body, call)
    if helper is None or helper.node in callers or not _is_plain_function(helper):
        return set()
    certain = [it for it in helper.nodes if isinstance(it, ast.Call) and is_unconditional(helper, it)]
    names = {text for step in helper.steps if step.call in certain for text in _step_names(helper, step)}
    return names.union(*(_step_names_of_call(helper, it, callers | {helper.node}) for it in certain))


def _is_plain_function(helper: FunctionBody) -> bool:
    """Tell if a call executes the body: not for a generator, and a decorator may replace the function."""
    decorated = [] if isinstance(helper.node, ast.Lambda) else helper.node.decorator_list
    is_plain = all(isinstance(it, ast.Name) and it.id in {"staticmethod", "classmethod"} for it in decorated)
    return is_plain and not any(isinstance(it, ast.Yield | ast.YieldFrom) for it in helper.nodes)


def _may_both_run(body: FunctionBody, one: ast.Call, other: ast.Call) -> bool:
    return not are_exclusive(body, one, other)


def _literal(body: FunctionBody, name: ast.expr) -> str | None:
    match name:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=[]):
            return ""
        case ast.JoinedStr(values=[ast.Constant(value=str(text))]):
            return text
        case ast.Name(id=constant) if not body.scope.is_local(constant):
            return body.source.literal(constant)
        case _:
            return None


def _duplicate_message(call: ast.Call, text: str, before: ast.Call, *, by_itself: bool) -> str:
    if by_itself:
        return f"the step name '{text}' is used in line {before.lineno} already; give every step a name of its own"
    return (
        f"{format_call(call)} requests the step '{text}', as line {before.lineno} does; "
        f"give every step a name of its own, such as f'{text}:{{id}}'"
    )


def _loop_message(loop: Loop, name: ast.expr, text: str | None) -> str:
    spelled = f"'{text}'" if text is not None else ast.unparse(name)
    begin = spelled if isinstance(name, ast.JoinedStr) or text is not None else f"'{{{spelled}}}'"
    example = f"f{begin.removeprefix('f')[:-1]}:{{{loop.variable or 'id'}}}{begin[-1]}"
    return f"the step name {spelled} is the same in every round of the loop; put into it what varies, such as {example}"


NESTED_STEP = "nested-step"


def nested_steps(body: FunctionBody) -> Iterator[Finding]:
    """Find functions passed to `ctx.run` that use the context's durable methods, and these methods passed to it."""
    for handed in body.step_functions:
        method = body.contexts.method(handed.function)
        if method is not None:
            yield _nested_finding(body, handed.function, ast.unparse(handed.function))
            continue
        for function in functions_in_step(body, handed):
            for step in function.steps:
                yield _nested_finding(function, step.call, _format_step(step.name))


def _nested_finding(body: FunctionBody, node: ast.expr, what: str) -> Finding:
    message = (
        f"{what} is requested inside another step, and steps do not nest; "
        f"return from the function, and request it in the durable function itself"
    )
    return Finding(body.source.path, node.lineno, NESTED_STEP, message)


def _format_step(name: ast.expr | None) -> str:
    match name:
        case None:
            return "a step"
        case ast.Constant(value=str(text)):
            return f"step '{text}'"
        case _:
            return f"step {ast.unparse(name)}"


LOST_STEP = "lost-step"

_COROUTINES = frozenset({"asyncio.wait", "asyncio.wait_for"})
_TASKS = frozenset({"asyncio.create_task", "asyncio.ensure_future", "asyncio.gather", "asyncio.shield"})
_EVENT_LOOPS = frozenset({"asyncio.get_event_loop", "asyncio.get_running_loop"})


def lost_steps(body: FunctionBody) -> Iterator[Finding]:
    """Find steps that nobody awaits: requested by a bare statement, or assigned to a name that is never used."""
    used = _used_names(body)
    for node in body.nodes:
        match node:
            case ast.Expr(value=value):
                yield from _lost(body, value)
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if name not in used:
                yield from _lost(body, value)
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value) if name not in used:
                yield from _lost(body, value)
            case _:
                pass


def _lost(body: FunctionBody, expr: ast.expr) -> Iterator[Finding]:
    found = partial(Finding, body.source.path, expr.lineno, LOST_STEP)
    match expr:
        case ast.Call() if _is_task(body, expr):
            if any(_asks_for_steps(body, it) for it in expr.args):
                yield found(
                    f"nobody awaits {format_call(expr)}, and the end of the function cancels what is unfinished; "
                    f"await it, or use asyncio.TaskGroup"
                )
        case ast.Call() if _is_coroutine(body, expr):
            write = "async with" if _is_timeout(body, expr) else "await"
            what = format_call(expr)
            yield found(f"{what} is never awaited, so it never runs; write {write} {what}")
        case ast.List(elts=elements) | ast.Tuple(elts=elements) | ast.Set(elts=elements):
            for element in elements:
                yield from _lost(body, element)
        case ast.ListComp(elt=element) | ast.SetComp(elt=element):
            yield from _lost(body, element)
        case ast.IfExp(body=one, orelse=other):
            yield from _lost(body, one)
            yield from _lost(body, other)
        case ast.BoolOp(values=[*_, last]):
            yield from _lost(body, last)
        case _:
            pass


def _is_task(body: FunctionBody, call: ast.Call) -> bool:
    """Tell if the call starts a task; a task group awaits its own."""
    match call.func:
        case ast.Attribute(value=owner, attr="create_task") if _is_loop(body, owner):
            return True
        case _:
            return body.scope.dotted(call.func) in _TASKS


def _is_loop(body: FunctionBody, owner: ast.expr) -> bool:
    match owner:
        case ast.Call(func=func):
            return body.scope.dotted(func) in _EVENT_LOOPS
        case ast.Name(id=name):
            return any(_is_loop(body, value) for value in assigned_values(body, name))
        case _:
            return False


def _is_coroutine(body: FunctionBody, call: ast.Call) -> bool:
    """Tell if the call returns a coroutine that requests steps."""
    if body.contexts.step(call) is not None:
        return True
    if body.scope.dotted(call.func) in _COROUTINES:
        return any(_asks_for_steps(body, it) for it in call.args)
    helper = called_function(body, call)
    # A decorator may return something else, and a generator is not a coroutine.
    is_plain = helper is not None and isinstance(helper.node, ast.AsyncFunctionDef) and not helper.node.decorator_list
    if helper is None or not is_plain or any(isinstance(it, ast.Yield) for it in helper.nodes):
        return False
    return has_steps(helper)


def _asks_for_steps(body: FunctionBody, expr: ast.expr) -> bool:
    """Tell if awaiting the expression requests steps, as far as is known."""
    if not body.carriers.carries(expr):
        return False
    calls = [it for it in own_nodes([expr]) if isinstance(it, ast.Call) and body.carriers.carries(it)]
    helpers = [called_function(body, it) for it in calls]
    return not helpers or any(it is None or has_steps(it) for it in helpers)


def _is_timeout(body: FunctionBody, call: ast.Call) -> bool:
    step = body.contexts.step(call)
    return step is not None and step.method == "timeout"


def _used_names(body: FunctionBody) -> set[str]:
    """Return the names that this function, or one around or inside it, reads or declares global or nonlocal."""
    found = set[str]()
    for node in ast.walk(body.method):
        match node:
            case ast.Name(id=name, ctx=ast.Load() | ast.Del()):
                found.add(name)
            case ast.Global(names=names) | ast.Nonlocal(names=names):
                found.update(names)
            case _:
                pass
    return found


ORDER = "order"

_SEQUENCE_METHODS = frozenset({"append", "appendleft", "extend", "insert"})


def unordered_steps(body: FunctionBody) -> Iterator[Finding]:
    """Find loops over sets that request steps; steps that run concurrently may come in any order."""
    for node in body.nodes:
        for iterated, inner in _iterations(body, node):
            found = unordered_set_of(body, iterated)
            if found is not None and any(
                _depends_on_order(body, it, node, iterated) for it in _step_expressions(body, inner)
            ):
                yield Finding(body.source.path, iterated.lineno, ORDER, _order_message(found))


def _order_message(found: ast.expr) -> str:
    what = shorten(ast.unparse(found))
    return f"{what} is a set: the order of the steps and their results differs in every process; write sorted({what})"


def _iterations(body: FunctionBody, node: ast.AST) -> Iterator[tuple[ast.expr, Sequence[ast.AST]]]:
    """Yield the iterables of a loop, each with the nodes that it executes for every element."""
    match node:
        case ast.For(iter=iterated, body=inner):
            yield iterated, inner
        case ast.ListComp(elt=element, generators=loops) | ast.GeneratorExp(elt=element, generators=loops):
            yield from ((it.iter, [element]) for it in loops)
        case ast.SetComp(elt=element, generators=loops):
            yield from ((it.iter, [element]) for it in loops)
        case ast.DictComp(key=key, value=value, generators=loops):
            yield from ((it.iter, [key, value]) for it in loops)
        case ast.Call(func=func, args=[mapped, iterated]) if body.scope.dotted(func) == "builtins.map":
            yield iterated, [mapped.body if isinstance(mapped, ast.Lambda) else mapped]
        case _:
            pass


def _step_expressions(body: FunctionBody, inner: Sequence[ast.AST]) -> Iterator[ast.expr]:
    """Yield the calls that request steps: of the context, of functions of this file, of functions that receive it."""
    match inner:
        case [ast.Name() as mapped]:
            function = called_function(body, ast.Call(func=mapped, args=[], keywords=[]))
            if function is not None and has_steps(function):
                yield mapped
        case _:
            yield from (it for it in own_nodes(inner) if isinstance(it, ast.Call) and _asks_in_call(body, it))


def _asks_in_call(body: FunctionBody, call: ast.Call) -> bool:
    given = [*call.args, *(it.value for it in call.keywords)]
    helper = called_function(body, call)
    if helper is not None:
        return has_steps(helper)
    return body.contexts.step(call) is not None or any(body.contexts.is_context(it) for it in given)


def _depends_on_order(body: FunctionBody, asking: ast.expr, loop: ast.AST, iterated: ast.expr) -> bool:
    """Tell if the order of the iterations changes the steps or their results."""
    if isinstance(iterated, ast.Call) and body.scope.dotted(iterated.func) in POSITIONAL:
        return True
    is_inside = True
    for parent, _ in body.around(asking):
        is_inside = is_inside and parent is not loop
        match parent:
            case ast.Await() if is_inside:
                return True
            case ast.Call(func=ast.Attribute(attr=attr)) if attr in _SEQUENCE_METHODS:
                return True
            case ast.stmt():
                # The results of concurrent steps are dropped, or have names of their own.
                return not isinstance(parent, ast.Expr) and not isinstance(loop, ast.DictComp | ast.SetComp)
            case _:
                pass
    return False
