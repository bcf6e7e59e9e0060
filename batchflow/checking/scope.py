"""What a name stands for where it is used: something imported, a builtin, or something of the user's own."""

import ast
import builtins
from collections.abc import Iterable, Iterator
from typing import TypeAlias

FunctionNode: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
ScopeNode: TypeAlias = FunctionNode | ast.Lambda | ast.Module

_BUILTINS = frozenset(dir(builtins))


class Scope:
    """The names of one function or module, and those around it."""

    def __init__(self, node: ScopeNode, outer: "Scope | None" = None) -> None:
        self._outer = outer
        self.imports: dict[str, str] = {}
        self.bound = set[str]() if isinstance(node, ast.Module) else {it.arg for it in parameters(node)}
        for inner in own_nodes(statements(node)):
            self._take(inner)

    def dotted(self, expr: ast.expr) -> str | None:
        """What an expression names, in full: `dt.now` is "datetime.datetime.now"; None for names of the user's own."""
        match expr:
            case ast.Name(id=name):
                return self._meaning(name)
            case ast.Attribute(value=value, attr=attr):
                owner = self.dotted(value)
                return None if owner is None else f"{owner}.{attr}"
            case _:
                return None

    def is_local(self, name: str) -> bool:
        """Whether a function, and not the module, says what the name stands for."""
        return self._outer is not None and (name in self.bound or name in self.imports or self._outer.is_local(name))

    def _meaning(self, name: str) -> str | None:
        if name in self.imports:
            return self.imports[name]
        if name in self.bound:
            return None
        if self._outer is not None:
            return self._outer._meaning(name)
        return f"builtins.{name}" if name in _BUILTINS else None

    def _take(self, node: ast.AST) -> None:
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
    """All parameters, in their order."""
    args = node.args
    starred = [it for it in (args.vararg, args.kwarg) if it is not None]
    return [*args.posonlyargs, *args.args, *args.kwonlyargs, *starred]


def statements(node: ScopeNode) -> list[ast.AST]:
    """What is carried out when the function is called."""
    return [node.body] if isinstance(node, ast.Lambda) else list(node.body)


def own_nodes(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """All nodes of one scope, in their order; of a function or class in it only what stands above its body."""
    for node in nodes:
        yield node
        yield from own_nodes(children(node))


def children(node: ast.AST) -> Iterable[ast.AST]:
    """What is carried out as a part of the node, in the scope that it stands in."""
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
