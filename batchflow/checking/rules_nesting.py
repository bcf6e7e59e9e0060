"""Steps that are asked for inside of a step."""

import ast
from collections.abc import Iterator

from batchflow.checking.body import Body
from batchflow.checking.finding import Finding
from batchflow.checking.reach import inside

NESTED = "nested-step"


def nested_steps(body: Body) -> Iterator[Finding]:
    """Functions handed to `ctx.run` that use the context's durable methods, and these methods themselves."""
    for handed in body.handed:
        method = body.contexts.method(handed.function)
        if method is not None:
            yield _finding(body, handed.function, ast.unparse(handed.function))
            continue
        for function in inside(body, handed):
            for step in function.steps:
                yield _finding(function, step.call, _spelled(step.name))


def _finding(body: Body, node: ast.expr, what: str) -> Finding:
    message = (
        f"{what} is asked for inside of another step, and steps do not nest; "
        f"let the function return, and ask for it in the durable function itself"
    )
    return Finding(body.source.path, node.lineno, NESTED, message)


def _spelled(name: ast.expr | None) -> str:
    match name:
        case None:
            return "a step"
        case ast.Constant(value=str(text)):
            return f"step '{text}'"
        case _:
            return f"step {ast.unparse(name)}"
