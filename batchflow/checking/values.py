"""The values of expressions, as far as the source shows them: variables assigned once, sets, paths of files."""

import ast
import re
from collections.abc import Iterable, Iterator

from batchflow.checking.function import FunctionBody
from batchflow.checking.source import parameters


def assigned_values(body: FunctionBody, name: str) -> list[ast.expr]:
    """Return the one expression assigned to the variable; empty if that is not known."""
    stored = [it for it in body.nodes if isinstance(it, ast.Name) and it.id == name and isinstance(it.ctx, ast.Store)]
    found: list[ast.expr] = []
    for node in body.nodes:
        match node:
            case ast.Assign(targets=[ast.Name(id=target)], value=value) if target == name:
                found.append(value)
            case ast.AnnAssign(target=ast.Name(id=target), value=ast.expr() as value) if target == name:
                found.append(value)
            case _:
                pass
    return found if len(stored) == len(found) == 1 and not _mentions(found[0], name) else []


def _mentions(expr: ast.expr, name: str) -> bool:
    return any(isinstance(it, ast.Name) and it.id == name for it in ast.walk(expr))


POSITIONAL = frozenset({"builtins.enumerate", "builtins.zip"})

_SET_TYPES = frozenset({"builtins.frozenset", "builtins.set"})
_ORDER_PRESERVING = POSITIONAL | {
    "builtins.filter",
    "builtins.iter",
    "builtins.list",
    "builtins.map",
    "builtins.reversed",
    "builtins.tuple",
}
_SET_METHODS = frozenset({"copy", "difference", "intersection", "symmetric_difference", "union"})
_SET_ANNOTATIONS = _SET_TYPES | {
    "collections.abc.MutableSet",
    "collections.abc.Set",
    "typing.AbstractSet",
    "typing.FrozenSet",
    "typing.MutableSet",
    "typing.Set",
}


def unordered_set_of(body: FunctionBody, expr: ast.expr, seen: frozenset[str] = frozenset()) -> ast.expr | None:
    """Return the set that gives an expression its order: `ids` in `enumerate(list(ids))`; None if no set does."""
    if _is_set(body, expr, seen):
        return expr
    match expr:
        case ast.Call(func=func, args=args) if body.scope.dotted(func) in _ORDER_PRESERVING:
            return _first_set(body, args, seen)
        case ast.Starred(value=value):
            return unordered_set_of(body, value, seen)
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            return _first_set(body, (it for it in elements if isinstance(it, ast.Starred)), seen)
        case ast.ListComp(generators=[first, *_]) | ast.GeneratorExp(generators=[first, *_]):
            return unordered_set_of(body, first.iter, seen)
        case ast.Name(id=name) if name not in seen and not _is_sorted(body, name):
            return expr if _first_set(body, assigned_values(body, name), seen | {name}) is not None else None
        case _:
            return None


def _first_set(body: FunctionBody, expressions: Iterable[ast.expr], seen: frozenset[str]) -> ast.expr | None:
    return next((found for it in expressions if (found := unordered_set_of(body, it, seen)) is not None), None)


def _is_set(body: FunctionBody, expr: ast.expr, seen: frozenset[str]) -> bool:
    """Tell if the expression is known to be a set. Sets of integers do not count: their order never varies."""
    match expr:
        case ast.Set(elts=[only]) if not isinstance(only, ast.Starred):
            return False
        case ast.Set(elts=elements):
            return not all(_is_number(it) for it in elements)
        case ast.SetComp():
            return True
        case ast.Call(func=func, args=[given]) if body.scope.dotted(func) in _SET_TYPES:
            return not _are_numbers(body, given)
        case ast.Call(func=ast.Attribute(value=value, attr=attr)) if attr in _SET_METHODS:
            return _is_set(body, value, seen)
        case ast.BinOp(left=left, op=ast.BitAnd() | ast.BitOr() | ast.BitXor() | ast.Sub(), right=right):
            return _is_set(body, left, seen) or _is_set(body, right, seen)
        case ast.Name(id=name) if name not in seen and any(
            _is_set(body, it, seen | {name}) for it in assigned_values(body, name)
        ):
            return True
        case _:
            return any(_names_set(body, it) for it in _annotations_of(body, expr))


def _are_numbers(body: FunctionBody, given: ast.expr) -> bool:
    match given:
        case ast.Call(func=func) if body.scope.dotted(func) == "builtins.range":
            return True
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            return all(_is_number(it) for it in elements)
        case _:
            return any(_holds_numbers(it) for it in _annotations_of(body, given))


def _is_number(expr: ast.expr) -> bool:
    return isinstance(expr, ast.Constant) and isinstance(expr.value, int)


def _is_sorted(body: FunctionBody, name: str) -> bool:
    """Tell if a list is sorted in place: `ids.sort()`."""
    return any(
        isinstance(it, ast.Attribute) and it.attr == "sort" and isinstance(it.value, ast.Name) and it.value.id == name
        for it in body.nodes
    )


def _annotations_of(body: FunctionBody, expr: ast.expr) -> Iterator[ast.expr]:
    """Yield the annotation of a parameter or variable, or of the payload of the context."""
    match expr:
        case ast.Name(id=name):
            yield from _annotations(body, name)
        case ast.Attribute(value=ast.Name(id=name), attr="payload"):
            for annotation in _annotations(body, name):
                if isinstance(annotation, ast.Subscript) and body.source.is_context(annotation):
                    yield annotation.slice
        case _:
            pass


def _annotations(body: FunctionBody, name: str) -> list[ast.expr]:
    """Return the annotations of a name that has one value; a second value may have another type."""
    found = [it.annotation for it in parameters(body.node) if it.arg == name and it.annotation is not None]
    stored = [it for it in body.nodes if isinstance(it, ast.Name) and it.id == name and isinstance(it.ctx, ast.Store)]
    for node in body.nodes:
        match node:
            case ast.AnnAssign(target=ast.Name(id=target) as only, annotation=annotation) if target == name:
                return [annotation] if stored == [only] and not found else []
            case _:
                pass
    return [] if stored else found


def _names_set(body: FunctionBody, annotation: ast.expr) -> bool:
    if isinstance(annotation, ast.Subscript):
        return _names_set(body, annotation.value) and not _holds_numbers(annotation)
    return body.scope.dotted(annotation) in _SET_ANNOTATIONS


def _holds_numbers(annotation: ast.expr) -> bool:
    match annotation:
        case ast.Subscript(slice=ast.Name(id="int") | ast.Tuple(elts=[ast.Name(id="int"), *_])):
            return True
        case _:
            return False


_PATH_TYPES = frozenset({"pathlib.Path", "pathlib.PosixPath", "pathlib.WindowsPath", "anyio.Path"})
_FILE_METHODS = re.compile(
    r"absolute|chmod|cwd|exists|expanduser|glob|hardlink_to|home|is_dir|is_file|is_symlink|lstat|mkdir|open|readlink|"
    r"rename|replace|resolve|rglob|rmdir|samefile|stat|symlink_to|touch|unlink|walk"
)
_PATH_ONLY_METHODS = frozenset({"iterdir", "read_bytes", "read_text", "write_bytes", "write_text"})
"""Only paths have these methods, so the type of the object need not be known."""


def is_file_access(body: FunctionBody, call: ast.Call) -> bool:
    """Tell if the call is a method of a path that accesses a file."""
    match call.func:
        case ast.Attribute(attr=attr) if attr in _PATH_ONLY_METHODS:
            return True
        case ast.Attribute(value=value, attr=attr) if _FILE_METHODS.fullmatch(attr):
            return body.scope.dotted(value) in _PATH_TYPES or _is_path(body, value, frozenset())
        case _:
            return False


def _is_path(body: FunctionBody, expr: ast.expr, seen: frozenset[str]) -> bool:
    match expr:
        case ast.Call(func=func) if body.scope.dotted(func) in _PATH_TYPES:
            return True
        case ast.Call(func=ast.Attribute(value=value)) | ast.Attribute(value=value, attr="parent"):
            return _is_path(body, value, seen)
        case ast.BinOp(left=left, op=ast.Div()):
            return _is_path(body, left, seen)
        case ast.Name(id=name) if name not in seen:
            return _is_named_path(body, name, seen | {name})
        case _:
            return False


def _is_named_path(body: FunctionBody, name: str, seen: frozenset[str]) -> bool:
    if isinstance(body.node, ast.Lambda):
        annotations = []
    else:
        annotations = [it.annotation for it in parameters(body.node) if it.arg == name]
    if any(it is not None and body.scope.dotted(it) in _PATH_TYPES for it in annotations):
        return True
    nodes = body.nodes if body.scope.is_local(name) else body.source.tree.body
    values = [it.value for it in nodes if isinstance(it, ast.Assign) and _assigns(it, name)]
    return bool(values) and all(_is_path(body, value, seen) for value in values)


def _assigns(node: ast.Assign, name: str) -> bool:
    match node.targets:
        case [ast.Name(id=target)]:
            return target == name
        case _:
            return False
