"""One user file: its tree, the meaning of its names, its functions and classes, and the lines that silence a rule."""

import ast
import builtins
import io
import re
import tokenize
import warnings
from collections.abc import Iterable, Iterator
from typing import TypeAlias

FunctionNode: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
ScopeNode: TypeAlias = FunctionNode | ast.Lambda | ast.Module

_BUILTINS = frozenset(dir(builtins))


class NameScope:
    """The names of one function or module and of those around it."""

    def __init__(self, node: ScopeNode, outer: "NameScope | None" = None) -> None:
        self._outer = outer
        self.imports: dict[str, str] = {}
        self.bound = set[str]() if isinstance(node, ast.Module) else {it.arg for it in parameters(node)}
        for inner in own_nodes(statements(node)):
            self._bind(inner)

    def dotted(self, expr: ast.expr) -> str | None:
        """Return the full name of an expression: `dt.now` is "datetime.datetime.now"; None for the user's own names."""
        match expr:
            case ast.Name(id=name):
                return self._resolve(name)
            case ast.Attribute(value=value, attr=attr):
                owner = self.dotted(value)
                return None if owner is None else f"{owner}.{attr}"
            case _:
                return None

    def is_local(self, name: str) -> bool:
        """Tell if a function, and not the module, binds the name."""
        return self._outer is not None and (name in self.bound or name in self.imports or self._outer.is_local(name))

    def _resolve(self, name: str) -> str | None:
        if name in self.imports:
            return self.imports[name]
        if name in self.bound:
            return None
        if self._outer is not None:
            return self._outer._resolve(name)
        return f"builtins.{name}" if name in _BUILTINS else None

    def _bind(self, node: ast.AST) -> None:
        match node:
            case ast.Import(names=names):
                for alias in names:
                    first = alias.name.partition(".")[0]
                    self.imports[alias.asname or first] = alias.name if alias.asname else first
            case ast.ImportFrom(module=module, names=names, level=level):
                for alias in names:
                    self.imports[alias.asname or alias.name] = f"{'.' * level}{module or ''}.{alias.name}"
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()) | ast.FunctionDef(name=name):
                self.bound.add(name)
            case ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name) | ast.ExceptHandler(name=str(name)):
                self.bound.add(name)
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
                self.bound.add(name)
            case ast.Lambda():
                self.bound.update(it.arg for it in parameters(node))
            case _:
                pass


def parameters(node: FunctionNode | ast.Lambda) -> list[ast.arg]:
    """Return all parameters, in order."""
    args = node.args
    starred = [it for it in (args.vararg, args.kwarg) if it is not None]
    return [*args.posonlyargs, *args.args, *args.kwonlyargs, *starred]


def statements(node: ScopeNode) -> list[ast.AST]:
    """Return what a call of the function executes."""
    return [node.body] if isinstance(node, ast.Lambda) else list(node.body)


def own_nodes(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Yield all nodes of one scope in order, without the bodies of functions and classes defined in it."""
    for node in nodes:
        yield node
        yield from own_nodes(children(node))


def children(node: ast.AST) -> Iterable[ast.AST]:
    """Return the children of the node that are executed in its own scope."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            defaults = [it for it in node.args.kw_defaults if it is not None]
            return [*node.decorator_list, *node.args.defaults, *defaults]
        case ast.ClassDef():
            return [*node.decorator_list, *node.bases]
        case ast.AnnAssign():
            return [node.target] if node.value is None else [node.target, node.value]
        case _:
            return ast.iter_child_nodes(node)


_SILENCE = re.compile(r"#\s*batchflow:\s*ok\b")


class SourceFile:
    """The text of a module, parsed.

    Raises:
        SyntaxError: the text is not Python.
    """

    def __init__(self, text: str, path: str) -> None:
        self.path = path
        with warnings.catch_warnings():
            # The import of the module has shown them already.
            warnings.simplefilter("ignore")
            self.tree = ast.parse(text)
        self.scope = NameScope(self.tree)
        self.silenced = frozenset(_silenced(text))
        self.functions = {it.name: it for it in self.tree.body if isinstance(it, FunctionNode)}
        self._classes = {it.name: it for it in self.tree.body if isinstance(it, ast.ClassDef)}
        self._classes_by_method = {
            method: owner
            for owner in ast.walk(self.tree)
            if isinstance(owner, ast.ClassDef)
            for method in owner.body
            if isinstance(method, FunctionNode)
        }

    def function_at(self, name: str, line: int) -> FunctionNode | None:
        """Return the function of that name that begins on that line, decorators included."""
        for node in ast.walk(self.tree):
            if isinstance(node, FunctionNode) and node.name == name and _first_line(node) == line:
                return node
        return None

    def is_method(self, node: ast.AST) -> bool:
        """Tell if the function is a method, so that its first parameter is the object."""
        return node in self._classes_by_method and not any(
            isinstance(it, ast.Name) and it.id == "staticmethod" for it in self._decorators(node)
        )

    def sibling(self, method: ast.AST, name: str) -> FunctionNode | None:
        """Return the method of that name in the class of `method`, or in one of its bases in this file."""
        owner = self._classes_by_method.get(method) if isinstance(method, FunctionNode) else None
        return None if owner is None else self._method(owner, name, set())

    def literal(self, name: str) -> str | None:
        """Return the text of a module constant."""
        values = [it.value for it in self._assigned(name)]
        match values:
            case [ast.Constant(value=str(text))]:
                return text
            case _:
                return None

    def is_context(self, annotation: ast.expr | None) -> bool:
        """Tell if an annotation declares a context: `WorkflowContext[…]`, or an alias of it."""
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

    def _decorators(self, node: ast.AST) -> list[ast.expr]:
        return node.decorator_list if isinstance(node, FunctionNode) else []


def _first_line(node: FunctionNode) -> int:
    return min([node.lineno, *(it.lineno for it in node.decorator_list)])


def _silenced(text: str) -> Iterator[int]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and _SILENCE.search(token.string):
            yield token.start[0]
