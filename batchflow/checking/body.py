"""The part of a function that runs between steps, and runs again on every replay."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from batchflow.checking.carriers import Carriers
from batchflow.checking.contexts import FUNCTION_AT, Contexts, Step
from batchflow.checking.scope import FunctionNode, Scope, children, parameters, statements
from batchflow.checking.source import Source


@dataclass(frozen=True, slots=True)
class Handed:
    """A function that is handed to a step; `call` is the one that hands it, `at` its place among the arguments."""

    function: ast.expr
    call: ast.Call
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a caller passes on: parameters that are the context, and such that carry coroutines of it.

    `rounds` is None for a function that is called once; otherwise it is called in a loop, and these are the names
    around it that vary there.
    """

    contexts: frozenset[str] = frozenset()
    carriers: frozenset[str] = frozenset()
    rounds: frozenset[str] | None = None


class Body:
    """One function, with all its nodes but those that only run inside a step.

    `outer` is the function it is defined in, where it sees the names of that one.
    """

    def __init__(self, source: Source, node: FunctionNode | ast.Lambda, given: Given, outer: "Body | None") -> None:
        self.source = source
        self.node = node
        self.given = given
        self.outer = outer
        self.scope = Scope(node, source.scope if outer is None else outer.scope)
        declared = {it.arg for it in parameters(node) if source.is_context(it.annotation)}
        around = Contexts() if outer is None else outer.contexts.without(self.scope.bound)
        self.contexts: Contexts = around.within(statements(node), given.contexts | declared)
        self.nodes: list[ast.AST] = []
        self.parents: dict[ast.AST, ast.AST] = {}
        self.steps: list[Step] = []
        self.handed: list[Handed] = []
        self.functions: dict[str, FunctionNode] = {}
        for it in statements(node):
            self._walk(it, node, None)
        around_carriers = frozenset[str]() if outer is None else outer.carriers.names - self.scope.bound
        # What functions defined here await is looked at in them.
        self.carriers = Carriers(
            self.contexts, self.nodes, given.carriers | around_carriers | frozenset(self.functions)
        )

    @property
    def context(self) -> str:
        """How the function calls its context, for a sentence about it."""
        return min(self.contexts.names, default="ctx")

    @property
    def method(self) -> ast.AST:
        """The outermost function, which may stand in a class."""
        return self.node if self.outer is None else self.outer.method

    def around(self, node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
        """The nodes around one, from the inside, each with that of its children that holds the node."""
        while node is not self.node:
            parent = self.parents[node]
            yield parent, node
            node = parent

    def function(self, name: str) -> "tuple[FunctionNode, Body | None] | None":
        """The function of that name as it is seen from here, with the one it is defined in."""
        if name in self.functions:
            return self.functions[name], self
        if name in self.scope.bound or name in self.scope.imports:
            return None
        if self.outer is not None:
            return self.outer.function(name)
        found = self.source.functions.get(name)
        return None if found is None else (found, None)

    def _walk(self, node: ast.AST, parent: ast.AST, handing: "tuple[ast.Call, int] | None") -> None:
        """Take in a node; `handing` is the argument of a step that it belongs to."""
        self.parents[node] = parent
        if handing is not None and isinstance(node, ast.Lambda | ast.Name | ast.Attribute):
            self.handed.append(Handed(node, *handing))
            if isinstance(node, ast.Lambda):
                return
        self.nodes.append(node)
        if isinstance(node, ast.Call):
            self._walk_call(node, handing)
            return
        if isinstance(node, FunctionNode):
            self.functions[node.name] = node
        if isinstance(node, ast.Attribute):
            handing = None
        for child in children(node):
            self._walk(child, node, handing)

    def _walk_call(self, call: ast.Call, handing: "tuple[ast.Call, int] | None") -> None:
        step = self.contexts.step(call)
        first = len(call.args) + 1
        if step is not None:
            self.steps.append(step)
            first = FUNCTION_AT.get(step.method, first)
        elif handing is not None:
            # `partial(fn, …)` among the arguments of a step.
            first = 0
        self._walk(call.func, call, None)
        for place, argument in enumerate(call.args):
            self._walk(argument, call, (call, place) if place >= first else None)
        for keyword in call.keywords:
            self._walk(keyword, call, (call, len(call.args)) if first <= len(call.args) else None)
