"""`pathlib`: which expressions are paths of files, and which of their methods go to the disk."""

import ast
import re

from batchflow.checking.body import Body
from batchflow.checking.scope import parameters

_PATHS = frozenset({"pathlib.Path", "pathlib.PosixPath", "pathlib.WindowsPath", "anyio.Path"})
_ACCESS = re.compile(
    r"absolute|chmod|cwd|exists|expanduser|glob|hardlink_to|home|is_dir|is_file|is_symlink|lstat|mkdir|open|readlink|"
    r"rename|replace|resolve|rglob|rmdir|samefile|stat|symlink_to|touch|unlink|walk"
)
_ACCESS_OF_ANYTHING = frozenset({"iterdir", "read_bytes", "read_text", "write_bytes", "write_text"})
"""Nothing but a path has such methods, so that it need not be known to be one."""


def is_file_access(body: Body, call: ast.Call) -> bool:
    """Whether the call is a method of a path that reads, writes or looks at a file."""
    match call.func:
        case ast.Attribute(attr=attr) if attr in _ACCESS_OF_ANYTHING:
            return True
        case ast.Attribute(value=value, attr=attr) if _ACCESS.fullmatch(attr):
            return body.scope.dotted(value) in _PATHS or _is_path(body, value, frozenset())
        case _:
            return False


def _is_path(body: Body, expr: ast.expr, seen: frozenset[str]) -> bool:
    match expr:
        case ast.Call(func=func) if body.scope.dotted(func) in _PATHS:
            return True
        case ast.Call(func=ast.Attribute(value=value)) | ast.Attribute(value=value, attr="parent"):
            return _is_path(body, value, seen)
        case ast.BinOp(left=left, op=ast.Div()):
            return _is_path(body, left, seen)
        case ast.Name(id=name) if name not in seen:
            return _is_named_path(body, name, seen | {name})
        case _:
            return False


def _is_named_path(body: Body, name: str, seen: frozenset[str]) -> bool:
    if isinstance(body.node, ast.Lambda):
        annotations = []
    else:
        annotations = [it.annotation for it in parameters(body.node) if it.arg == name]
    if any(it is not None and body.scope.dotted(it) in _PATHS for it in annotations):
        return True
    nodes = body.nodes if body.scope.is_local(name) else body.source.tree.body
    values = [it.value for it in nodes if isinstance(it, ast.Assign) and _names(it, name)]
    return bool(values) and all(_is_path(body, value, seen) for value in values)


def _names(node: ast.Assign, name: str) -> bool:
    match node.targets:
        case [ast.Name(id=target)]:
            return target == name
        case _:
            return False
