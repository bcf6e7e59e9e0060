"""What in a function is its context: the parameter, other names for it, and the steps that are asked for by them."""

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from batchflow.checking.scope import own_nodes

STEPS = frozenset(
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
"""The methods of a context that are durable; `now`, `random`, `uuid`, `log` and `cancel` ask for no step."""

JOINS = frozenset({"first"})
"""Those that have no name, and are given what to wait for."""

FUNCTION_AT = {"run": 1, "run_with_codec": 2}
"""Where among the arguments the function stands that is called inside the step."""


@dataclass(frozen=True, slots=True)
class Step:
    """A call that asks for a step; `name` is None where it has none, or is not the first argument."""

    call: ast.Call
    method: str
    name: ast.expr | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Contexts:
    """The names of the context, of what `ctx.step(…)` returned, and of methods: `run = ctx.run`."""

    names: frozenset[str] = frozenset()
    runners: frozenset[str] = frozenset()
    methods: Mapping[str, str] = field(default_factory=dict[str, str])

    def known(self) -> frozenset[str]:
        """All these names."""
        return self.names | self.runners | frozenset(self.methods)

    def method(self, func: ast.expr) -> str | None:
        """The durable method that an expression names: `ctx.sleep`, `ctx.step(…).run`."""
        match func:
            case ast.Attribute(value=ast.Name(id=name), attr=attr) if name in self.names and attr in STEPS:
                return attr
            case ast.Attribute(value=value, attr="run") if self._is_runner(value):
                return "run"
            case ast.Name(id=name):
                return self.methods.get(name)
            case _:
                return None

    def step(self, node: ast.AST) -> Step | None:
        """The step that a node asks for."""
        match node:
            case ast.Call(func=func, args=args) if (method := self.method(func)) is not None:
                named = method not in JOINS and args and not isinstance(args[0], ast.Starred)
                name = args[0] if named else None
                return Step(node, method, name)
            case _:
                return None

    def is_context(self, expr: ast.expr) -> bool:
        """Whether the expression is the context itself."""
        return isinstance(expr, ast.Name) and expr.id in self.names

    def without(self, names: Iterable[str]) -> "Contexts":
        """As seen from a scope in which these names stand for something else."""
        hidden = frozenset(names)
        return Contexts(
            names=self.names - hidden,
            runners=self.runners - hidden,
            methods={name: method for name, method in self.methods.items() if name not in hidden},
        )

    def within(self, nodes: Iterable[ast.AST], given: Iterable[str]) -> "Contexts":
        """With the parameters that are `given` a context, and the other names that a function has for it."""
        names, runners, methods = set(self.names) | set(given), set(self.runners), dict(self.methods)
        for node in own_nodes(nodes):
            match node:
                case (
                    ast.Assign(targets=[ast.Name(id=name)], value=value)
                    | ast.NamedExpr(target=ast.Name(id=name), value=value)
                ):
                    now = Contexts(names=frozenset(names), runners=frozenset(runners), methods=methods)
                    if now.is_context(value):
                        names.add(name)
                    elif now._is_runner(value):
                        runners.add(name)
                    elif (method := now.method(value)) is not None:
                        methods[name] = method
                case _:
                    pass
        return Contexts(names=frozenset(names), runners=frozenset(runners), methods=methods)

    def _is_runner(self, expr: ast.expr) -> bool:
        match expr:
            case ast.Name(id=name):
                return name in self.runners
            case ast.Call(func=ast.Attribute(value=value, attr="step")):
                return self.is_context(value)
            case _:
                return False
