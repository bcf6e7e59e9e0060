"""Files and functions stay small enough to be read in one go."""

import ast
from collections.abc import Iterator

from tests.house.sources import FOLDERS, Source, sources

FILE_LINES = 400
FUNCTION_LINES = 60
PARAMETERS = 8

# What may be larger, with the reason: "path", "path::function" or "path::Class.method".
EXCEPTIONS: dict[str, str] = {
    "batchflow/app.py": "one class: the workflows of an app, its life, and the operations on its runs",
    "batchflow/core/ports.py": "the ports, each with what it promises: recorder, handler, observer, runtime, clock",
    "batchflow/core/store.py": "one protocol: all that a store promises, read from its first line to its last",
    "batchflow/stores/base.py": "one base of all stores: group commit, the verbs of a group, rows, slices",
    "batchflow/testing/environment.py": "one face of a test: its stubs, its faults, its time and what happened",
    "batchflow/stores/redis/store.py": "one class: the verbs of a store, and the claims that it has answered",
    "batchflow/stores/redis/protocol.py": "one protocol: its two directions agree field by field",
    "tests/stores/test_state_machine.py": "one machine: its rules share what they know of each other",
    "tests/stores/model.py": "one model of all that a store promises, read from its first line to its last",
    "tests/stores/memory.py": "one store of plain dicts, which an author of another reads as a whole",
    "tests/stores/test_redis.py": "what is Redis's own, by the parts of a server that can be wrong",
    "batchflow/serve/context.py": "the public face of a durable function: its overloads and docstrings",
    "batchflow/serve/execution.py": "one machine: each of its methods reads what the others have left",
    "batchflow/serve/execution.py::Execution.run_step": "every item runs three of them, and a further call costs time",
    "batchflow/app.py::Batchflow.__init__": "each setting that code may fix is a parameter that an editor can show",
    "batchflow/app.py::Batchflow.batch": "each option of the short form is a parameter that an editor can show",
    "batchflow/app.py::Batchflow.serve": "each option of a function is a parameter that an editor can show",
    "batchflow/serve/context.py::WorkflowContext.call": "each option of a call is a parameter that an editor can show",
    "batchflow/serve/context.py::WorkflowContext.invoke": "each option is a parameter that an editor can show",
    "batchflow/serve/functions.py::ServedFunction.trigger": "each option is a parameter that an editor can show",
    "batchflow/serve/declaration.py::serve_function": "the options of a function, checked by Batchflow.serve",
    "batchflow/batch/bound.py::Workflow.trigger": "each option of a trigger is a parameter that an editor can show",
    "batchflow/engine/engine.py": "one class: the access of a process to its store, and the life of its worker",
    "batchflow/batch/schedules.py::ScheduleAdmin.create": "each option of a schedule is a parameter for editors",
    "batchflow/http/dead_letters.py::DeadLetterEndpoints.list": "each part of the filter is a query parameter",
    "batchflow/batch/function.py::function_workflow": "so is each option of the short form, for editors",
}

type_of_function = (ast.FunctionDef, ast.AsyncFunctionDef)


def functions(tree: ast.AST, owner: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, type_of_function):
            yield f"{owner}{node.name}", node
            yield from functions(node, f"{owner}{node.name}.")
        elif isinstance(node, ast.ClassDef):
            yield from functions(node, f"{owner}{node.name}.")
        else:
            yield from functions(node, owner)


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    positional = [*function.args.posonlyargs, *function.args.args]
    if positional and positional[0].arg in {"self", "cls"}:
        del positional[0]
    return len(positional) + len(function.args.kwonlyargs)


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def oversized(source: Source) -> Iterator[tuple[str, str]]:
    lines = len(source.text.splitlines())
    if lines > FILE_LINES:
        yield source.path, f"{lines} lines, at most {FILE_LINES}"
    for name, function in functions(source.tree):
        if length(function) > FUNCTION_LINES:
            yield f"{source.path}::{name}", f"{length(function)} lines, at most {FUNCTION_LINES}"
        if parameters(function) > PARAMETERS:
            yield f"{source.path}::{name}", f"{parameters(function)} parameters, at most {PARAMETERS}"


def found() -> list[tuple[str, str]]:
    return [case for source in sources(*FOLDERS) for case in oversized(source)]


def test_sizes_stay_within_the_limits() -> None:
    """A file has at most 400 lines, a function 60 lines and 8 parameters."""
    assert [f"{name}: {size}" for name, size in found() if name not in EXCEPTIONS] == []


def test_exceptions_are_needed_and_have_a_reason() -> None:
    """An exception goes when the code shrinks, and says why it stands until then."""
    assert sorted(EXCEPTIONS) == sorted({name for name, _ in found()} & set(EXCEPTIONS))
    assert all(len(reason) > 20 for reason in EXCEPTIONS.values())


def test_the_measure_sees_nested_and_bound_functions() -> None:
    """Methods and nested functions are measured too, and `self` is no parameter."""
    many = ", ".join(f"p{number}" for number in range(PARAMETERS))
    text = f"class A:\n    def fine(self, {many}): ...\n    async def wide(self, {many}, *, one_more):\n"
    text += "        def long():\n" + "            pass\n" * FUNCTION_LINES
    source = Source(path="a.py", text=text, tree=ast.parse(text))
    assert [name for name, _ in oversized(source)] == ["a.py::A.wide", "a.py::A.wide", "a.py::A.wide.long"]
