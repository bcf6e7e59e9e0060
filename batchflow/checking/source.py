"""One file of the user's: its tree, its functions and classes, and the lines that silence a rule."""

import ast
import io
import re
import tokenize
import warnings
from collections.abc import Iterator

from batchflow.checking.scope import FunctionNode, Scope

_SILENCE = re.compile(r"#\s*batchflow:\s*ok\b")


class Source:
    """The text of a module, parsed.

    Raises:
        SyntaxError: it is no Python.
    """

    def __init__(self, text: str, path: str) -> None:
        self.path = path
        with warnings.catch_warnings():
            # Whoever wrote the text has seen them when it was imported.
            warnings.simplefilter("ignore")
            self.tree = ast.parse(text)
        self.scope = Scope(self.tree)
        self.silenced = frozenset(_silenced(text))
        self.functions = {it.name: it for it in self.tree.body if isinstance(it, FunctionNode)}
        self._classes = {it.name: it for it in self.tree.body if isinstance(it, ast.ClassDef)}
        self._owners = {
            method: owner
            for owner in ast.walk(self.tree)
            if isinstance(owner, ast.ClassDef)
            for method in owner.body
            if isinstance(method, FunctionNode)
        }

    def function_at(self, name: str, line: int) -> FunctionNode | None:
        """The function of that name that begins in that line, decorators included."""
        for node in ast.walk(self.tree):
            if isinstance(node, FunctionNode) and node.name == name and _first_line(node) == line:
                return node
        return None

    def is_method(self, node: ast.AST) -> bool:
        """Whether the function stands in a class, so that its first parameter is the object."""
        return node in self._owners and not any(
            isinstance(it, ast.Name) and it.id == "staticmethod" for it in self._owners_decorators(node)
        )

    def sibling(self, method: ast.AST, name: str) -> FunctionNode | None:
        """The method of that name in the class of `method`, or in a base of it in this file."""
        owner = self._owners.get(method) if isinstance(method, FunctionNode) else None
        return None if owner is None else self._method(owner, name, set())

    def literal(self, name: str) -> str | None:
        """The text of a constant of the module."""
        values = [it.value for it in self._assigned(name)]
        match values:
            case [ast.Constant(value=str(text))]:
                return text
            case _:
                return None

    def is_context(self, annotation: ast.expr | None) -> bool:
        """Whether a parameter declares itself to be a context: `WorkflowContext[…]`, or an alias of it."""
        match annotation:
            case ast.Subscript(value=value):
                return self.is_context(value)
            case ast.Attribute(attr="WorkflowContext") | ast.Name(id="WorkflowContext"):
                return True
            case ast.Name(id=name):
                return any(self.is_context(it.value) for it in self._assigned(name) if it.value is not annotation)
            case _:
                return False

    def _assigned(self, name: str) -> Iterator[ast.Assign]:
        for node in self.tree.body:
            match node:
                case ast.Assign(targets=[ast.Name(id=target)]) if target == name:
                    yield node
                case _:
                    pass

    def _method(self, owner: ast.ClassDef, name: str, seen: set[ast.ClassDef]) -> FunctionNode | None:
        seen.add(owner)
        for node in owner.body:
            if isinstance(node, FunctionNode) and node.name == name:
                return node
        for base in owner.bases:
            named = base.value if isinstance(base, ast.Subscript) else base
            found = self._classes.get(named.id) if isinstance(named, ast.Name) else None
            method = self._method(found, name, seen) if found is not None and found not in seen else None
            if method is not None:
                return method
        return None

    def _owners_decorators(self, node: ast.AST) -> list[ast.expr]:
        return node.decorator_list if isinstance(node, FunctionNode) else []


def _first_line(node: FunctionNode) -> int:
    return min([node.lineno, *(it.lineno for it in node.decorator_list)])


def _silenced(text: str) -> Iterator[int]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and _SILENCE.search(token.string):
            yield token.start[0]
