"""The part of a function that runs between steps, and runs again on every replay."""

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from batchflow.checking.source import FunctionNode, NameScope, SourceFile, children, own_nodes, parameters, statements

STEP_METHODS = frozenset(
    {
        "run",
        "run_with_codec",
        "sleep",
        "sleep_until",
        "call",
        "invoke",
        "wait_for_event",
        "notify",
        "create_webhook",
        "wait_for_webhook",
        "first",
        "timeout",
    }
)
"""The durable methods of a context; `now`, `random`, `uuid`, `log` and `cancel` request no step."""

UNNAMED_METHODS = frozenset({"first"})
"""The methods without a name; their arguments are what they wait for."""

FUNCTION_ARGUMENT = {"run": 1, "run_with_codec": 2}
"""The position of the argument that is called inside the step."""


@dataclass(frozen=True, slots=True)
class StepCall:
    """A call that requests a step; `name` is None if the first argument is not a name."""

    call: ast.Call
    method: str
    name: ast.expr | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextNames:
    """The names of the context, of results of `ctx.step(…)`, and of its methods: `run = ctx.run`."""

    names: frozenset[str] = frozenset()
    runners: frozenset[str] = frozenset()
    methods: Mapping[str, str] = field(default_factory=dict[str, str])

    def all_names(self) -> frozenset[str]:
        """Return all these names."""
        return self.names | self.runners | frozenset(self.methods)

    def method(self, func: ast.expr) -> str | None:
        """Return the durable method that an expression names: `ctx.sleep`, `ctx.step(…).run`."""
        match func:
            case ast.Attribute(value=ast.Name(id=name), attr=attr) if name in self.names and attr in STEP_METHODS:
                return attr
            case ast.Attribute(value=value, attr="run") if self._is_runner(value):
                return "run"
            case ast.Name(id=name):
                return self.methods.get(name)
            case _:
                return None

    def step(self, node: ast.AST) -> StepCall | None:
        """Return the step that a node requests."""
        match node:
            case ast.Call(func=func, args=args) if (method := self.method(func)) is not None:
                named = method not in UNNAMED_METHODS and args and not isinstance(args[0], ast.Starred)
                name = args[0] if named else None
                return StepCall(node, method, name)
            case _:
                return None

    def is_context(self, expr: ast.expr) -> bool:
        """Tell if the expression is the context itself."""
        return isinstance(expr, ast.Name) and expr.id in self.names

    def without(self, names: Iterable[str]) -> "ContextNames":
        """Return the names that remain in a scope that binds `names` to something else."""
        hidden = frozenset(names)
        return ContextNames(
            names=self.names - hidden,
            runners=self.runners - hidden,
            methods={name: method for name, method in self.methods.items() if name not in hidden},
        )

    def within(self, nodes: Iterable[ast.AST], given: Iterable[str]) -> "ContextNames":
        """Add the parameters that receive a context, `given`, and the names that the nodes assign it to."""
        names, runners, methods = set(self.names) | set(given), set(self.runners), dict(self.methods)
        for node in own_nodes(nodes):
            match node:
                case (
                    ast.Assign(targets=[ast.Name(id=name)], value=value)
                    | ast.NamedExpr(target=ast.Name(id=name), value=value)
                ):
                    now = ContextNames(names=frozenset(names), runners=frozenset(runners), methods=methods)
                    if now.is_context(value):
                        names.add(name)
                    elif now._is_runner(value):
                        runners.add(name)
                    elif (method := now.method(value)) is not None:
                        methods[name] = method
                case _:
                    pass
        return ContextNames(names=frozenset(names), runners=frozenset(runners), methods=methods)

    def _is_runner(self, expr: ast.expr) -> bool:
        match expr:
            case ast.Name(id=name):
                return name in self.runners
            case ast.Call(func=ast.Attribute(value=value, attr="step")):
                return self.is_context(value)
            case _:
                return False


_FILLS = frozenset({"add", "append", "appendleft", "extend", "insert", "setdefault", "update"})


class Carriers:
    """The names of a function that hold the context, or something made with it and not yet awaited."""

    def __init__(self, contexts: ContextNames, nodes: Iterable[ast.AST], given: frozenset[str]) -> None:
        self._contexts = contexts
        self.names = contexts.all_names() | given
        flows = [flow for node in nodes for flow in _flows(node)]
        while new := {name for name, value in flows if name not in self.names and self.carries(value)}:
            self.names |= new

    def carries(self, node: ast.AST) -> bool:
        """Tell if the node passes the context on; the result of an `await` is a plain value."""
        match node:
            case ast.Await():
                return False
            case ast.Name(id=name):
                return name in self.names
            case ast.Attribute(value=ast.Name(id=name), attr=attr) if name in self._contexts.names:
                return attr == "step" or self._contexts.method(node) is not None
            case ast.Attribute(value=value, attr=attr):
                return self.carries(value)
            case _:
                return any(self.carries(it) for it in ast.iter_child_nodes(node))


def root(expr: ast.AST) -> str | None:
    """Return the name that an expression such as `tasks[0].result` begins with."""
    while isinstance(expr, ast.Attribute | ast.Subscript | ast.Starred | ast.Call):
        expr = expr.func if isinstance(expr, ast.Call) else expr.value
    return expr.id if isinstance(expr, ast.Name) else None


def _flows(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Yield the names that an assignment, a loop or a call such as `tasks.append(…)` gives a value, with that value."""
    match node:
        case ast.Assign(targets=targets, value=value):
            yield from ((name, value) for target in targets for name in _targets(target))
        case ast.AnnAssign(target=target, value=ast.expr() as value) | ast.AugAssign(target=target, value=value):
            yield from ((name, value) for name in _targets(target))
        case ast.NamedExpr(target=target, value=value):
            yield target.id, value
        case ast.For(target=target, iter=value) | ast.AsyncFor(target=target, iter=value):
            yield from ((name, value) for name in _targets(target))
        case ast.comprehension(target=target, iter=value):
            yield from ((name, value) for name in _targets(target))
        case ast.withitem(context_expr=value, optional_vars=ast.expr() as target):
            yield from ((name, value) for name in _targets(target))
        case ast.Call(func=ast.Attribute(value=value, attr=attr), args=args) if attr in _FILLS:
            name = root(value)
            yield from ((name, argument) for argument in args if name is not None)
        case _:
            pass


def _targets(target: ast.expr) -> Iterator[str]:
    if isinstance(target, ast.Tuple | ast.List):
        for element in target.elts:
            yield from _targets(element)
    elif (name := root(target)) is not None:
        yield name


@dataclass(frozen=True, slots=True)
class StepFunction:
    """A function passed to a step; `position` is its place among the arguments of `call`."""

    function: ast.expr
    call: ast.Call
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerFacts:
    """Facts about a call: the parameters that receive the context, and those that receive coroutines of it.

    `loop_names` is None if the call is executed once; otherwise it is in a loop, and these names vary in it.
    """

    contexts: frozenset[str] = frozenset()
    carriers: frozenset[str] = frozenset()
    loop_names: frozenset[str] | None = None


class FunctionBody:
    """One function, with all its nodes except those that only run inside a step.

    `outer` is the function that defines it, if it sees the names of that function.
    """

    def __init__(
        self, source: SourceFile, node: FunctionNode | ast.Lambda, given: CallerFacts, outer: "FunctionBody | None"
    ) -> None:
        self.source = source
        self.node = node
        self.caller = given
        self.outer = outer
        self.scope = NameScope(node, source.scope if outer is None else outer.scope)
        declared = {it.arg for it in parameters(node) if source.is_context(it.annotation)}
        around = ContextNames() if outer is None else outer.contexts.without(self.scope.bound)
        self.contexts: ContextNames = around.within(statements(node), given.contexts | declared)
        self.nodes: list[ast.AST] = []
        self.parents: dict[ast.AST, ast.AST] = {}
        self.steps: list[StepCall] = []
        self.step_functions: list[StepFunction] = []
        self.functions: dict[str, FunctionNode] = {}
        for it in statements(node):
            self._walk(it, node, None)
        around_carriers = frozenset[str]() if outer is None else outer.carriers.names - self.scope.bound
        # The bodies of functions defined here are checked by themselves.
        self.carriers = Carriers(
            self.contexts, self.nodes, given.carriers | around_carriers | frozenset(self.functions)
        )

    @property
    def context(self) -> str:
        """The function's name for its context, for a message."""
        return min(self.contexts.names, default="ctx")

    @property
    def method(self) -> ast.AST:
        """The outermost function, which may be a method."""
        return self.node if self.outer is None else self.outer.method

    def around(self, node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
        """Yield the nodes around one, innermost first, each with the child that contains the node."""
        while node is not self.node:
            parent = self.parents[node]
            yield parent, node
            node = parent

    def function(self, name: str) -> "tuple[FunctionNode, FunctionBody | None] | None":
        """Return the function that a name refers to here, and the function that defines it."""
        if name in self.functions:
            return self.functions[name], self
        if name in self.scope.bound or name in self.scope.imports:
            return None
        if self.outer is not None:
            return self.outer.function(name)
        found = self.source.functions.get(name)
        return None if found is None else (found, None)

    def _walk(self, node: ast.AST, parent: ast.AST, step_argument: "tuple[ast.Call, int] | None") -> None:
        """Add a node; `step_argument` is the call and position of the step argument that it belongs to."""
        self.parents[node] = parent
        if step_argument is not None and isinstance(node, ast.Lambda | ast.Name | ast.Attribute):
            self.step_functions.append(StepFunction(node, *step_argument))
            if isinstance(node, ast.Lambda):
                return
        self.nodes.append(node)
        if isinstance(node, ast.Call):
            self._walk_call(node, step_argument)
            return
        if isinstance(node, FunctionNode):
            self.functions[node.name] = node
        if isinstance(node, ast.Attribute):
            step_argument = None
        for child in children(node):
            self._walk(child, node, step_argument)

    def _walk_call(self, call: ast.Call, step_argument: "tuple[ast.Call, int] | None") -> None:
        step = self.contexts.step(call)
        first = len(call.args) + 1
        if step is not None:
            self.steps.append(step)
            first = FUNCTION_ARGUMENT.get(step.method, first)
        elif step_argument is not None:
            # `partial(fn, …)` among the arguments of a step.
            first = 0
        self._walk(call.func, call, None)
        for place, argument in enumerate(call.args):
            self._walk(argument, call, (call, place) if place >= first else None)
        for keyword in call.keywords:
            self._walk(keyword, call, (call, len(call.args)) if first <= len(call.args) else None)
