"""Sets: which expressions come in an order that another process does not repeat."""

import ast
from collections.abc import Iterable, Iterator

from batchflow.checking.body import Body
from batchflow.checking.scope import parameters
from batchflow.checking.values import values

COUNTS = frozenset({"builtins.enumerate", "builtins.zip"})

_SETS = frozenset({"builtins.frozenset", "builtins.set"})
_KEEP_ORDER = COUNTS | {
    "builtins.filter",
    "builtins.iter",
    "builtins.list",
    "builtins.map",
    "builtins.reversed",
    "builtins.tuple",
}
_GIVE_SETS = frozenset({"copy", "difference", "intersection", "symmetric_difference", "union"})
_TYPES = _SETS | {
    "collections.abc.MutableSet",
    "collections.abc.Set",
    "typing.AbstractSet",
    "typing.FrozenSet",
    "typing.MutableSet",
    "typing.Set",
}


def set_in(body: Body, expr: ast.expr, seen: frozenset[str] = frozenset()) -> ast.expr | None:
    """The set that an expression has its order from: `ids` in `enumerate(list(ids))`; None where it is no set's."""
    if _is_set(body, expr, seen):
        return expr
    match expr:
        case ast.Call(func=func, args=args) if body.scope.dotted(func) in _KEEP_ORDER:
            return _first(body, args, seen)
        case ast.Starred(value=value):
            return set_in(body, value, seen)
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            return _first(body, (it for it in elements if isinstance(it, ast.Starred)), seen)
        case ast.ListComp(generators=[first, *_]) | ast.GeneratorExp(generators=[first, *_]):
            return set_in(body, first.iter, seen)
        case ast.Name(id=name) if name not in seen and not _is_sorted(body, name):
            return expr if _first(body, values(body, name), seen | {name}) is not None else None
        case _:
            return None


def _first(body: Body, expressions: Iterable[ast.expr], seen: frozenset[str]) -> ast.expr | None:
    return next((found for it in expressions if (found := set_in(body, it, seen)) is not None), None)


def _is_set(body: Body, expr: ast.expr, seen: frozenset[str]) -> bool:
    """Whether it is a set, as far as the function tells. Those of whole numbers come in the same order everywhere."""
    match expr:
        case ast.Set(elts=[only]) if not isinstance(only, ast.Starred):
            return False
        case ast.Set(elts=elements):
            return not all(_is_number(it) for it in elements)
        case ast.SetComp():
            return True
        case ast.Call(func=func, args=[given]) if body.scope.dotted(func) in _SETS:
            return not _are_numbers(body, given)
        case ast.Call(func=ast.Attribute(value=value, attr=attr)) if attr in _GIVE_SETS:
            return _is_set(body, value, seen)
        case ast.BinOp(left=left, op=ast.BitAnd() | ast.BitOr() | ast.BitXor() | ast.Sub(), right=right):
            return _is_set(body, left, seen) or _is_set(body, right, seen)
        case ast.Name(id=name) if name not in seen and any(
            _is_set(body, it, seen | {name}) for it in values(body, name)
        ):
            return True
        case _:
            return any(_names_set(body, it) for it in _declared(body, expr))


def _are_numbers(body: Body, given: ast.expr) -> bool:
    match given:
        case ast.Call(func=func) if body.scope.dotted(func) == "builtins.range":
            return True
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            return all(_is_number(it) for it in elements)
        case _:
            return any(_holds_numbers(it) for it in _declared(body, given))


def _is_number(expr: ast.expr) -> bool:
    return isinstance(expr, ast.Constant) and isinstance(expr.value, int)


def _is_sorted(body: Body, name: str) -> bool:
    """Whether a list is put into order where it stands: `ids.sort()`."""
    return any(
        isinstance(it, ast.Attribute) and it.attr == "sort" and isinstance(it.value, ast.Name) and it.value.id == name
        for it in body.nodes
    )


def _declared(body: Body, expr: ast.expr) -> Iterator[ast.expr]:
    """The type of a parameter or variable, or of the payload of the context."""
    match expr:
        case ast.Name(id=name):
            yield from _annotations(body, name)
        case ast.Attribute(value=ast.Name(id=name), attr="payload"):
            for annotation in _annotations(body, name):
                if isinstance(annotation, ast.Subscript) and body.source.is_context(annotation):
                    yield annotation.slice
        case _:
            pass


def _annotations(body: Body, name: str) -> list[ast.expr]:
    """What is said of the name, where it is given one value; any other may be something else."""
    found = [it.annotation for it in parameters(body.node) if it.arg == name and it.annotation is not None]
    stored = [it for it in body.nodes if isinstance(it, ast.Name) and it.id == name and isinstance(it.ctx, ast.Store)]
    for node in body.nodes:
        match node:
            case ast.AnnAssign(target=ast.Name(id=target) as only, annotation=annotation) if target == name:
                return [annotation] if stored == [only] and not found else []
            case _:
                pass
    return [] if stored else found


def _names_set(body: Body, annotation: ast.expr) -> bool:
    if isinstance(annotation, ast.Subscript):
        return _names_set(body, annotation.value) and not _holds_numbers(annotation)
    return body.scope.dotted(annotation) in _TYPES


def _holds_numbers(annotation: ast.expr) -> bool:
    match annotation:
        case ast.Subscript(slice=ast.Name(id="int") | ast.Tuple(elts=[ast.Name(id="int"), *_])):
            return True
        case _:
            return False
