"""What a variable stands for, where a function assigns it once."""

import ast

from batchflow.checking.body import Body


def values(body: Body, name: str) -> list[ast.expr]:
    """What is assigned to the variable, where that is one expression; nothing where that is not known."""
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
